"""Several templates in the panel and the console: one answer per point, from every scan that has its label."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import slicer
from lesions import PLACES_RAS, SHIFT_RAS, THIRD_SHIFT_RAS, addSegment, addStudies
from panel_tools import settle
from phantoms import addPoints

import SAMv2Core
from SAMv2Core.errors import InputError
from SAMv2SlicerLib.match import further_templates
from SAMv2SlicerLib.scene import match_list, node_geometry, own_views

OFF_RAS = np.array([6.0, 0.0, 0.0])
"""How far the further template's second point is marked beside the first one's."""


@pytest.fixture
def studies(scene):
    """(A, further template, B); the points of A; in the further template the first two of them, in another order."""
    first, second, third = addStudies(scene)
    points = addPoints(scene, PLACES_RAS, name="F", labels=["a", "b", "c"])
    marked = [PLACES_RAS[1] + THIRD_SHIFT_RAS + OFF_RAS, PLACES_RAS[0] + THIRD_SHIFT_RAS]
    others = addPoints(scene, marked, name="G", labels=["b", "a"])
    return first, third, second, points, others


def lps(volume, world):
    return node_geometry.worldToVolumeLPS(volume, np.atleast_2d(world))


def test_the_answer_is_that_of_core(logic, studies):
    template, other, query, points, others = studies
    node = logic.matchPoints(template, query, points, further=[(other, others)])
    embeddings = [logic.embed(volume) for volume in (template, other, query)]
    marked = further_templates.pointsLike(["a", "b", "c"], other, others)
    assert np.isnan(marked[2]).all() and np.allclose(marked[0], lps(other, PLACES_RAS[0] + THIRD_SHIFT_RAS))
    lists = [lps(template, PLACES_RAS), marked]
    expected = SAMv2Core.match(embeddings[:2], embeddings[2], lists)
    alone = SAMv2Core.match(embeddings[0], embeddings[2], lists[0])
    for n, (match, one) in enumerate(zip(expected, alone)):
        result = match_list.resultAt(node, n)
        assert (result.status, result.templates) == (match.status, (2, 2, 1)[n])
        assert result.confidence == pytest.approx(match.confidence, abs=1e-3)
        if match.query_lps is not None:
            assert np.allclose(lps(query, node_geometry.pointWorld(node, n)), match.query_lps, atol=1e-3)
        is_moved = one.query_lps is not None and np.linalg.norm(one.query_lps - match.candidate_lps) > 1e-3
        assert not is_moved or n < 2  # the third one is in the first template only
    assert node.GetAttribute("SAMv2.furtherTemplates") == other.GetName()


def test_what_cannot_be_joined_is_refused(logic, studies, scene):
    template, other, query, points, others = studies
    others.SetNthControlPointLabel(1, "b")
    with pytest.raises(InputError, match="Several points of G have the label b"):
        logic.matchPoints(template, query, points, further=[(other, others)])
    others.SetNthControlPointLabel(1, "a")
    for volume in (template, query):
        with pytest.raises(InputError, match="no further template"):
            logic.matchPoints(template, query, points, further=[(volume, others)])
    segmentation = addSegment(scene, PLACES_RAS[0] + SHIFT_RAS, (60.0, 60.0, 60.0))
    with pytest.raises(InputError, match="one template only"):
        logic.matchPoints(template, query, points, inside=(segmentation, "tumor"), further=[(other, others)])
    assert match_list.findMatchList(points, query) is None


def choose(widget, volume, points=None):
    widget.ui.furtherTemplateSelector.setCurrentNode(volume)
    if points is not None:
        widget.ui.furtherPointsSelector.setCurrentNode(points)


def rows(widget):
    table = widget.ui.furtherTemplatesTable
    return [tuple(table.item(r, c).text() for c in range(table.columnCount)) for r in range(table.rowCount)]


@pytest.fixture
def panel(windows, widget, studies):
    template, other, query, points, others = studies
    p = widget.panel.parameters
    p.matchWhileClicking = False
    p.templateVolume, p.queryVolume, p.points = template, query, points
    settle(widget)
    return widget


def test_from_the_panel_and_back_by_undo(panel, studies, scene):
    template, other, query, points, others = studies
    ui, p = panel.ui, panel.panel.parameters
    ui.matchButton.click()
    settle(panel)
    node = match_list.findMatchList(points, query)
    before = match_list.captureList(node)
    assert not ui.addTemplateButton.enabled and not rows(panel)
    for wrong in (template, query):
        choose(panel, wrong, others)
        assert not ui.addTemplateButton.enabled
    choose(panel, other, others)
    ui.addTemplateButton.click()
    settle(panel)
    assert rows(panel) == [(other.GetName(), "G", "2 of 3")] and "2 of 3 points" in ui.statusLabel.text
    assert own_views.ATTRIBUTE in others.GetDisplayNode().GetAttributeNames()  # on its own scan only
    ui.matchButton.click()
    settle(panel)
    assert [match_list.resultAt(node, n).templates for n in range(3)] == [2, 2, 1]
    ui.resultsTable.selectRow(0)
    assert "looked for from 2 scans" in ui.matchLabel.text
    assert f"further=[('{other.GetID()}', '{others.GetID()}')]" in ui.logTextEdit.plainText
    ui.undoButton.click()
    settle(panel)
    again = match_list.captureList(node)
    assert [item["description"] for item in again] == [item["description"] for item in before]
    ui.furtherTemplatesTable.setCurrentCell(0, 0)
    ui.removeTemplateButton.click()
    settle(panel)
    assert not rows(panel) and not p.furtherTemplateVolumes and not p.furtherTemplatePoints


def test_matches_in_an_earlier_study_are_points_of_a_template(panel, studies):
    """What was matched into a scan has the labels already; a scan is never looked for in itself."""
    template, other, query, points, _ = studies
    ui, p = panel.ui, panel.panel.parameters
    p.queryVolume = other
    settle(panel)
    ui.matchButton.click()
    settle(panel)
    p.queryVolume = query
    settle(panel)
    choose(panel, other)
    matched = match_list.findMatchList(points, other)
    assert ui.furtherPointsSelector.currentNode() is matched
    match_list.accept(matched, 0)
    count = len(node_geometry.definedPointIndices(matched)) - 1
    ui.addTemplateButton.click()
    settle(panel)
    assert count and f"{count} of these w" in ui.statusLabel.text and "not looked at" in ui.statusLabel.text
    p.furtherQueryVolumes = [other]
    ui.matchButton.click()
    settle(panel)
    found = [match_list.resultAt(match_list.findMatchList(points, volume), 0).templates for volume in (query, other)]
    assert found == [2, 0]


def test_a_click_is_refined_from_all_templates(panel, studies):
    template, other, query, points, others = studies
    p = panel.panel.parameters
    choose(panel, other, others)
    panel.ui.addTemplateButton.click()
    p.matchWhileClicking = True
    settle(panel)
    points.SetNthControlPointPositionWorld(0, *(PLACES_RAS[0] + [0.0, 0.0, 1.0]))
    settle(panel)
    assert match_list.resultAt(match_list.findMatchList(points, query), 0).templates == 2


def test_scenes_keep_them_and_older_ones_have_none(panel, studies, scene, tmp_path):
    template, other, query, points, others = studies
    path = str(tmp_path / "old.mrb")
    node = panel.panel.parameters.parameterNode
    for name in ("furtherTemplateVolumes", "furtherTemplatePoints"):  # as written by a version without them
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)
    assert scene.WriteToMRB(path)
    choose(panel, other, others)
    panel.ui.addTemplateButton.click()
    settle(panel)
    wanted, newer = rows(panel), str(tmp_path / "new.mrb")
    assert wanted and scene.WriteToMRB(newer)
    for file, expected in ((path, []), (newer, wanted)):
        scene.Clear()
        settle(panel)
        assert not rows(panel)
        assert scene.ReadFromMRB(file)
        settle(panel)
        assert rows(panel) == expected and panel.panel.parameters.points.GetName() == "F"
    slicer.mrmlScene.RemoveNode(panel.panel.matchTab.furtherTemplates()[0][1])
    settle(panel)
    assert not rows(panel)
