"""The parts of the SAMv2 module for 3D Slicer; importing any of them needs neither PyTorch nor a main window."""
