"""What users paste when they report a bug: versions and the log, without the names of scans, files or patients."""

from __future__ import annotations

import os
import platform
import re
import sys
from typing import List

import slicer

PRIVATE_CLASSES = (
    "vtkMRMLVolumeNode",
    "vtkMRMLMarkupsNode",
    "vtkMRMLSegmentationNode",
    "vtkMRMLTransformNode",
    "vtkMRMLTableNode",
)


def report(log: str, model: str, device: str, torchState: str) -> str:
    """The whole report; ``log`` as the panel shows it."""
    return "\n".join([*versions(model, device, torchState), "", withoutNames(log)])


def versions(model: str, device: str, torchState: str) -> List[str]:
    """What runs here, a line each."""
    import SAMv2Core

    return [
        f"SAMv2 {SAMv2Core.__version__}",
        f"Slicer {getattr(slicer.app, 'applicationVersion', '?')}",
        f"Python {platform.python_version()} on {platform.platform()}",
        f"PyTorch {getattr(sys.modules.get('torch'), '__version__', torchState)}",
        f"Model {model}, device {device}",
    ]


def withoutNames(text: str) -> str:
    """A text with the names of the scene's nodes, of their points and of folders replaced by what they are."""
    for name, kind in _names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", kind, text)
    text = re.sub(r"(PatientID[^(]*)\([^)]*\)", r"\1(...)", text)
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][^\s:;,'\"()\\/]+){2,}", "<path>", text)


def _names():
    """(name, replacement), longest names first, so that no part of another name is replaced alone."""
    found = {}
    scene = slicer.mrmlScene
    for n in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(n)
        if not any(node.IsA(name) for name in PRIVATE_CLASSES):
            continue
        kind = node.GetNodeTagName()
        found.setdefault(node.GetName() or "", f"<{kind} {len(found) + 1}>")
        if node.IsA("vtkMRMLMarkupsNode"):
            for index in range(node.GetNumberOfControlPoints()):
                found.setdefault(node.GetNthControlPointLabel(index), f"<point {len(found) + 1}>")
    home = os.path.expanduser("~")
    if len(home) > 1:
        found[home] = "~"
    return sorted(((name, kind) for name, kind in found.items() if name), key=lambda item: -len(item[0]))
