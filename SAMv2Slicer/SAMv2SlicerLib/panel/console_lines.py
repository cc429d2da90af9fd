"""The line for Slicer's Python console that does what a button just did; in the log, to be copied into a script."""

from __future__ import annotations

from typing import Any, Sequence

LOGIC = 'slicer.util.getModuleLogic("SAMv2Slicer")'


def matchPoints(template, query, points, method: str, model: str, device: str, inside=None, further=()) -> str:
    """Of one match."""
    segment = None if inside is None else (inside[0].GetID(), inside[1])
    others = [(volume.GetID(), marks.GetID()) for volume, marks in further]
    options = {"method": method, "model": model, "device": device, "inside": segment, "further": others}
    return _call("matchPoints", [template, query, points], **options)


def trackLesions(baseline, followUps: Sequence[Any], sources: Sequence[Any], model: str, device: str) -> str:
    """Of one run of the tracker."""
    return _call("trackLesions", [baseline, list(followUps), list(sources)], model=model, device=device)


def registerVolumes(fixed, moving, transform: str, model: str, device: str, deformable: bool) -> str:
    """Of one registration."""
    options = {"transform": transform, "model": model, "device": device, "deformable": deformable}
    return _call("registerVolumes", [fixed, moving], **options)


def findLandmarks(volume, model: str, device: str) -> str:
    """Of one search for named landmarks."""
    return _call("findLandmarks", [volume], model=model, device=device)


DEFAULTS = {
    "method": "fixed-point",
    "model": "auto",
    "device": "auto",
    "inside": None,
    "further": [],
    "transform": "rigid",
    "deformable": False,
}


def _call(name: str, nodes: Sequence[Any], **options: Any) -> str:
    arguments = [_reference(node) for node in nodes]
    arguments += [f"{key}={value!r}" for key, value in options.items() if value != DEFAULTS[key]]
    return f"{LOGIC}.{name}({', '.join(arguments)})"


def _reference(node) -> str:
    """Nodes by ID, which is unique; names need not be."""
    if isinstance(node, list):
        return f"[{', '.join(_reference(item) for item in node)}]"
    return repr(node.GetID())
