"""Drawing batches in the background, and how long the training had to wait for them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Dict, List

from Training.engine.task import Batch

Draw = Callable[[int, int], Batch]


class Prefetcher:
    """Draws the groups of the next steps in threads, in any order; gives them out in theirs.

    Threads, not processes: drawing is copying from memory-mapped files and tensor operations, which release Python's
    lock, and a batch need not be copied between processes.

    :param draw: (step, group) -> batch.
    :param groups: numbers of this process's groups.
    :param end: first step that is not drawn.
    :param ahead: steps drawn in advance.
    """

    def __init__(self, draw: Draw, groups: List[int], start: int, end: int, workers: int, ahead: int) -> None:
        self._draw = draw
        self._groups = groups
        self._next = start
        self._end = end
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="draw")
        self._pending: Dict[int, List[Future[Batch]]] = {}
        self.waited_s = 0.0
        self._fill(start)

    def _fill(self, step: int) -> None:
        while self._next < min(self._end, step + self._ahead + 1):
            self._pending[self._next] = [self._pool.submit(self._draw, self._next, group) for group in self._groups]
            self._next += 1

    def get(self, step: int) -> List[Batch]:
        """The batches of a step; steps are asked for in order. Errors of drawing are raised here."""
        self._fill(step)
        began = time.perf_counter()
        batches = [future.result() for future in self._pending.pop(step)]
        self.waited_s += time.perf_counter() - began
        return batches

    def close(self) -> None:
        """Stop drawing."""
        self._pool.shutdown(wait=True, cancel_futures=True)
