"""SimpleITK kept quiet.

ITK reports on stderr what its exceptions say again; users of the command line see one line of cause and one
of remedy.
"""

from __future__ import annotations

import contextlib
from typing import Iterator

import SimpleITK as sitk


@contextlib.contextmanager
def quiet_itk() -> Iterator[None]:
    """Keep ITK's own warnings off stderr inside the block."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
