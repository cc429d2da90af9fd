"""Headless Slicer: align one scan to another, with the options of ``samv2 register``.

::

    Slicer --no-splash --no-main-window --python-script SAMv2Slicer/Scripts/register.py -- \\
        --fixed CT.nii.gz --moving MR.nii.gz --output T.h5
"""

import os
import sys

try:
    from SAMv2SlicerLib import headless
except ImportError:  # a source checkout whose module Slicer has not loaded
    _module = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:0] = [_module, os.path.dirname(_module)]
    from SAMv2SlicerLib import headless

if __name__ == "__main__":
    headless.runAndExit("register")
