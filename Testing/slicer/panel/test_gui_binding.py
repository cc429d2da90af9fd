"""What binds the panel's widgets to the parameter node, and what could go wrong there in Slicer."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import slicer
from phantoms import addPair, addPoints

from SAMv2SlicerLib.panel import gui_binding
from SAMv2SlicerLib.panel.parameters import MatchMethod, TransformType


def test_choices_survive_leaving_and_closed_scenes(widget, scene):
    """Slicer's binding of widgets, made twice, would write the last entry of each box (gui_binding.py)."""
    addPair(scene)
    parameters = widget.panel.parameters
    parameters.transformType, parameters.startsPerAxis = TransformType.SIMILARITY, 7
    for _ in range(2):
        widget.exit()
        widget.enter()
        assert widget.panel.parameters.transformType == TransformType.SIMILARITY
        assert widget.panel.parameters.method == MatchMethod.FIXED_POINT
        assert widget.ui.startsSpinBox.value == 7
    scene.Clear()
    assert widget.panel.parameters.transformType == TransformType.RIGID
    widget.ui.transformTypeComboBox.currentIndex = 2
    assert widget.panel.parameters.transformType == TransformType.AFFINE
    assert widget.panel.parameters.method == MatchMethod.FIXED_POINT
    widget.cleanup()  # unbound: what is shown is of no consequence any more
    node = scene.GetFirstNodeByClass("vtkMRMLScriptedModuleNode")
    widget.ui.transformTypeComboBox.currentIndex = 0
    assert node.GetParameter("transformType") == "AFFINE"


def test_the_first_parameter_is_shown_by_no_widget_of_its_own(widget):
    first = next(iter(type(widget.panel.parameters).allParameters))
    bound = {child.property(gui_binding.PROPERTY) for child in vars(widget.ui).values()}
    assert first not in bound and "templateVolume" in bound


def test_only_visible_point_lists_are_offered(widget, scene):
    points = addPoints(scene, [])
    scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "Line")
    hidden = slicer.vtkMRMLMarkupsFiducialNode()
    hidden.SetHideFromEditors(True)
    scene.AddNode(hidden)
    box = widget.ui.pointsWidget.markupsSelectorComboBox().findChild(qt.QComboBox)
    assert [box.itemText(n) for n in range(box.count)] == ["None", points.GetName()]


def test_placing_begins_with_a_new_list_only(widget, scene):
    """In a list that is there already, a click that was meant for a view would be a point too many."""
    addPair(scene)
    full, empty = addPoints(scene, [(1.0, 2.0, 3.0)]), addPoints(scene, [])
    pointsWidget, parameters = widget.ui.pointsWidget, widget.panel.parameters
    parameters.points = empty
    assert not pointsWidget.isPlacing  # chosen by code
    for node, isPlacing in ((full, False), (empty, True)):
        pointsWidget.markupsSelectorComboBox().setCurrentNode(node)
        assert parameters.points is node and pointsWidget.isPlacing == isPlacing
