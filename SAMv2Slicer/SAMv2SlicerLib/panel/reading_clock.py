"""How many actions and seconds each lesion takes its reader: counted here, kept nowhere, shown when asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping

from SAMv2SlicerLib import texts

IDLE_SECONDS = 120.0
"""A longer pause between two actions is no reading; none of it counts."""


@dataclass
class Effort:
    """What one lesion took."""

    actions: int = 0
    seconds: float = 0.0


class ReadingClock:
    """Counts by Tracking UID; what is done before a lesion exists counts for the lesion that comes of it.

    :param now: seconds of a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.clear()

    def clear(self) -> None:
        """Another scene, or another reader."""
        self._efforts: Dict[str, Effort] = {}
        self._pending = Effort()
        self._last = self._now()

    def count(self, uid: str, actions: int = 1) -> None:
        """The reader did something for a lesion; "" for one that is not there yet."""
        now = self._now()
        passed, self._last = now - self._last, now
        effort = self._efforts.setdefault(uid, Effort()) if uid else self._pending
        effort.actions += actions
        effort.seconds += passed if passed <= IDLE_SECONDS else 0.0
        if uid:
            effort.actions += self._pending.actions
            effort.seconds += self._pending.seconds
            self._pending = Effort()

    def effortOf(self, uid: str) -> Effort:
        return self._efforts.get(uid, Effort())

    def lines(self, labels: Mapping[str, str]) -> List[str]:
        """A line per lesion, the sum last.

        :param labels: by Tracking UID, in the order wanted.
        """
        efforts = [(label, self.effortOf(uid)) for uid, label in labels.items()]
        told = [texts.effortLine(label, effort.actions, effort.seconds) for label, effort in efforts]
        total = Effort(sum(e.actions for _, e in efforts), sum(e.seconds for _, e in efforts))
        return [*told, texts.effortTotal(total.actions, total.seconds)]
