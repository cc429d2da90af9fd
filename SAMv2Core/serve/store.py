"""What a service keeps between requests: volumes, masks and embeddings by their content.

In memory only, and the least recently used goes first. A volume belongs to everyone who has sent it, that is, who knows
its content; it is forgotten when the last of them says so.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Optional, Set, Tuple

from SAMv2Core.errors import MemoryLimitError

Key = Tuple[Any, ...]
"""(kind, content's hash, ...)."""

VOLUME, MASK, EMBEDDING = "volume", "mask", "embedding"


@dataclass
class _Entry:
    value: Any
    n_bytes: int
    owners: Set[str] = field(default_factory=set)


class Store:
    """Entries up to a number of bytes.

    :param limit_bytes: of all entries and reservations together. What is in use at the moment may exceed it by one
        entry: an embedding that has been computed is kept, and the others go.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = int(limit_bytes)
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._reserved = 0
        self._lock = threading.RLock()

    def get(self, key: Key) -> Optional[Any]:
        """An entry, which is then the most recently used; None when it is not there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def has(self, key: Key) -> bool:
        with self._lock:
            return key in self._entries

    def put(self, key: Key, value: Any, n_bytes: int, owner: str) -> None:
        """Keep an entry, or add an owner to the one that is there."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(value, n_bytes))
            entry.owners.add(owner)
            self._entries.move_to_end(key)
            self._evict(0, keep=key)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[Reservation]:
        """Room for something that is on its way, given back at the end."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            reservation.give_back()

    def forget(self, owner: str, content: str, kind: str = "") -> None:
        """An owner needs some content no more, nor what was made of it.

        :param kind: of that content only this kind of entry.
        """
        with self._lock:
            for key in [key for key in self._entries if key[1] == content and kind in ("", key[0])]:
                entry = self._entries[key]
                entry.owners.discard(owner)
                if not entry.owners:
                    del self._entries[key]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def n_bytes(self) -> int:
        """Of all entries and reservations."""
        with self._lock:
            return self._reserved + sum(entry.n_bytes for entry in self._entries.values())

    def facts(self) -> Dict[str, int]:
        """For people."""
        with self._lock:
            kinds = [key[0] for key in self._entries]
            return {
                "volumes": kinds.count(VOLUME),
                "embeddings": kinds.count(EMBEDDING),
                "bytes": self.n_bytes(),
                "limit_bytes": self.limit_bytes,
            }

    def _reserve(self, n_bytes: int) -> None:
        with self._lock:
            if self._reserved + n_bytes > self.limit_bytes:
                raise MemoryLimitError(
                    f"There is no room for {n_bytes / 2**30:.2f} GiB: {self.limit_bytes / 2**30:.2f} GiB may be kept.",
                    "Crop or resample the volume, try again later, or let more be kept (--max-memory).",
                )
            self._reserved += n_bytes
            self._evict(0, keep=None)

    def _give_back(self, n_bytes: int) -> None:
        with self._lock:
            self._reserved -= n_bytes

    def _evict(self, n_bytes: int, keep: Optional[Key]) -> None:
        for key in list(self._entries):
            if self.n_bytes() + n_bytes <= self.limit_bytes:
                return
            if key != keep:
                del self._entries[key]


class Reservation:
    """A part of a store's room, see :meth:`Store.reserved`."""

    def __init__(self, store: Store) -> None:
        self._store, self._n_bytes = store, 0

    def __call__(self, n_bytes: int) -> None:
        """Take more of it.

        :raises MemoryLimitError: there is none.
        """
        self._store._reserve(n_bytes)
        self._n_bytes += n_bytes

    def give_back(self) -> None:
        self._store._give_back(self._n_bytes)
        self._n_bytes = 0
