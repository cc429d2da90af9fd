"""Sums of diameters: of the same lesions in every study, and never of proposals."""

import math

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

from lesions import PLACES_RAS, addLesionPoints, addLine, addStudies
from panel_tools import settle
from scene_tools import findingAt

from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import findings, findings_table, measuring, studies
from SAMv2SlicerLib.track.findings import Finding


def finding(size, isMeasured=True, isBaseline=False, proposed=math.nan, volume="v"):
    return Finding("u", "L", volume, "", 0, None, None, size, isMeasured, isBaseline, proposed)


def test_only_lesions_with_a_size_in_the_baseline_count():
    rows = [
        [finding(20.0, isBaseline=True), finding(30.0), finding(math.nan, proposed=33.0)],
        [finding(10.0, isBaseline=True), finding(6.0, isMeasured=False), finding(5.0)],
        [finding(math.nan, isBaseline=True), finding(99.0), finding(99.0)],  # marked by a point
        [finding(math.nan), finding(99.0), finding(99.0)],  # new in a follow-up
    ]
    before, first, second = findings.sums(rows)
    assert (before.sumMm, before.isEstimated, math.isnan(before.change)) == (30.0, False, True)
    assert first.sumMm == 36.0 and first.change == pytest.approx(0.2) and first.isEstimated
    assert math.isnan(second.sumMm) and (second.sized, second.wanted) == (1, 2)  # a proposal is no size
    assert findings.sums([]) == findings.sums(rows[2:]) == []


def vanished(decision="accepted", presence="vanished", state=""):
    result = match_list.PointResult("u", "matched", decision=decision, presence=presence, state=state)
    return Finding("u", "L", "v", "", 0, PLACES_RAS[0], result)


def test_what_has_vanished_counts_nothing_and_the_sum_stays():
    """A segmentation's word counts when it was accepted, the user's at once."""
    rows = [
        [finding(20.0, isBaseline=True), vanished(), vanished(decision="")],
        [finding(10.0, isBaseline=True), finding(10.0), finding(10.0)],
    ]
    _, first, second = findings.sums(rows)
    assert (first.sumMm, first.sized, first.category) == (10.0, 2, "PR") and "67 % below" in first.rule
    assert math.isnan(second.sumMm) and second.category == "NE"
    rows[0][2] = vanished(presence="", state="too_small")
    last = findings.sums(rows)[2]
    assert last.sumMm == 15.0 and last.changeFromNadir == pytest.approx(0.5) and last.category == "PD"


def test_a_new_lesion_is_progression_and_no_part_of_the_sum():
    fresh = match_list.PointResult("n", "matched", decision="moved", presence="new")
    rows = [
        [finding(20.0, isBaseline=True), finding(20.0), finding(20.0)],
        [
            Finding("n", "N", "v"),
            Finding("n", "N", "v"),
            Finding("n", "N", "v", "", 0, PLACES_RAS[1], fresh, 7.0, True),
        ],
    ]
    _, first, second = findings.sums(rows)
    assert (first.category, second.category, second.sumMm) == ("SD", "PD", 20.0) and second.rule == "New: N."


def test_the_panel_adds_up_what_was_measured(widget, scene):
    volumes = addStudies(scene)
    for node, date in zip(volumes, ("2023-01-01", "2023-04-01", "2023-07-01")):
        studies.setDate(node, date)
    ui, p = widget.ui, widget.panel.parameters
    ui.tabWidget.currentIndex = 1
    p.baselineVolume, p.followUpVolumes = volumes[0], list(volumes[1:])
    p.lesionSources = [addLesionPoints(scene)]
    ui.trackButton.click()
    settle(widget)
    assert not ui.sumsLabel.isVisibleTo(widget.parent)  # points have no size
    p.lesionSources = [addLine(scene, place, 10.0 + n, f"R{n}") for n, place in enumerate(PLACES_RAS[:2])]
    ui.trackButton.click()
    settle(widget)
    told = ui.sumsLabel.text
    assert "2023-01-01: 21.0 mm" in told and "2023-04-01: 0 of 2 sizes known" in told
    for n in range(2):
        line = measuring.measure(widget.logic, findingAt(widget.logic, n, 1))
        line.SetNthControlPointPositionWorld(1, *(node_geometry.pointWorld(line, 0) + [0, 7.0, 0]))
    settle(widget)
    assert "2023-04-01: 14.0 mm (-33 %)" in ui.sumsLabel.text and ui.sumsLabel.isVisibleTo(widget.parent)
    with widget.logic.writing():
        match_list.reject(match_list.matchLists(widget.logic.tracker.lesionList())[0], 0)
    settle(widget)
    assert "2023-04-01: 1 of 2 sizes known" in ui.sumsLabel.text
    matched = match_list.matchLists(widget.logic.tracker.lesionList())[0]
    with widget.logic.writing():
        match_list.release(matched, 0)
        match_list.setState(matched, 0, "vanished")
    settle(widget)
    assert "2023-04-01: 7.0 mm (-67 %), suggests PR" in ui.sumsLabel.text and "67 % below" in ui.sumsLabel.toolTip
    row = findings_table.rowsFor(widget.logic.tracker.lesionList())[1]
    assert (row["state"], row["counts_mm"], row["decision"]) == ("vanished", 0.0, "accepted")
    sizes = findings_table.find(widget.logic.tracker.lesionList(), findings_table.SIZES).GetTable()
    assert sizes.GetColumnByName("R0").GetValue(1) == 0.0
    assert sizes.GetColumnByName("Sum of diameters").GetValue(1) == pytest.approx(7.0)
