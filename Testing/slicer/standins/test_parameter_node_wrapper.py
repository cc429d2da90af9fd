"""The stand-in for Slicer's parameter node wrapper against Slicer's own, where a checkout of Slicer is at hand.

``SAMV2_SLICER_SOURCE=<checkout of Slicer> pytest Testing/slicer/standins``; its wrapper is plain Python and runs here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

HERE = Path(__file__).resolve().parent
SOURCE = os.environ.get("SAMV2_SLICER_SOURCE", "")

CODE = f"""
import json, sys
sys.path[:0] = [{str(HERE.parents[2] / "SAMv2Slicer")!r}, {str(HERE.parent)!r}, {str(HERE.parents[2])!r}]
from standins.install import install
slicer = install()
from PySide6 import QtWidgets
from __feature__ import true_property
from standins.pythonqt import guarded
from SAMv2SlicerLib.panel.parameters import MatchMethod, SAMv2SlicerParameterNode
scene, facts = slicer.mrmlScene, dict()
node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
p = SAMv2SlicerParameterNode(node)

def refused(name, value):
    try:
        setattr(p, name, value)
    except (TypeError, ValueError) as error:
        return type(error).__name__

names = sorted(SAMv2SlicerParameterNode.allParameters)
facts["names"] = names
facts["defaults"] = [str(getattr(p, name)) for name in names if not name.endswith(("Volumes", "Sources"))]
facts["lists"] = [len(p.followUpVolumes), len(p.lesionSources)]
facts["stored"] = {{name: node.GetParameter(name) for name in sorted(node.GetParameterNames())}}
p.method, p.startsPerAxis, p.matchedAbove, p.jumpViews, p.model = MatchMethod.NEAREST, 5, 0.5, False, "lite-ct"
facts["written"] = {{name: node.GetParameter(name) for name in sorted(node.GetParameterNames())}}
facts["refused"] = [refused("startsPerAxis", 10), refused("startsPerAxis", "x"), refused("templateVolume", node)]
a, b = (scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab")
p.templateVolume, p.followUpVolumes = a, [a, b]
facts["list of nodes"] = [volume.GetName() for volume in p.followUpVolumes]
facts["is a list"] = isinstance(p.followUpVolumes, list)
scene.RemoveNode(a)
facts["removed"] = [p.templateVolume is None, [volume and volume.GetName() for volume in p.followUpVolumes]]
p.followUpVolumes = []
facts["emptied"] = [len(p.followUpVolumes), sorted(name for name in node.GetParameterNames() if "followUp" in name)]
node.SetParameter("method", "FIXED_POINT")
facts["follows the node"] = p.method.name
box, check, spin = (guarded(getattr(QtWidgets, name))() for name in ("QComboBox", "QCheckBox", "QSpinBox"))
tag = p.connectParametersToGui({{"method": box, "jumpViews": check, "startsPerAxis": spin}})
facts["shown"] = [box.count, box.currentIndex, check.checked, spin.value, spin.minimum, spin.maximum]
box.currentIndex, check.checked, spin.value = 1, True, 7
facts["from widgets"] = [p.method.name, p.jumpViews, p.startsPerAxis]
p.startsPerAxis = 3
facts["to widgets"] = spin.value
p.disconnectGui(tag)
spin.value = 9
facts["unbound"] = p.startsPerAxis
print("FACTS" + json.dumps(facts))
"""


def facts(source):
    environment = {**os.environ, "SLICER_SOURCE": source}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FACTS")]
    assert lines, done.stderr
    return json.loads(lines[-1][len("FACTS") :])


@pytest.mark.skipif(not SOURCE, reason="SAMV2_SLICER_SOURCE names no checkout of Slicer")
def test_the_stand_in_does_what_slicers_own_wrapper_does():
    assert facts("") == facts(SOURCE)
