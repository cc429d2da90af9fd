"""A short label beside each lesion's line, such as "L2 16.6 mm"; beside a finding, which has its name, only the size.

Slicer writes the name of a line, a colon and its length in the format of the application's unit of length ("L2?:
16.60mm"), and computes that format anew with each length. So while the module is shown, the label stands at the line's
first end instead, kept up with the length; what was there before is written beside the line, and comes back when the
module is left, when the scene is saved, or when one that was saved meanwhile is loaded: nobody sees a length that no
longer follows its line.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Iterable

import numpy as np
import slicer
import slicer.util
import vtk

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.while_shown import WhileShown

ATTRIBUTE = "SAMv2.usersLabel"
"""Of a line: its label as it was before (JSON)."""

EVENTS = (
    vtk.vtkCommand.ModifiedEvent,  # its name
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
)


class LineLabels(WhileShown):
    """Labels the lines that are lesions, and no others.

    :param lines: gives them.
    """

    def __init__(self, lines: Callable[[], Iterable[Any]]) -> None:
        super().__init__()
        self._lines = lines

    def change(self) -> None:
        wanted = {node.GetID() for node in self._lines()}
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode"):
            if node.GetID() not in wanted:
                _giveBack(node)
                continue
            for event in EVENTS:
                if not self.hasObserver(node, event, self._onChanged):
                    self.addObserver(node, event, self._onChanged)
            _label(node)

    def giveBack(self) -> None:
        release()

    def _onChanged(self, caller=None, event=None) -> None:
        if self.isActive and caller.GetAttribute(ATTRIBUTE) is not None:
            _label(caller)


def release() -> None:
    """Give all lines the labels that they had; also those of a scene that was saved while the module was shown."""
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode"):
        _giveBack(node)


def _label(node) -> None:
    display = node.GetDisplayNode()
    if display is None or len(node_geometry.definedPointIndices(node)) != 2:  # still being drawn
        return
    if node.GetAttribute(ATTRIBUTE) is None:
        before = {
            "labels": [node.GetNthControlPointLabel(n) for n in range(2)],
            "shown": [bool(display.GetPropertiesLabelVisibility()), bool(display.GetPointLabelsVisibility())],
        }
        node.SetAttribute(ATTRIBUTE, json.dumps(before))
    ends = node_geometry.pointsWorld(node, (0, 1))
    write = texts.findingLineLabel if match_list.isLesionLine(node) else texts.lineLabel
    _put(node, [write(node.GetName(), float(np.linalg.norm(ends[1] - ends[0]))), ""], [False, True])


def _giveBack(node) -> None:
    text = node.GetAttribute(ATTRIBUTE)
    if text is None:
        return
    node.RemoveAttribute(ATTRIBUTE)
    try:
        before = json.loads(text)
        _put(node, [str(label) for label in before["labels"]], [bool(shown) for shown in before["shown"]])
    except (ValueError, KeyError, TypeError):  # a damaged scene
        _put(node, ["", ""], [True, False])


def _put(node, labels, shown) -> None:
    for n, label in enumerate(labels[: node.GetNumberOfControlPoints()]):
        if node.GetNthControlPointLabel(n) != label:
            node.SetNthControlPointLabel(n, label)
    display = node.GetDisplayNode()
    if display is not None:
        with slicer.util.NodeModify(display):
            display.SetPropertiesLabelVisibility(shown[0])
            display.SetPointLabelsVisibility(shown[1])
