"""Slicer's own process while another one computes: PyTorch is never loaded there, since that takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

ROOT = Path(__file__).resolve().parents[3]

CODE = """
import sys
sys.modules["torch"] = None  # importing it is an error
sys.path[:0] = [{harness!r}, {module!r}, {root!r}]
from standins.install import install
install()
import numpy as np
from SAMv2Core.io.volume import Volume
from SAMv2Core.tracking.presence import part_around
from SAMv2SlicerLib.track import looking, tracker
from SAMv2SlicerLib.work import lesion_engine, remote_engine
lesion = lesion_engine.coreLesion(lesion_engine.LesionInput("L1", np.zeros(3), 9.0))
assert lesion_engine.coreVerified(lesion_engine.VerifiedInput("L1", 0, np.zeros(3))).study == 1
part_around(lesion, np.zeros(3), Volume(np.zeros((9, 9, 9), np.int16), np.eye(4)))
assert "scipy.signal" not in sys.modules, "half a second for the window"
print("done")
"""


def test_lesions_and_decisions_are_handed_over_without_pytorch():
    pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
    code = CODE.format(harness=str(ROOT / "Testing/slicer"), module=str(ROOT / "SAMv2Slicer"), root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("done"), done.stderr[-2000:]
