"""What has become of the lesions, by both scans at their places: *unchanged*, *changed*, *vanished*, *merged*, *split*.

Tracking gives the places and is shown first; then the scans are compared there (SAMv2Core.tracking.presence), which
takes some tenths of a second per lesion and no PyTorch. What comes out stands beside the finding, with a confidence of
its own. It is a remark: whether a lesion counts as vanished, a segmentation or the user says.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import slicer

from SAMv2Core.errors import InputError
from SAMv2Core.io.volume import Volume
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import lesion_list
from SAMv2SlicerLib.work.lesion_engine import coreLesion
from SAMv2SlicerLib.work.worker import Job, Progress

Parts = Dict[str, Tuple[Volume, Volume]]
"""Label -> what is needed of the baseline and of the follow-up."""


def look(logic, request, computed, onEnd=None) -> Optional[Job]:
    """Begin to compare, for all follow-ups of the baseline's modality; None when there is nothing to compare.

    :param request: a TrackRequest; :param computed: what came of it.
    """
    from SAMv2Core.tracking.presence import part_around

    baseline = _volumeOf(request.baselineID)
    embeddings = computed.embeddings
    lesions = [coreLesion(item) for item in request.inputs]
    asked: Dict[str, Tuple[Sequence[Any], Parts]] = {}
    for volumeID, study, embedding in zip(request.followUpIDs, computed.results, embeddings[1:]):
        followUp = _volumeOf(volumeID)
        if baseline is None or followUp is None or embedding.modality != embeddings[0].modality:
            continue
        found = [finding for finding in study.findings.values() if finding.lps is not None]
        places = {finding.label: np.asarray(finding.lps) for finding in found}
        parts = {
            lesion.label: (
                part_around(lesion, lesion.center_lps, baseline),
                part_around(lesion, places[lesion.label], followUp),
            )
            for lesion in lesions
            if lesion.label in places
        }
        if parts:
            asked[volumeID] = (found, parts)
    if not asked:
        return None
    uids = {item.lesion.label: item.lesion.uid for item in request.planned}
    return logic.submitPlain(
        texts.progressLooking(),
        lambda progress: _compared(lesions, asked, progress),
        lambda said: _commit(logic, request.baselineID, uids, said),
        onEnd,
        texts.progressLooking(),
    )


def _volumeOf(nodeID: str) -> Optional[Volume]:
    """A scan, without a copy of its voxels."""
    node = slicer.mrmlScene.GetNodeByID(nodeID)
    try:
        return node_geometry.volumeFromNode(node, isCopied=False)
    except InputError:
        return None


def _compared(lesions, asked: Mapping[str, Tuple[Sequence[Any], Parts]], progress: Progress) -> Dict[str, Any]:
    """{volume ID: {label: Presence}}; in the worker's thread."""
    from SAMv2Core.tracking.presence import presences_in_parts

    said = {}
    for n, (volumeID, (found, parts)) in enumerate(asked.items()):
        progress(n / len(asked), texts.progressLooking())
        here = [lesion for lesion in lesions if lesion.label in parts]
        said[volumeID] = presences_in_parts(here, found, parts)
    return said


def _commit(logic, baselineID: str, uids: Mapping[str, str], said: Mapping[str, Mapping[str, Any]]) -> None:
    """Write it beside the findings that are still there."""
    scene = slicer.mrmlScene
    listNode = lesion_list.findLesionList(scene.GetNodeByID(baselineID))
    if listNode is None:
        return
    with logic.writing():
        for volumeID, presences in said.items():
            matched = match_list.findMatchList(listNode, scene.GetNodeByID(volumeID))
            for label, presence in presences.items() if matched is not None else ():
                facts = {"looks": presence.state, "looksConfidence": presence.confidence}
                match_list.update(matched, uids[label], looksReason=presence.reason, **facts)
