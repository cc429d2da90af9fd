"""What is known about the lesions of a baseline in all studies, as values: a row per lesion, a finding per study.

The point lists in the scene are the only place where findings are kept; this view of them is made anew when something
changed, for the panel's matrix, the table node, the plot and the exports alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2SlicerLib import conversion, lesion_lines, lesion_list, results, studies
from SAMv2SlicerLib.point_result import NEW, REJECTED, PointResult

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
    listID: str
    index: int
    world: Optional[np.ndarray]
    result: Optional[PointResult]
    sizeMm: float
    isMeasured: bool
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
    return lesionListNode.GetNodeReference(results.ROLE_TEMPLATE) if lesionListNode is not None else None


def studiesOf(lesionListNode, order: Sequence[Any] = ()) -> List[Any]:
    """Baseline, then the volumes with findings: in the order given, the rest behind, by date where all have one."""
    baseline = baselineOf(lesionListNode)
    followUps = [node.GetNodeReference(results.ROLE_QUERY) for node in lesion_list.findingsOf(lesionListNode)]
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
    lines = lesion_lines.linesOf(lesionListNode)
    indexed = {node.GetID(): _matchesIn(lesionListNode, node) for node in volumes if node is not baseline}
    for n, lesion in enumerate(lesion_list.lesionsIn(lesionListNode)):
        row = []
        for volume in volumes:
            if volume is baseline and lesion.centerWorld is None:
                where = ("", -1, None, None, math.nan, False)  # new in a follow-up
            elif volume is baseline:
                isMeasured = math.isfinite(lesion.diameterMm) and not lesion.isEstimated
                where = (lesionListNode.GetID(), n, lesion.centerWorld, None, lesion.diameterMm, isMeasured, True)
            else:
                where = _inFollowUp(lesion.uid, indexed[volume.GetID()], lines.get((lesion.uid, volume.GetID())))
            row.append(Finding(lesion.uid, lesion.label, volume.GetID(), *where))
        rows.append(row)
    return rows


def _matchesIn(lesionListNode, volumeNode) -> Tuple[Any, Dict[str, int]]:
    """(matched list of a study, {Tracking UID: index})."""
    listNode = results.findMatchList(lesionListNode, volumeNode)
    found = {}
    for n in range(listNode.GetNumberOfControlPoints()):
        result = results.resultAt(listNode, n)
        if result is not None:
            found[result.templatePoint] = n
    return listNode, found


def _inFollowUp(uid: str, matches: Tuple[Any, Dict[str, int]], lineNode) -> tuple:
    """(listID, index, world, result, size, is measured, is baseline, proposed size) of a lesion in a follow-up."""
    listNode, indices = matches
    if uid not in indices:
        return "", -1, None, None, math.nan, False
    index = indices[uid]
    result = results.resultAt(listNode, index)
    isDefined = index in conversion.definedPointIndices(listNode)
    world = conversion.pointWorld(listNode, index) if isDefined else None
    if world is None:
        return listNode.GetID(), index, None, result, math.nan, False
    length, proposed = lesion_lines.lengthOf(lineNode), math.nan
    if math.isfinite(length) and lesion_lines.isProposal(lineNode):
        isFitting = lesion_lines.fits(lesion_lines.endsOf(lineNode), world)
        length, proposed = math.nan, length if isFitting else math.nan
    if math.isfinite(length):
        return listNode.GetID(), index, world, result, length, True
    return listNode.GetID(), index, world, result, result.diameterMm, False, False, proposed


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
