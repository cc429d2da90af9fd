"""Writing what a lesion tracking run found into the scene, and taking it back as one step.

Everything is checked again before the first write, because minutes may lie between request and commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import numpy as np
import slicer

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import conversion, engine, lesion_findings, lesion_list, lesion_table, results, texts
from SAMv2SlicerLib.undo import Action


@dataclass(frozen=True)
class TrackRequest:
    """What was asked, by IDs and values only; ``planned`` in the order of ``inputs``."""

    baselineID: str
    followUpIDs: Tuple[str, ...]
    planned: Tuple[lesion_list.PlannedLesion, ...]
    inputs: Tuple[engine.LesionInput, ...]
    verified: Tuple[engine.VerifiedInput, ...]
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
            decided = lesion_findings.decidedUIDs(listNode)
            dropped = lesion_list.write(listNode, request.planned, decided)
            for n, node in enumerate(nodes):
                self._writeStudy(listNode, baselineNode, node, computed.results[n], computed.embeddings[1 + n])
            for matched in lesion_list.findingsOf(listNode):
                for uid in dropped:
                    results.removeMatch(matched, uid)
        order = self._tracker.order()
        table = lesion_table.update(listNode, order if set(nodes) <= set(order) else nodes)
        results.describeOrigin(table, computed.embeddings[0], "track")
        self._tracker.follow(baselineNode, order if order else nodes)
        name = texts.actionTrack(len(request.inputs), len(nodes))
        logic.undoStack.push(snapshotAction(logic, name, before, Snapshot.of(baselineNode)))
        return table

    def _writeStudy(self, listNode, baselineNode, volumeNode, found: Dict[str, Any], embedding) -> None:
        """One follow-up's matched list; ``found`` has a Finding of SAMv2Core per label."""
        name = texts.findingsListName(volumeNode.GetName())
        matched = results.ensureMatchList(listNode, baselineNode, volumeNode, name)
        labels, written = [], []
        for item in self._request.planned:
            finding = found.get(item.lesion.label)
            if finding is None:
                continue
            result = results.PointResult.fromMatch(item.lesion.uid, finding)
            world = None
            if finding.lps is not None and result.status != results.NOT_FOUND:
                world = conversion.volumeLPSToWorld(volumeNode, np.asarray(finding.lps))[0]
            labels.append(item.lesion.label)
            written.append((result, world))
        results.writeMatches(matched, labels, written, self._request.lock)
        results.describeOrigin(matched, embedding, "track")


@dataclass(frozen=True)
class Snapshot:
    """All lesion lists of a baseline as values, for undo."""

    baselineID: str
    lesions: Optional[list]
    findings: Dict[str, list]

    @staticmethod
    def of(baselineNode) -> Snapshot:
        listNode = lesion_list.findLesionList(baselineNode)
        found = {}
        for node in lesion_list.findingsOf(listNode):
            found[node.GetNodeReferenceID(results.ROLE_QUERY)] = results.captureList(node)
        return Snapshot(baselineNode.GetID(), results.captureList(listNode), found)

    def restore(self) -> None:
        """Make the scene's lesion lists what they were; each only as far as its volumes still are there."""
        scene = slicer.mrmlScene
        baselineNode = scene.GetNodeByID(self.baselineID)
        if baselineNode is None:
            return
        listNode = lesion_list.findLesionList(baselineNode)
        for node in lesion_list.findingsOf(listNode):
            if node.GetNodeReferenceID(results.ROLE_QUERY) not in self.findings:
                results.removeNode(node)
        if self.lesions is None:
            if listNode is not None:
                lesion_table.remove(listNode)
                results.removeNode(listNode)
            return
        listNode = lesion_list.ensureLesionList(baselineNode)
        results.restoreList(listNode, self.lesions)
        for volumeID, captured in self.findings.items():
            volumeNode = scene.GetNodeByID(volumeID)
            if volumeNode is not None:
                name = texts.findingsListName(volumeNode.GetName())
                results.restoreList(results.ensureMatchList(listNode, baselineNode, volumeNode, name), captured)
        lesion_table.update(listNode)


def snapshotAction(logic, name: str, before: Snapshot, after: Snapshot) -> Action:
    """An undoable change from one snapshot to another."""

    def put(snapshot: Snapshot) -> None:
        with logic.writing():
            snapshot.restore()
        logic.tracker.follow(slicer.mrmlScene.GetNodeByID(snapshot.baselineID), logic.tracker.order())
        if logic.tracker.onChanged is not None:
            logic.tracker.onChanged()

    return Action(name, lambda: put(before), lambda: put(after))
