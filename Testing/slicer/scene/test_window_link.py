"""Two scans looked at alike: one window and level, and scrolling through both at once."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

from lesions import PLACES_RAS, SHIFT_RAS
from panel_tools import settle
from phantoms import addPair, addPoints
from scene_tools import centerOf

from SAMv2SlicerLib.scene import layouts


@pytest.fixture
def both(windows, widget, scene):
    """(widget, template, query), side by side, with displays."""
    template, query = addPair(scene)
    for node in (template, query):
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAutoWindowLevel(False)
    template.GetDisplayNode().SetWindowLevel(400, 40)
    query.GetDisplayNode().SetWindowLevel(2000, 300)
    widget.panel.parameters.points = addPoints(scene, PLACES_RAS)
    widget.ui.sideBySideButton.click()
    settle(widget)
    return widget, template.GetDisplayNode(), query.GetDisplayNode()


def windowOf(display):
    return display.GetWindow(), display.GetLevel()


def test_each_scan_follows_the_window_of_the_other(both):
    widget, template, query = both
    widget.ui.sameWindowCheckBox.checked = True
    assert windowOf(query) == (400, 40)
    query.SetWindowLevel(1400, -300)
    assert windowOf(template) == (1400, -300)
    widget.ui.sameWindowCheckBox.checked = False
    query.SetWindowLevel(100, 0)
    assert windowOf(template) == (1400, -300)


def test_scrolling_the_template_scrolls_the_query_to_the_same_anatomy(windows, both):
    widget, _, _ = both
    mine, other = (windows.sliceWidget(layouts.viewName(row, "Axial")).mrmlSliceNode() for row in "AB")
    widget.ui.scrollTogetherCheckBox.checked = True
    for place in PLACES_RAS:
        mine.JumpSliceByCentering(*place)
        settle(widget)
        assert centerOf(other)[2] == pytest.approx(place[2] + SHIFT_RAS[2], abs=3.0)  # fine voxels are 4 mm
    widget.ui.scrollTogetherCheckBox.checked = False
    before = centerOf(other)
    mine.JumpSliceByCentering(*PLACES_RAS[0])
    settle(widget)
    assert np.allclose(centerOf(other), before)
