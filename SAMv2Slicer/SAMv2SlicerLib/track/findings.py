"""What is known about the lesions of a baseline in all studies, as values: a row per lesion, a finding per study.

The point lists in the scene are the only place where findings are kept; this view of them is made anew when something
changed, for the panel's matrix, the table node, the plot and the exports alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.tracking.diameters import fits
from SAMv2Core.tracking.reading import readings_of_past
from SAMv2Core.tracking.recist import (
    ABSENT,
    NON_TARGET,
    NOT_EVALUABLE,
    PRESENT,
    TARGET,
    Course,
    Reading,
    targets_of,
    time_points,
)
from SAMv2Core.tracking.recist import NEW as NEW_LESION
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.match_facts import ACCEPTED, MERGED, NEW, REJECTED, VANISHED, PointResult
from SAMv2SlicerLib.track import diameters, lesion_list, studies
from SAMv2SlicerLib.track.past import Past

BASELINE = "baseline"
"""Status of a lesion in its baseline, where it was marked and not searched."""


@dataclass(frozen=True, eq=False)
class Finding:
    """One lesion in one study.

    :param volumeID: node of the study.
    :param listID: the point list that holds the finding; :param index: of its point.
    :param world: (3,) RAS, None where the lesion is not, or was rejected.
    :param result: the proposal and the decision; None in the baseline, and where it was never searched.
    :param sizeMm: NaN when not known; :param isMeasured: by a person, not computed from a segmentation.
    :param acrossMm: the other axis, where both are known: of a lymph node the long one, else the short one.
    :param role: :param organ: :param isNode: what the user said of the lesion, see lesion_list.Lesion.
    :param proposedMm: length of the line between the matched ends of the baseline's diameter; NaN without one.
    """

    uid: str
    label: str
    volumeID: str
    listID: str = ""
    index: int = -1
    world: Optional[np.ndarray] = None
    result: Optional[PointResult] = None
    sizeMm: float = math.nan
    isMeasured: bool = False
    isBaseline: bool = False
    proposedMm: float = math.nan
    acrossMm: float = math.nan
    role: str = ""
    organ: str = ""
    isNode: bool = False

    @property
    def status(self) -> str:
        if self.isBaseline:
            return BASELINE
        return "" if self.result is None else self.result.status

    @property
    def decision(self) -> str:
        return "" if self.result is None else self.result.decision

    @property
    def needsALook(self) -> bool:
        return self.result is not None and self.result.needsALook


def baselineOf(lesionListNode):
    return lesionListNode.GetNodeReference(match_list.ROLE_TEMPLATE) if lesionListNode is not None else None


def studiesOf(lesionListNode, order: Sequence[Any] = ()) -> List[Any]:
    """Baseline, then the volumes with findings: in the order given, the rest behind, by date where all have one."""
    baseline = baselineOf(lesionListNode)
    followUps = [node.GetNodeReference(match_list.ROLE_QUERY) for node in lesion_list.findingsOf(lesionListNode)]
    followUps = [node for node in followUps if node is not None]
    ordered = [node for node in order if node in followUps]
    rest = [node for node in followUps if node not in ordered]
    found = [*ordered, *rest] if ordered else studies.inTimeOrder(rest)
    return [baseline, *found] if baseline is not None else found


def findings(lesionListNode, order: Sequence[Any] = ()) -> List[List[Finding]]:
    """One row per lesion, one finding per study of :func:`studiesOf`; what was never searched has an empty listID."""
    if lesionListNode is None:
        return []
    volumes = studiesOf(lesionListNode, order)
    baseline = baselineOf(lesionListNode)
    rows = []
    lines = diameters.linesOf(lesionListNode)
    indexed = {node.GetID(): _matchesIn(lesionListNode, node) for node in volumes if node is not baseline}
    for n, lesion in enumerate(lesion_list.lesionsIn(lesionListNode)):
        row = []
        for volume in volumes:
            said = {"role": lesion.role, "organ": lesion.organ, "isNode": lesion.isNode}
            finding = Finding(lesion.uid, lesion.label, volume.GetID(), **said)  # no more if it is new in a follow-up
            if volume is not baseline:
                line = lines.get((lesion.uid, volume.GetID()))
                finding = _inFollowUp(finding, indexed[volume.GetID()], line)
            elif lesion.centerWorld is not None:
                finding = _inBaseline(finding, lesionListNode, n, lesion)
            row.append(finding)
        rows.append(row)
    return rows


def _matchesIn(lesionListNode, volumeNode) -> Tuple[Any, Dict[str, int]]:
    """(matched list of a study, {Tracking UID: index})."""
    listNode = match_list.findMatchList(lesionListNode, volumeNode)
    found = {}
    for n in range(listNode.GetNumberOfControlPoints()):
        result = match_list.resultAt(listNode, n)
        if result is not None:
            found[result.templatePoint] = n
    return listNode, found


def _inBaseline(finding: Finding, lesionListNode, index: int, lesion: lesion_list.Lesion) -> Finding:
    """The finding where its lesion was marked."""
    where = {"listID": lesionListNode.GetID(), "index": index, "world": lesion.centerWorld, "isBaseline": True}
    isMeasured = math.isfinite(lesion.diameterMm) and not lesion.isEstimated
    return replace(finding, sizeMm=lesion.sizeMm, acrossMm=lesion.acrossMm, isMeasured=isMeasured, **where)


def _inFollowUp(finding: Finding, matches: Tuple[Any, Dict[str, int]], lineNode) -> Finding:
    """The finding with its match and its size in a follow-up, as far as there are any."""
    listNode, indices = matches
    if finding.uid not in indices:
        return finding
    index = indices[finding.uid]
    result = match_list.resultAt(listNode, index)
    finding = replace(finding, listID=listNode.GetID(), index=index, result=result)
    world = node_geometry.pointWorld(listNode, index) if index in node_geometry.definedPointIndices(listNode) else None
    if world is None:
        return finding
    length = diameters.lengthOf(lineNode)
    if math.isfinite(length) and not diameters.isProposal(lineNode):
        return replace(finding, world=world, sizeMm=length, isMeasured=True)
    size, across = result.diameterMm, result.shortMm
    if finding.isNode:
        size, across = across, size
    isFitting = math.isfinite(length) and fits(diameters.endsOf(lineNode), world)
    return replace(finding, world=world, sizeMm=size, acrossMm=across, proposedMm=length if isFitting else math.nan)


def decidedUIDs(lesionListNode) -> set:
    """Tracking UIDs of the lesions that the user decided on in any follow-up."""
    return {finding.uid for row in findings(lesionListNode) for finding in row if finding.decision}


def newElsewhere(lesionListNode, volumeIDs) -> set:
    """Tracking UIDs of the lesions that are new in other studies than these."""
    return {
        finding.uid
        for row in findings(lesionListNode)
        for finding in row
        if finding.result is not None and finding.result.presence == NEW and finding.volumeID not in volumeIDs
    }


def verified(lesionListNode) -> List[Tuple[str, str, Optional[np.ndarray]]]:
    """(Tracking UID, volume ID, world RAS or None when rejected) of all decisions, for the next run."""
    found = []
    for row in findings(lesionListNode):
        for finding in row:
            if finding.decision:
                isGone = finding.decision == REJECTED or finding.world is None
                found.append((finding.uid, finding.volumeID, None if isGone else finding.world))
    return found


def readingOf(finding: Finding) -> Reading:
    """What a finding says of the lesion itself: what the user decided, else the size, else only that it may be there.

    That a lesion has vanished, or merged with another, is a segmentation's word only; it counts when it was accepted. A
    finding that was rejected says nothing of the lesion: it is not evaluable until the user says more.
    """
    result = finding.result
    if finding.isBaseline:
        return _reading(PRESENT, finding)
    if result is None:
        return _reading(PRESENT, finding) if math.isfinite(finding.sizeMm) else Reading(NOT_EVALUABLE)
    if result.state:
        return _reading(result.state, finding)
    if result.presence in (VANISHED, MERGED):
        return Reading(result.presence if result.decision == ACCEPTED else NOT_EVALUABLE)
    return Reading(NOT_EVALUABLE) if finding.world is None else _reading(PRESENT, finding)


def _reading(state: str, finding: Finding) -> Reading:
    """A line measures what the user drew: the longest diameter, or of a lymph node the short axis."""
    size, across = (float(mm) if math.isfinite(mm) else None for mm in (finding.sizeMm, finding.acrossMm))
    return Reading(state, across, size) if finding.isNode else Reading(state, size, across)


def coursesOf(rows: Sequence[Sequence[Finding]], past: Optional[Past] = None) -> List[Course]:
    """The lesions through all studies, for SAMv2Core.tracking.recist.

    Whom the user gave no role is a target with a size in the baseline, without one a non-target; what the baseline does
    not have is new.

    :param past: what a report said of the studies before the baseline: these come first.
    """
    past = past or Past()
    courses = []
    for row in [row for row in rows if row]:
        readings = [readingOf(finding) for finding in row]
        told = past.lesions.get(row[0].uid)
        before = readings_of_past(told, past.order, len(row))
        role = row[0].role or (told.role if told is not None else "")
        if told is not None:
            readings = _afterReport(before[past.order :], row, readings)
        elif not row[0].isBaseline:
            role = NEW_LESION
            first = next((n for n, finding in enumerate(row) if finding.world is not None), len(row))
            readings[:first] = [Reading(ABSENT)] * first
            before = (Reading(ABSENT),) * past.order
        all_ = (*before[: past.order], *readings)
        hasSize = (readings[0].short_mm if row[0].isNode else readings[0].long_mm) is not None
        role = role or (TARGET if hasSize else NON_TARGET)
        courses.append(Course(row[0].label, role, all_, row[0].organ, row[0].isNode))
    return courses


def _afterReport(told: Sequence[Reading], row: Sequence[Finding], readings: Sequence[Reading]) -> List[Reading]:
    """The readings of a lesion that a report speaks of: of its own study the report's word counts until the user
    measures; what had vanished then is not there because its place was found."""
    found = list(readings)
    if told[0].state != PRESENT or not math.isfinite(row[0].sizeMm):
        found[0] = told[0]
    for n, finding in enumerate(row[1:], 1):
        isSaid = finding.result is not None and bool(finding.result.state or finding.result.presence)
        if finding.result is None:
            found[n] = told[n]
        elif told[0].state == VANISHED and not isSaid and not math.isfinite(finding.sizeMm):
            found[n] = Reading(NOT_EVALUABLE)
    return found


@dataclass(frozen=True)
class StudySum:
    """The sum of one study, and what it suggests by RECIST 1.1.

    :param volumeID: of the study, "" for one that only a report tells of; :param name: of such a one.
    :param sized: how many of the :param wanted: lesions count with a size here; what has vanished counts 0 mm.
    :param sumMm: NaN unless all of them do.
    :param change: share by which it differs from the baseline's sum, :param changeFromNadir: from the smallest sum
        before; NaN where one is not known.
    :param isEstimated: some of it was computed from a segmentation.
    :param category: as suggested, "" in the baseline; :param rule: which rule gave it, in English.
    """

    volumeID: str
    sized: int
    wanted: int
    sumMm: float
    change: float
    isEstimated: bool
    changeFromNadir: float = math.nan
    category: str = ""
    rule: str = ""
    name: str = ""


def sums(rows: Sequence[Sequence[Finding]], past: Optional[Past] = None) -> List[StudySum]:
    """One per study, those of a report first, then the baseline; none when there is no target.

    Of what a person measured or a segmentation gave, never of proposals. A sum says something only when it adds up the
    same lesions: the targets of the first study. Where one of them has no size (not found, rejected, not measured),
    there is no sum, and what is missing is told.
    """
    past = past or Past()
    rows = [row for row in rows if row]
    courses = coursesOf(rows, past)
    targets = targets_of(courses)
    if not targets:
        return []
    columns = list(zip(*(row for row, course in zip(rows, courses) if course in targets)))
    found: List[StudySum] = []
    for n, point in enumerate(time_points(courses)):
        column = columns[n - past.order] if n >= past.order else ()
        sized = [finding for finding in column if math.isfinite(finding.sizeMm)]
        found.append(
            StudySum(
                volumeID=column[0].volumeID if column else "",
                sized=len(targets) - len(point.missing),
                wanted=len(targets),
                sumMm=_orNaN(point.sum_mm),
                change=_orNaN(point.change_from_baseline),
                isEstimated=any(not finding.isMeasured for finding in sized),
                changeFromNadir=_orNaN(point.change_from_nadir),
                category=point.overall,
                rule=point.rule,
                name="" if column else past.nameOf(n),
            )
        )
    return found


def _orNaN(value: Optional[float]) -> float:
    return math.nan if value is None else value
