"""Embeddings kept on disk, so that a volume is embedded once and not at every click.

An entry is named by what it was computed *from* (SHA-256 over voxels, geometry, weights and options), never
by a file name or a date: the same scan under another name is found, a changed scan is not. Names of files are
not kept.

Entries lie in one of 256 folders, by the first two digits of their names; those of versions that knew no such
folders are found beside them. The cache is not listed at every store: a look finds how much room there is, and a
process may store a 32nd part of it before it looks again; when a look finds less than a 64th of the bound, it makes
room for a 16th. So a store costs the times of use of some 1,000 entries on average, of however many, and up to 32
processes stay within the bound.

Several processes may share a folder. Entries are written under a temporary name and renamed, so a reader sees
a whole entry or none; two writers of one entry write the same content; an entry removed under a reader's feet
is a miss. There are no locks to be left behind. The least recently used entries go first when the folder
grows over its bound; the time of use is the file's modification time, which, unlike the access time, every
file system keeps.

A cache must never stop the work: a damaged entry is dropped, and a folder that cannot be written is a
warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import PathLike

if TYPE_CHECKING:
    from SAMv2Core.embedding.embedding import Embedding
    from SAMv2Core.io.volume import Volume

logger = logging.getLogger(__name__)

#: Some 150 torso CTs with the bundled model.
DEFAULT_MAX_BYTES = 10 * 2**30

ENVIRONMENT_VARIABLE = "SAMV2_CACHE_DIR"

_SUFFIX = ".samv2.safetensors"
#: Names that :func:`SAMv2Core.io.files.atomic_path` gives to unfinished entries.
_TEMPORARY = re.compile(r"\.[0-9a-f]{60}\.[0-9a-f]+\.part\.safetensors$")
#: A temporary file this old was left by a process that died; younger ones may be in use.
_ABANDONED_SECONDS = 3600.0

_SHARD = re.compile(r"[0-9a-f]{2}$")
#: Part of the free room that a process may store before it looks again.
_SHARE = 1 / 32
#: Parts of the bound: less is too little room, so much is made then.
_TOO_LITTLE, _ENOUGH = 1 / 64, 1 / 16
#: Bytes that this process may still store, by folder and bound. No object's: a batch opens the cache for every row.
_allowed: Dict[Tuple[str, int], float] = {}

#: Stands for the volume's name in stored warnings.
_SOURCE = "{source}"

Option = Union[str, int, float]


def default_folder() -> Path:
    """The folder used unless told otherwise: ``$SAMV2_CACHE_DIR``, else the platform's place for caches."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "SAMv2" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "SAMv2"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "SAMv2"


def cache_key(volume: Volume, options: Mapping[str, Option]) -> str:
    """64 hexadecimal digits that change with the voxels, the geometry, the tagged modality and every option.

    :param options: whatever else the result depends on: hash of the weights, versions, precision.
    """
    array = volume.array
    head = {
        "dtype": array.dtype.newbyteorder("<").str,
        "shape": list(array.shape),
        "ijk_to_lps": volume.ijk_to_lps.tolist(),
        "modality": volume.modality,
        "options": dict(options),
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for plane in array:  # plane by plane: a view with strides is copied one plane at a time, not as a whole
        plane = np.ascontiguousarray(plane, dtype=array.dtype.newbyteorder("<"))
        digest.update(plane.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def without_names(emb: Embedding, volume: Volume) -> Embedding:
    """As an embedding goes into the cache: the same voxels may come from another file, and names may be patients'."""
    made_here = [text for text in emb.warnings if text not in volume.warnings]
    texts = tuple(text.replace(volume.source, _SOURCE) if volume.source else text for text in made_here)
    return replace(emb, source="", warnings=texts)


def with_names(emb: Embedding, volume: Volume) -> Embedding:
    """As an embedding from the cache is told: made from this volume. Undoes :func:`without_names`."""
    texts = [text.replace(_SOURCE, volume.source) for text in emb.warnings]
    return replace(emb, source=volume.source, warnings=(*volume.warnings, *texts))


@dataclass(frozen=True)
class Entry:
    """One stored embedding: its file, bytes and time of last use (seconds since 1970)."""

    path: Path
    n_bytes: int
    last_used: float


class Cache:
    """A folder of embeddings, bounded in size.

    Parameters
    ----------
    folder : path, optional
        Created when first written to; None: the command line's own, ``$SAMV2_CACHE_DIR`` or the platform's place.
    max_bytes : int
        Bound on the sum of all entries.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> model, cache = s.load_model("lite-ct", "cpu"), s.Cache("embeddings")
    >>> first = model.embed(volume, cache=cache)
    >>> again = model.embed(volume, cache=cache)  # read, not computed; cache=True is the command line's
    >>> bool((first.fine.vectors[:, first.body] == again.fine.vectors[:, first.body]).all())  # the air is not kept
    True
    """

    def __init__(self, folder: Optional[PathLike] = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = Path(folder).expanduser() if folder is not None else default_folder()
        self.max_bytes = int(max_bytes)

    @classmethod
    def of_size(cls, folder: Optional[PathLike], gib: Optional[float]) -> Cache:
        """A cache that is bounded by so many GiB; None: by the default."""
        return cls(folder) if gib is None else cls(folder, int(gib * 2**30))

    def __repr__(self) -> str:
        return f"Cache({str(self.folder)!r}, max_bytes={self.max_bytes})"

    def path_of(self, key: str) -> Path:
        """The file of an entry, whether it exists or not."""
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _found(self, key: str) -> Optional[Path]:
        """The file of an entry that exists, perhaps where earlier versions have put it."""
        path = self.path_of(key)
        return next((place for place in (path, self.folder / path.name) if place.is_file()), None)

    def load(self, key: str) -> Optional[Embedding]:
        """The stored embedding, None when there is none; a damaged one is dropped with a warning."""
        from SAMv2Core.embedding.file import load_embedding

        path = None
        try:
            path = self._found(key)
            if path is None:
                return None
            emb = load_embedding(path)
        except (InputError, OSError) as error:
            if path is not None and path.exists():  # else another process has just removed it
                logger.warning("Dropped an unusable entry of the embedding cache: %s", error)
                _remove(path)
            return None
        with contextlib.suppress(OSError):  # a read-only cache serves, it only cannot tell what was used last
            os.utime(path)
        return emb

    def store(self, key: str, emb: Embedding, body_only: bool = True) -> Optional[str]:
        """Keep an embedding, then remove the least recently used ones over the bound.

        :param body_only: without the vectors of the air around the patient, which nothing is matched with.

        :returns: None when it was stored, else a warning for the user; a failure is not an error.
        """
        from SAMv2Core.embedding.file import save_embedding

        if emb.nbytes > self.max_bytes:
            return self._not_stored(f"it takes {emb.nbytes / 2**30:.2f} GiB, more than the cache may hold")
        path = self.path_of(key)
        try:
            # Room first: on a nearly full disk the old entries must go before the new one can be written.
            if not self._may_store(emb.nbytes):
                self.evict(reserve_bytes=emb.nbytes)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_embedding(emb, path, extra={"cache_key": key}, body_only=body_only)
            with contextlib.suppress(FileNotFoundError):  # another process has already made room of it
                if not self._may_store(path.stat().st_size - emb.nbytes):
                    self.evict()
        except (OutputError, OSError) as error:
            return self._not_stored(error.cause if isinstance(error, OutputError) else str(error))
        return None

    def _may_store(self, n_bytes: int) -> bool:
        """Whether so many bytes more are allowed without another look at the folder; if so, they count as stored."""
        place = (str(self.folder), self.max_bytes)
        left = _allowed.get(place, 0.0) - n_bytes
        if left < 0:
            return False
        _allowed[place] = left
        return True

    def _not_stored(self, reason: str) -> str:
        warning = f"The embedding was not kept in the cache: {reason.rstrip('.')}."
        logger.warning("%s", warning)
        return warning

    def entries(self) -> List[Entry]:
        """All entries, least recently used first; an unreadable folder has none."""
        found = []
        for file in self._files():
            if file.name.endswith(_SUFFIX):
                with contextlib.suppress(OSError):
                    status = file.stat()
                    found.append(Entry(Path(file.path), status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: (entry.last_used, entry.path.name))

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """All files of the cache, of whatever name; an unreadable folder has none."""
        folders = [str(self.folder)]
        for folder in folders:  # which grows: those below the first one
            with contextlib.suppress(OSError), os.scandir(folder) as found:
                for entry in found:
                    if entry.is_file():
                        yield entry
                    elif len(folders) <= 256 and folder == folders[0] and _SHARD.match(entry.name):
                        folders.append(entry.path)

    def size_bytes(self) -> int:
        """Sum of all entries."""
        return sum(entry.n_bytes for entry in self.entries())

    def evict(self, reserve_bytes: int = 0) -> int:
        """When the rest and a reserve leave less than a 64th of the bound, remove the least recently used entries until
        they leave a 16th; remove what dead processes left behind.

        :returns: number of entries removed.
        """
        self._remove_abandoned()
        entries = self.entries()
        total, n_removed = sum(entry.n_bytes for entry in entries) + reserve_bytes, 0
        is_short = total > self.max_bytes * (1 - _TOO_LITTLE)
        bound = self.max_bytes * (1 - _ENOUGH) if is_short else self.max_bytes
        for entry in entries:
            if total <= bound:
                break
            _remove(entry.path)  # open in another process on Windows: it stays for now, and the next one goes
            if not entry.path.exists():
                total -= entry.n_bytes
                n_removed += 1
        _allowed[str(self.folder), self.max_bytes] = max(0.0, (self.max_bytes - total) * _SHARE)
        return n_removed

    def clear(self) -> int:
        """Remove all entries; files of others in the folder stay. Returns the number of bytes freed."""
        freed = 0
        for entry in self.entries():
            _remove(entry.path)
            freed += 0 if entry.path.exists() else entry.n_bytes
        self._remove_abandoned(0.0)
        for number in range(256):
            with contextlib.suppress(OSError):  # not there, or not empty
                (self.folder / f"{number:02x}").rmdir()
        _allowed.pop((str(self.folder), self.max_bytes), None)
        return freed

    def _remove_abandoned(self, older_than_seconds: float = _ABANDONED_SECONDS) -> None:
        now = time.time()
        for file in self._files():
            with contextlib.suppress(OSError):
                if _TEMPORARY.match(file.name) and now - file.stat().st_mtime >= older_than_seconds:
                    os.unlink(file.path)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
