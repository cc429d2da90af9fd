"""Headless Slicer: find named landmarks in a scan, with the options of ``samv2 landmarks``.

::

    Slicer --no-splash --no-main-window --python-script SAMv2Slicer/Scripts/landmarks.py -- \\
        --image A.nii.gz --output A.mrk.json
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
    headless.runAndExit("landmarks")
