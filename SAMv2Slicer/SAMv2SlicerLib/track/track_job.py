"""Writing what a lesion tracking run found into the scene, and taking it back as one step.

Everything is checked again before the first write, because minutes may lie between request and commit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import slicer

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.tracking.diameters import is_credible, laid_like
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, moved_volumes, node_geometry
from SAMv2SlicerLib.scene.undo import Action
from SAMv2SlicerLib.track import diameters, findings_table, lesion_list
from SAMv2SlicerLib.track import findings as lesion_findings
from SAMv2SlicerLib.track.past import ATTRIBUTE as PAST
from SAMv2SlicerLib.track.past import pastOf
from SAMv2SlicerLib.work import engine


@dataclass(frozen=True)
class TrackRequest:
    """What was asked, by IDs and values only; ``planned`` in the order of ``inputs``.

    :param segmented: per follow-up [(key, lesion of SAMv2Core in volume LPS)] of its segmentation, None without one.
    """

    baselineID: str
    followUpIDs: Tuple[str, ...]
    planned: Tuple[lesion_list.PlannedLesion, ...]
    inputs: Tuple[engine.LesionInput, ...]
    verified: Tuple[engine.VerifiedInput, ...]
    segmented: Tuple[Optional[List[Tuple[str, Any]]], ...]
    lock: bool


class TrackCommit:
    """Writes the findings of all follow-ups into the scene; the completion handler of its job."""

    def __init__(self, logic, tracker, request: TrackRequest) -> None:
        self._logic, self._tracker, self._request = logic, tracker, request

    def __call__(self, computed) -> Any:
        """The table node.

        :raises InputError: a volume is gone or was changed; nothing is written.
        """
        request, logic, scene = self._request, self._logic, slicer.mrmlScene
        logic.keepEmbeddings(computed)
        baselineNode = scene.GetNodeByID(request.baselineID)
        nodes = [scene.GetNodeByID(nodeID) for nodeID in request.followUpIDs]
        if baselineNode is None or any(node is None for node in nodes):
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        before = Snapshot.of(baselineNode)
        with logic.writing():
            listNode = lesion_list.ensureLesionList(baselineNode)
            kept = lesion_findings.decidedUIDs(listNode)
            kept |= lesion_findings.newElsewhere(listNode, request.followUpIDs) | set(pastOf(listNode).lesions)
            new = [lesion for study in self._newLesions(listNode, computed.results, kept) for lesion, _ in study]
            dropped = lesion_list.write(listNode, request.planned, new, kept)
            newByStudy = self._newLesions(
                listNode, computed.results, kept
            )  # with the Tracking UIDs that are in the list now
            for n, node in enumerate(nodes):
                study, embedding = computed.results[n], computed.embeddings[1 + n]
                matched = self._writeStudy(listNode, baselineNode, node, study, embedding)
                _writeNew(matched, node, newByStudy[n], request.lock)
                diameters.propose(listNode, node, self._proposals(matched, node, study), request.lock)
            for matched in lesion_list.findingsOf(listNode):
                for uid in dropped:
                    match_list.removeMatch(matched, uid)
        order = self._tracker.order()
        table = findings_table.update(listNode, order if set(nodes) <= set(order) else nodes)
        match_list.describeOrigin(table, computed.embeddings[0], "track")
        self._tracker.follow(baselineNode, order if order else nodes)
        name = texts.actionTrack(len(request.inputs), len(nodes))
        logic.undoStack.push(snapshotAction(logic, name, before, Snapshot.of(baselineNode)))
        self._tracker.look(request, computed)
        return table

    def _newLesions(self, listNode, found, keptUIDs) -> List[List[Tuple[lesion_list.Lesion, Any]]]:
        """Per follow-up (lesion, its segmented part) of what belongs to no lesion of the baseline."""
        keys: List[List[Tuple[str, Any]]] = []
        for parts, study in zip(self._request.segmented, found):
            new = study.assignment.new if study.assignment is not None else ()
            keys.append([(key, part) for key, part in parts or () if any(part is item for item in new)])
        wanted = [(key, part.label) for study in keys for key, part in study]
        planned = {item.lesion.uid: item.lesion.label for item in self._request.planned}
        others = [
            lesion.label
            for lesion in lesion_list.lesionsIn(listNode)
            if lesion.uid in keptUIDs and lesion.uid not in planned and lesion.key not in dict(wanted)
        ]
        lesions = lesion_list.planNew(listNode, [*planned.values(), *others], wanted)
        remaining = iter(lesions)
        return [[(next(remaining), part) for _, part in study] for study in keys]

    def _writeStudy(self, listNode, baselineNode, volumeNode, study: engine.TrackedStudy, embedding) -> Any:
        """One follow-up's matched list."""
        name = texts.findingsListName(volumeNode.GetName())
        matched = match_list.ensureMatchList(listNode, baselineNode, volumeNode, name)
        labels, written = [], []
        for item in self._request.planned:
            finding = study.findings.get(item.lesion.label)
            if finding is None:
                continue
            result = match_list.PointResult.fromMatch(item.lesion.uid, finding)
            result = replace(result, presence=_presence(item.lesion.label, finding, study.assignment))
            world = None
            if finding.lps is not None and result.status != match_list.NOT_FOUND:
                world = node_geometry.volumeLPSToWorld(volumeNode, np.asarray(finding.lps))[0]
            labels.append(item.lesion.label)
            written.append((result, world))
        kept = match_list.writeMatches(matched, labels, written, self._request.lock)
        for label, (result, _) in zip(labels, written):
            if label in kept:  # the position stays the user's; what is segmented there is news all the same
                sizes = {"diameterMm": result.diameterMm, "shortMm": result.shortMm, "volumeMl": result.volumeMl}
                match_list.update(matched, result.templatePoint, presence=result.presence, **sizes)
        match_list.describeOrigin(matched, embedding, "track")
        moved_volumes.remember(matched)
        return matched

    def _proposals(self, matched, volumeNode, study: engine.TrackedStudy) -> List[diameters.Proposal]:
        """The lines between matched ends that fit what is written about their lesions."""
        found, defined = [], node_geometry.definedPointIndices(matched)
        baselineNode = slicer.mrmlScene.GetNodeByID(self._request.baselineID)
        for item, asked in zip(self._request.planned, self._request.inputs):
            ends = study.ends.get(item.lesion.label)
            index = match_list.indexOfTemplatePoint(matched, item.lesion.uid)
            if ends is None or index not in defined:
                continue
            ends = laid_like(ends, _gridOf(volumeNode), asked.endsLPS, _gridOf(baselineNode))
            world = node_geometry.volumeLPSToWorld(volumeNode, ends)
            if is_credible(world, node_geometry.pointWorld(matched, index), item.mark.diameterMm):
                found.append((item.lesion.uid, item.lesion.label, world))
        return found


def _gridOf(volumeNode) -> Grid:
    """A volume's geometry in its own frame, LPS mm."""
    return Grid(volumeNode.GetImageData().GetDimensions()[::-1], node_geometry.ijkToLPS(volumeNode))


def _presence(label: str, finding: Any, assignment: Any) -> str:
    """What the study's segmentation says about a lesion's place."""
    if assignment is None or finding.lps is None:
        return ""
    if label in assignment.parts:
        return match_list.SEGMENTED
    return match_list.MERGED if label in assignment.merged else match_list.VANISHED


def _writeNew(matched, volumeNode, new, lock: bool) -> None:
    """Put the lesions that are new in a study into its matched list; those that are no longer new leave it."""
    uids = {lesion.uid for lesion, _ in new}
    for n in reversed(range(matched.GetNumberOfControlPoints())):
        result = match_list.resultAt(matched, n)
        if result is not None and result.presence == match_list.NEW and result.templatePoint not in uids:
            match_list.removeMatch(matched, result.templatePoint)
    labels, written = [], []
    for lesion, part in new:
        result = match_list.PointResult(
            lesion.uid,
            match_list.MATCHED,
            reason=texts.reasonNew(),
            diameterMm=part.diameter_mm,
            shortMm=math.nan if part.short_mm is None else part.short_mm,
            volumeMl=math.nan if part.volume_ml is None else part.volume_ml,
            presence=match_list.NEW,
        )
        labels.append(lesion.label)
        written.append((result, node_geometry.volumeLPSToWorld(volumeNode, part.center_lps)[0]))
    match_list.writeMatches(matched, labels, written, lock)


@dataclass(frozen=True)
class Snapshot:
    """All lesion lists of a baseline as values, for undo.

    :param past: what a report said of the lesions, as it is kept (past.py).
    """

    baselineID: str
    lesions: Optional[list]
    findings: Dict[str, list]
    lines: Dict[diameters.Key, Any]
    past: Optional[str] = None

    @staticmethod
    def of(baselineNode) -> Snapshot:
        listNode = lesion_list.findLesionList(baselineNode)
        found = {}
        for node in lesion_list.findingsOf(listNode):
            found[node.GetNodeReferenceID(match_list.ROLE_QUERY)] = match_list.captureList(node)
        lines = diameters.capture(listNode) if listNode is not None else {}
        past = listNode.GetAttribute(PAST) if listNode is not None else None
        return Snapshot(baselineNode.GetID(), match_list.captureList(listNode), found, lines, past)

    def restore(self) -> None:
        """Make the scene's lesion lists what they were; each only as far as its volumes still are there."""
        findings_table.remove(self.restoreLists())

    def restoreLists(self) -> List[Any]:
        """As :meth:`restore`; the tables that have lost their list, which takes as long, are left to the caller."""
        scene = slicer.mrmlScene
        baselineNode = scene.GetNodeByID(self.baselineID)
        if baselineNode is None:
            return []
        listNode = lesion_list.findLesionList(baselineNode)
        for node in lesion_list.findingsOf(listNode):
            if node.GetNodeReferenceID(match_list.ROLE_QUERY) not in self.findings:
                hierarchy.removeNode(node)
        if self.lesions is None:
            tables = findings_table.nodesOf(listNode) if listNode is not None else []
            if listNode is not None:
                diameters.removeProposals(listNode)
                hierarchy.removeNode(listNode)
            return tables
        listNode = lesion_list.ensureLesionList(baselineNode)
        match_list.restoreList(listNode, self.lesions)
        listNode.SetAttribute(PAST, self.past)
        for volumeID, captured in self.findings.items():
            volumeNode = scene.GetNodeByID(volumeID) if volumeID else None  # None: gone before the snapshot
            if volumeNode is not None:
                name = texts.findingsListName(volumeNode.GetName())
                match_list.restoreList(match_list.ensureMatchList(listNode, baselineNode, volumeNode, name), captured)
        diameters.restore(listNode, self.lines)
        findings_table.update(listNode)
        return []


def snapshotAction(logic, name: str, before: Snapshot, after: Snapshot) -> Action:
    """An undoable change from one snapshot to another; what was added to the latter without a step of its own (see
    looking.py) comes back with it."""
    latest = {"after": after}

    def put(snapshot: Snapshot) -> None:
        with logic.writing():
            snapshot.restore()
        logic.tracker.follow(slicer.mrmlScene.GetNodeByID(snapshot.baselineID), logic.tracker.order())
        if logic.tracker.onChanged is not None:
            logic.tracker.onChanged()

    def back() -> None:
        baselineNode = slicer.mrmlScene.GetNodeByID(after.baselineID)
        if baselineNode is not None:
            latest["after"] = Snapshot.of(baselineNode)
        put(before)

    return Action(name, back, lambda: put(latest["after"]))
