"""A new lesion of a follow-up, looked for in the baseline: was it there before?

Tracking gives the place; what both scans say there gives the answer (SAMv2Core.tracking.presence), which stands in the
reason of the finding. It is a remark beside the user's own decision and changes nothing of it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import slicer

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.track import diameters, lesion_list
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.worker import Job


def lookBack(logic, baselineNode, volumeNode, uid: str, model: str, device: str, onEnd=None) -> Job:
    """Begin to look; the job's value is what is said, "" where nothing can be.

    :param volumeNode: the study in which the lesion was drawn.
    """
    listNode = lesion_list.findLesionList(baselineNode)
    label = next(lesion.label for lesion in lesion_list.lesionsIn(listNode) if lesion.uid == uid)
    ends = diameters.endsOf(diameters.linesOf(listNode)[(uid, volumeNode.GetID())])
    places = node_geometry.worldToVolumeLPS(volumeNode, ends)
    asked = engine.LesionInput(label, places.mean(axis=0), float(np.linalg.norm(ends[1] - ends[0])))
    options = engine.Options(model, device)
    volumes = logic.volumeInputs([volumeNode, baselineNode], ["auto", "auto"], options)
    text = texts.progressLookingBack(label)
    ids = volumeNode.GetID(), baselineNode.GetID()
    return logic.submit(
        text,
        lambda progress: logic.engine.track(volumes[0], volumes[1:], [asked], [], options, text, progress),
        lambda computed: _commit(logic, computed, ids, uid, asked),
        onEnd,
    )


def _commit(logic, computed: Any, ids, uid: str, asked: engine.LesionInput) -> str:
    from SAMv2Core.io.lesion import lesion_at
    from SAMv2Core.tracking.presence import presence_before

    logic.keepEmbeddings(computed)
    study, baseline = (slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in ids)
    finding = computed.results[0].findings.get(asked.label)
    if study is None or baseline is None or finding is None or finding.lps is None:
        return ""
    embeddings = computed.embeddings
    if embeddings[0].modality != embeddings[1].modality:
        return ""
    lesion = lesion_at(asked.label, asked.centerLPS, asked.diameterMm)
    scans = (node_geometry.volumeFromNode(node) for node in (study, baseline))
    said = presence_before(lesion, finding.lps, *scans)
    share = "" if math.isnan(said.confidence) else f"{100 * said.confidence:.0f}"
    text = texts.lookedBack(asked.label, baseline.GetName(), texts.stateBefore(said.state), share or "?")
    listNode = lesion_list.findLesionList(baseline)
    matched = match_list.findMatchList(listNode, study) if listNode is not None else None
    index = match_list.indexOfTemplatePoint(matched, uid) if matched is not None else -1
    if index >= 0:
        with logic.writing():
            match_list.setResult(matched, index, replace(match_list.resultAt(matched, index), reason=text))
    return text
