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
from SAMv2Core.tracking.recist import (
    ABSENT,
    NON_TARGET,
    NOT_EVALUABLE,
    PRESENT,
    TARGET,
    Course,
    Reading,
    time_points,
)
from SAMv2Core.tracking.recist import NEW as NEW_LESION
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.match_facts import ACCEPTED, MERGED, NEW, REJECTED, VANISHED, PointResult
from SAMv2SlicerLib.track import diameters, lesion_list, studies

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
            finding = Finding(lesion.uid, lesion.label, volume.GetID())  # and no more if it is new in a follow-up
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
    return replace(finding, sizeMm=lesion.diameterMm, isMeasured=isMeasured, **where)


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
    if not math.isfinite(length):
        return replace(finding, world=world, sizeMm=result.diameterMm)
    if not diameters.isProposal(lineNode):
        return replace(finding, world=world, sizeMm=length, isMeasured=True)
    proposed = length if fits(diameters.endsOf(lineNode), world) else math.nan
    return replace(finding, world=world, sizeMm=result.diameterMm, proposedMm=proposed)


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

    That a lesion has vanished, or merged with another, is a segmentation's word only; it counts when it was accepted.
    """
    result = finding.result
    if finding.isBaseline:
        return Reading(PRESENT, _known(finding.sizeMm), _known(finding.sizeMm))
    if result is None:
        return Reading(PRESENT, _known(finding.sizeMm)) if math.isfinite(finding.sizeMm) else Reading(NOT_EVALUABLE)
    if result.state:
        return Reading(result.state, _known(finding.sizeMm), _known(finding.sizeMm))
    if result.presence in (VANISHED, MERGED):
        return Reading(result.presence if result.decision == ACCEPTED else NOT_EVALUABLE)
    if finding.world is None:
        return Reading(NOT_EVALUABLE)
    return Reading(PRESENT, _known(finding.sizeMm), _known(finding.sizeMm))


def _known(size: float) -> Optional[float]:
    return float(size) if math.isfinite(size) else None


def coursesOf(rows: Sequence[Sequence[Finding]]) -> List[Course]:
    """The lesions through all studies, for SAMv2Core.tracking.recist: with a size in the baseline a target, without
    one a non-target, new when the baseline does not have it.

    A line measures what the user drew: the longest diameter, or of a lymph node the short axis.
    """
    courses = []
    for row in rows:
        readings = [readingOf(finding) for finding in row]
        role = NON_TARGET
        if row and not row[0].isBaseline:
            role = NEW_LESION
            first = next((n for n, finding in enumerate(row) if finding.world is not None), len(row))
            readings[:first] = [Reading(ABSENT)] * first
        elif row and math.isfinite(row[0].sizeMm):
            role = TARGET
        courses.append(Course(row[0].label if row else "", role, tuple(readings)))
    return courses


@dataclass(frozen=True)
class StudySum:
    """The sum of one study, and what it suggests by RECIST 1.1.

    :param volumeID: of the study.
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


def sums(rows: Sequence[Sequence[Finding]]) -> List[StudySum]:
    """One per study, baseline first; none when no lesion has a size in the baseline.

    Of what a person measured or a segmentation gave, never of proposals. A sum says something only when it adds up the
    same lesions: those that have a size in the baseline. Where one of them has none (not found, rejected, not
    measured), there is no sum, and what is missing is told.
    """
    wanted = [row for row in rows if row and row[0].isBaseline and math.isfinite(row[0].sizeMm)]
    if not wanted:
        return []
    found: List[StudySum] = []
    for point, column in zip(time_points(coursesOf(rows)), zip(*wanted)):
        sized = [finding for finding in column if math.isfinite(finding.sizeMm)]
        found.append(
            StudySum(
                volumeID=column[0].volumeID,
                sized=len(wanted) - len(point.missing),
                wanted=len(wanted),
                sumMm=_orNaN(point.sum_mm),
                change=_orNaN(point.change_from_baseline),
                isEstimated=any(not finding.isMeasured for finding in sized),
                changeFromNadir=_orNaN(point.change_from_nadir),
                category=point.overall,
                rule=point.rule,
            )
        )
    return found


def _orNaN(value: Optional[float]) -> float:
    return math.nan if value is None else value
