"""Headless Slicer: follow lesions through later scans, with the options of ``samv2 track``.

::

    Slicer --no-splash --no-main-window --python-script SAMv2Slicer/Scripts/track.py -- \\
        --baseline A.nii.gz --follow-up B.nii.gz C.nii.gz --lesions L.csv --output OUT.csv
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
    headless.runAndExit("track")
