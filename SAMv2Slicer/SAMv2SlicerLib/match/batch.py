"""One template onto many scans: the match jobs of a batch, one after the other.

Only one scan's voxels are copied at a time. A scan that fails does not stop the others; what is finished stays when
the batch is cancelled.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence, Tuple

import slicer

from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.live_matching import LiveInputs
from SAMv2SlicerLib.work.worker import Job


class BatchMatch:
    """Matches the points of a template in several queries.

    :param inputs: template, points and options; its query only tells which scan a segment belongs to.
    :param onEnd: called with this batch when everything is done or cancelled.
    """

    def __init__(
        self, logic, inputs: LiveInputs, queryNodes: Sequence[Any], onEnd: Optional[Callable[[BatchMatch], None]] = None
    ) -> None:
        self._logic = logic
        self._inputs = inputs
        self._queryIDs = [node.GetID() for node in queryNodes]
        self._next = 0
        self._isCancelled = False
        self._onEnd = onEnd
        self.job: Optional[Job] = None
        self.matchedIDs: List[str] = []
        """IDs of the matched lists that were written."""
        self.errors: List[Tuple[str, BaseException]] = []
        """(query node ID, error) of the scans that failed."""

    def start(self) -> None:
        """Begin with the first scan; everything that goes wrong ends up in ``errors``."""
        self._step()

    def cancel(self) -> None:
        """Stop the scan that is being matched and do not begin another."""
        self._isCancelled = True
        if self.job is not None:
            self.job.cancel()

    def isRunning(self) -> bool:
        return self.job is not None

    def isCancelled(self) -> bool:
        return self._isCancelled

    def fraction(self) -> float:
        """0..1 over all scans."""
        done = max(self._next - 1, 0)
        return (done + (self.job.fraction if self.job is not None else 1.0)) / max(len(self._queryIDs), 1)

    def text(self) -> str:
        """What is going on, with the number of the scan when there are several."""
        text = self.job.text if self.job is not None else ""
        if len(self._queryIDs) < 2:
            return text
        return texts.progressBatch(self._next, len(self._queryIDs), text)

    def _step(self) -> None:
        """Start the next scan that can be started."""
        self.job = None
        while self._next < len(self._queryIDs) and not self._isCancelled:
            queryID = self._queryIDs[self._next]
            self._next += 1
            try:
                self.job = self._startOne(queryID)
                return
            except SAMv2Error as error:
                self.errors.append((queryID, error))
        if self._onEnd is not None:
            self._onEnd(self)

    def _startOne(self, queryID: str) -> Job:
        inputs = self._inputs
        queryNode = slicer.mrmlScene.GetNodeByID(queryID)
        nodes = (inputs.templateNode, queryNode, inputs.pointsNode)
        if any(node is None or node.GetScene() is None for node in nodes):
            raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
        return self._logic.startMatch(
            *nodes,
            None,
            inputs.method,
            inputs.model,
            inputs.device,
            inputs.modalities,
            inputs.lock,
            onEnd=self._onJobEnd,
            inside=inputs.inside if queryNode is inputs.queryNode else None,  # a segmentation belongs to one scan
            further=inputs.furtherFor(queryNode),
        )

    def _onJobEnd(self, job: Job) -> None:
        if job.isCancelled():
            self._isCancelled = True
        elif job.error is not None:
            self.errors.append((self._queryIDs[self._next - 1], job.error))
        else:
            self.matchedIDs.append(job.value.GetID())
        self._step()
