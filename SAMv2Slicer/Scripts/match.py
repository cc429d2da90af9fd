"""Headless Slicer: find the points of one scan in another, with the options of ``samv2 match``.

::

    Slicer --no-splash --no-main-window --python-script SAMv2Slicer/Scripts/match.py -- \\
        --template A.nii.gz --query B.nii.gz --points P.mrk.json --output M.mrk.json
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
    headless.runAndExit("match")
