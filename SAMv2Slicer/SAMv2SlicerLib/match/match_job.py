"""A match request on the scene and the writing of its result: both in the main thread, minutes may lie between them.

In between nodes may be renamed, moved, edited or deleted; the commit therefore goes by node and control point IDs,
checks everything again, and either writes all that is still meaningful or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import numpy as np
import slicer
import slicer.util

from SAMv2Core.errors import InputError
from SAMv2Core.matching.search_mask import SearchMask
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import hierarchy, match_list, moved_volumes, node_geometry
from SAMv2SlicerLib.scene.undo import Action

MOVED_MM = 1e-3


@dataclass(frozen=True)
class MatchRequest:
    """What was asked, by IDs and values only.

    :param pointsLPS: (N, 3) the points in template volume LPS.
    :param pointsWorld: (N, 3) the points in world RAS, to notice later that one was moved.
    :param inside: name of the segment that was searched, empty for everything.
    :param further: names of the further templates.
    """

    templateID: str
    queryID: str
    pointsID: str
    pointIDs: Tuple[str, ...]
    pointsLPS: np.ndarray
    pointsWorld: np.ndarray
    method: str
    lock: bool
    live: bool
    inside: str = ""
    further: Tuple[str, ...] = ()


def matchRequest(
    templateNode,
    queryNode,
    pointsNode,
    pointIDs: Optional[Sequence[str]],
    method: str,
    lock: bool,
    live: bool,
    mask: Optional[SearchMask] = None,
    further: Sequence[str] = (),
) -> MatchRequest:
    """Read the points from the scene.

    :param pointIDs: control point IDs, None for all placed points; those without a position are left out.
    :raises InputError: no point has a position.
    """
    indices = [
        index
        for index in node_geometry.definedPointIndices(pointsNode)
        if pointIDs is None or pointsNode.GetNthControlPointID(index) in pointIDs
    ]
    if not indices:
        raise InputError(texts.noPointsCause(pointsNode.GetName()), texts.noPointsRemedy())
    world = node_geometry.pointsWorld(pointsNode, indices)
    return MatchRequest(
        templateID=templateNode.GetID(),
        queryID=queryNode.GetID(),
        pointsID=pointsNode.GetID(),
        pointIDs=tuple(pointsNode.GetNthControlPointID(index) for index in indices),
        pointsLPS=node_geometry.worldToVolumeLPS(templateNode, world),
        pointsWorld=world,
        method=method,
        lock=lock,
        live=live,
        inside=mask.name if mask is not None else "",
        further=tuple(further),
    )


class MatchCommit:
    """Writes the result of a match request into the scene; the completion handler of its job.

    :param logic: the module's logic (store, undo stack, listeners).
    """

    def __init__(self, logic, request: MatchRequest) -> None:
        self._logic = logic
        self._request = request

    def __call__(self, computed) -> Any:
        """The matched list node.

        :raises InputError: a volume, the list or all the points are gone, or a volume was changed; nothing is written.
        """
        request, logic = self._request, self._logic
        logic.keepEmbeddings(computed)
        templateNode, queryNode, pointsNode = (
            slicer.mrmlScene.GetNodeByID(nodeID) for nodeID in (request.templateID, request.queryID, request.pointsID)
        )
        if templateNode is None or queryNode is None or pointsNode is None:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        remaining = self._remaining(pointsNode)
        if not remaining:
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        labels, found = [], []
        for n, index in remaining:
            labels.append(pointsNode.GetNthControlPointLabel(index))
            found.append(self._found(n, computed.results[n], queryNode))
        listNode = self._write(templateNode, queryNode, pointsNode, labels, found, computed.embeddings[-1])
        if logic.onMatched is not None:
            logic.onMatched(listNode, [result.templatePoint for result, _ in found], request.live)
        return listNode

    def _remaining(self, pointsNode):
        """(n in request, index in list) of the points that still exist, and, unless live, still are where they were."""
        remaining = []
        for n, pointID in enumerate(self._request.pointIDs):
            index = pointsNode.GetNthControlPointIndexByID(pointID)
            if index < 0:
                continue
            moved = np.linalg.norm(node_geometry.pointWorld(pointsNode, index) - self._request.pointsWorld[n])
            if self._request.live or moved <= MOVED_MM:
                remaining.append((n, index))
        return remaining

    def _found(self, n: int, match, queryNode):
        """(facts, world position or None) of the nth match."""
        result = match_list.PointResult.fromMatch(self._request.pointIDs[n], match)
        if match.query_lps is None or result.status == match_list.NOT_FOUND:
            return result, None
        return result, node_geometry.volumeLPSToWorld(queryNode, np.asarray(match.query_lps))[0]

    def _write(self, templateNode, queryNode, pointsNode, labels, found, embedding):
        before = match_list.captureList(match_list.findMatchList(pointsNode, queryNode))
        with self._logic.writing():
            listNode = match_list.ensureMatchList(pointsNode, templateNode, queryNode)
            with slicer.util.NodeModify(listNode):
                match_list.writeMatches(listNode, labels, found, self._request.lock)
                match_list.describeOrigin(listNode, embedding, self._request.method)
                listNode.SetAttribute("SAMv2.inside", self._request.inside or None)
                listNode.SetAttribute("SAMv2.furtherTemplates", "; ".join(self._request.further) or None)
                moved_volumes.remember(listNode)
        key = "live:" + ",".join(self._request.pointIDs) if self._request.live else None
        self._logic.undoStack.push(listAction(self._logic, listNode, before, texts.actionMatch(len(labels)), key))
        return listNode


def listAction(logic, listNode, before, name: str, key: Optional[str] = None) -> Action:
    """An undoable change of a matched list that has just been made.

    :param before: ``match_list.captureList`` of the list before the change, None when the change made the list.
    """
    after = match_list.captureList(listNode)
    ids = tuple(
        listNode.GetNodeReferenceID(role)
        for role in (match_list.ROLE_POINTS, match_list.ROLE_TEMPLATE, match_list.ROLE_QUERY)
    )

    def put(captured) -> None:
        pointsNode, templateNode, queryNode = (slicer.mrmlScene.GetNodeByID(nodeID or "") for nodeID in ids)
        if pointsNode is None or templateNode is None or queryNode is None:
            return
        with logic.writing():
            if captured is None:
                existing = match_list.findMatchList(pointsNode, queryNode)
                if existing is not None:
                    hierarchy.removeNode(existing)
            else:
                match_list.restoreList(match_list.ensureMatchList(pointsNode, templateNode, queryNode), captured)

    return Action(name, lambda: put(before), lambda: put(after), key)
