"""The index of prepared scans: what ``Training.prepare`` writes and what every recipe reads.

A folder holds ``index.jsonl`` and ``.npy`` arrays that memory-map. The first line of the index is a header,
``{"format": "samv2-training-index", "version": 1}``; every further line is one :class:`Entry`. Nothing is computed on
reading: a thousand scans open in milliseconds, and a worker process that receives an :class:`Index` receives text.

Conventions: arrays (z, y, x) on the 2 mm lattice of :mod:`SAMv2Core.preprocessing.lattice`; world LPS mm. Images of
both modalities are int16 in *stored units*: HU for CT; for MR the network's scale [-50, 205] mapped to the same range
as CT, so that one function (:func:`to_network`) serves both, and an augmentation written for one can be tried on the
other.

An MR-CT pair is two entries that name each other as ``partner``. A point p of an entry lies in its partner at

    partner_matrix p + field(p),

where the field, if there is one, is what a deformable registration added (:mod:`Training.crosssam.adareg`).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import PathLike, write_text
from SAMv2Core.preprocessing.modality import MODALITIES

FORMAT = "samv2-training-index"
VERSION = 1
INDEX_NAME = "index.jsonl"

SPLITS = ("train", "val", None)

STORED_RANGE = (-1024.0, 3071.0)
NETWORK_RANGE = (-50.0, 205.0)
_GAIN = (NETWORK_RANGE[1] - NETWORK_RANGE[0]) / (STORED_RANGE[1] - STORED_RANGE[0])

#: Distance of the voxels of every prepared scan.
LATTICE_MM = 2.0

#: The air of CT and the darkest value of MR, in stored units: what lies outside a scan.
AIR = -1024

#: Points of a displacement field are this many voxels of the 2 mm lattice apart.
FIELD_STEP = 4

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def to_network(stored: Any) -> Any:
    """Stored units to the network's scale [-50, 205] (paper sec. 4.1); float numpy arrays or torch tensors."""
    return (stored - STORED_RANGE[0]) * _GAIN + NETWORK_RANGE[0]


def to_stored(x: np.ndarray) -> np.ndarray:
    """The network's scale [-50, 205] to int16 stored units; the inverse of :func:`to_network` up to rounding."""
    stored = (np.asarray(x, np.float32) - NETWORK_RANGE[0]) / _GAIN + STORED_RANGE[0]
    return np.round(stored).astype(np.int16)


@dataclass(frozen=True)
class Entry:
    """One prepared scan.

    :param name: unique in the index; file names are made of it.
    :param group: scans of one kind; label ids mean the same within a group, not across groups.
    :param modality: ``"ct"`` or ``"mr"``.
    :param image: path, relative to the index, of the (z, y, x) int16 array in stored units.
    :param body: path of (z, y, x) uint8, 1 inside the patient, table excluded.
    :param shape_zyx: of both.
    :param origin_lps: LPS mm of the centre of voxel 0.
    :param spacing_mm: (x, y, z), 2 mm.
    :param direction: (9,) row by row the 3x3 matrix whose columns are the axes; the identity unless the scan was
        slightly oblique.
    :param image_4mm: path of the means of 2x2x2 voxels, int16 stored units (odd last planes dropped), or None.
    :param body_4mm: path of the same of the body, uint8 by majority, or None.
    :param labels: path of (z, y, x) uint8 or uint16, 0 = no label, or None.
    :param label_names: name of each id that occurs, by the id as text (JSON has no other keys).
    :param partner: name of the entry of the other modality of the same patient, or None.
    :param partner_matrix: (16,) row by row the 4x4 LPS matrix, own points to the partner's, or None: not registered.
    :param partner_field: path of (d, h, w, 3) float32 LPS mm, added to the matrix' result; its points lie at every
        ``FIELD_STEP``-th voxel from voxel 0 on; or None.
    :param weight: 0..1, trust in the pair; a pair of weight 0 is not trained on.
    :param split: ``"train"``, ``"val"`` or None.
    :param landmarks: hand-placed points: name to (x, y, z, sure), LPS mm and 0..1; or None.
    :param source: path of the image that was read.
    :param fingerprint: of all files that were read and of the preparation's version; another one: prepare again.
    :param warnings: what was odd.
    """

    name: str
    group: str
    modality: str
    image: str
    body: str
    shape_zyx: Tuple[int, int, int]
    origin_lps: Tuple[float, float, float]
    spacing_mm: Tuple[float, float, float] = (2.0, 2.0, 2.0)
    direction: Tuple[float, ...] = IDENTITY
    image_4mm: Optional[str] = None
    body_4mm: Optional[str] = None
    labels: Optional[str] = None
    label_names: Optional[Dict[str, str]] = None
    partner: Optional[str] = None
    partner_matrix: Optional[Tuple[float, ...]] = None
    partner_field: Optional[str] = None
    weight: float = 1.0
    split: Optional[str] = None
    landmarks: Optional[Dict[str, Tuple[float, float, float, float]]] = None
    source: str = ""
    fingerprint: str = ""
    warnings: Tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shape_zyx", "origin_lps", "spacing_mm", "direction", "partner_matrix", "warnings"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        wrong = self._what_is_wrong()
        if wrong:
            raise InputError(f"Index entry {self.name!r}: {wrong}.", "Prepare the scans again.")

    def _what_is_wrong(self) -> Optional[str]:
        lengths = {"shape_zyx": 3, "origin_lps": 3, "spacing_mm": 3, "direction": 9, "partner_matrix": 16}
        for name, length in lengths.items():
            value = getattr(self, name)
            if value is not None and not (len(value) == length and np.all(np.isfinite(np.array(value, float)))):
                return f"{name} is not {length} finite numbers"
        if self.modality not in MODALITIES:
            return f"modality {self.modality!r} is none of ct, mr"
        if self.split not in SPLITS:
            return f"split {self.split!r} is none of train, val, null"
        if not 0 <= self.weight <= 1:
            return f"weight {self.weight} is not within 0..1"
        return None

    @property
    def grid(self) -> Grid:
        """Its 2 mm lattice."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.array(self.direction).reshape(3, 3) * np.array(self.spacing_mm)
        matrix[:3, 3] = self.origin_lps
        return Grid(self.shape_zyx, matrix)

    @property
    def to_partner(self) -> Optional[np.ndarray]:
        """(4, 4) LPS, own points to the partner's, or None."""
        return None if self.partner_matrix is None else np.array(self.partner_matrix).reshape(4, 4)


@dataclass(frozen=True)
class Index:
    """The entries of a folder.

    :param folder: where the index lies; paths in entries are relative to it.
    """

    folder: Path
    entries: Tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        """:raises InputError: no entry of that name."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise InputError(f"{self.folder} holds no scan {name!r}.", "Look into its index.jsonl.")

    def select(
        self,
        groups: Optional[Sequence[str]] = None,
        split: Optional[str] = "train",
        modality: Optional[str] = None,
        labelled: bool = False,
    ) -> Tuple[Entry, ...]:
        """Entries of these groups, this split (entries without a split belong to every one) and this modality.

        :raises InputError: there are none.
        """
        found = tuple(
            entry
            for entry in self.entries
            if (groups is None or entry.group in groups)
            and (split is None or entry.split in (split, None))
            and (modality is None or entry.modality == modality)
            and not (labelled and entry.labels is None)
        )
        if not found:
            wanted = ", ".join(
                text
                for text, asked in (
                    (f"groups {groups}", groups is not None),
                    (f"split {split}", split is not None),
                    (f"modality {modality}", modality is not None),
                    ("with labels", labelled),
                )
                if asked
            )
            held = sorted({f"{entry.group}/{entry.modality}/{entry.split}" for entry in self.entries})
            raise InputError(
                f"{self.folder} holds no scans of {wanted or 'any kind'} (it holds: {', '.join(held) or 'nothing'}).",
                "Prepare such scans, or change what the recipe asks for.",
            )
        return found

    def pairs(self, split: Optional[str] = "train", registered: bool = False) -> Tuple[Tuple[Entry, Entry], ...]:
        """The CT-MR pairs, (ct, mr) each.

        :param registered: only those whose transform is known and trusted (weight above 0).
        :raises InputError: there are none.
        """
        by_name = {entry.name: entry for entry in self.entries}
        found = tuple(
            (entry, by_name[entry.partner])
            for entry in self.entries
            if entry.modality == "ct" and entry.partner in by_name and (split is None or entry.split in (split, None))
        )
        if registered:
            found = tuple((ct, mr) for ct, mr in found if ct.partner_matrix is not None and ct.weight > 0)
        if not found:
            what = "registered CT-MR pair" if registered else "CT-MR pair"
            raise InputError(
                f"{self.folder} holds no {what} (split {split}).",
                "Register its pairs with Training.crosssam_iterate." if registered else "Prepare with a list of pairs.",
            )
        return found

    def array(self, path: Optional[str]) -> np.ndarray:
        """One of an entry's arrays, memory-mapped and read-only.

        :raises InputError: the entry has none, or the file is missing or damaged.
        """
        if path is None:
            raise InputError("The scan has no such array (labels of an unlabelled scan?).", "Choose other scans.")
        full = self.folder / path
        try:
            return np.load(full, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{full} cannot be read ({error}).", "Prepare the scans again.") from error

    def check(self, entry: Entry) -> None:
        """:raises InputError: an array of the entry is missing, or of another shape than the entry says."""
        for path in (entry.image, entry.body, entry.labels):
            if path is not None and self.array(path).shape != entry.shape_zyx:
                raise InputError(f"{self.folder / path} is not of the shape in the index.", "Prepare the scans again.")


def index_path(path: PathLike) -> Path:
    """The index file: itself, or ``index.jsonl`` in a folder."""
    path = Path(path)
    return path / INDEX_NAME if path.is_dir() else path


def read_index(path: PathLike) -> Index:
    """Read an index file, or that of a folder.

    :raises InputError: missing, not an index, of another version, a damaged line (named), two entries of one name.
    """
    path = index_path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as an index ({error}).", "Run Training.prepare first.") from error
    _check_header(lines, path)
    entries: List[Entry] = []
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            entries.append(_parse(line, f"{path}, line {number}"))
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{path} holds two scans of the name {twice[0]!r}.", "Prepare the scans again.")
    return Index(path.parent, tuple(entries))


def _check_header(lines: Sequence[str], path: Path) -> None:
    try:
        header = json.loads(lines[0]) if lines else {}
    except ValueError:
        header = {}
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is not an index of prepared scans.", "Run Training.prepare to make one.")
    if header.get("version") != VERSION:
        raise InputError(
            f"{path} is an index of version {header.get('version')}; this program reads version {VERSION}.",
            "Prepare the scans again with this version.",
        )


def _parse(line: str, where: str) -> Entry:
    known = {field.name for field in fields(Entry)}
    try:
        content = json.loads(line)
        return Entry(**{key: value for key, value in content.items() if key in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is damaged ({error}).", "Run Training.prepare again.") from error


def to_line(entry: Entry) -> str:
    """One line of the index; what is None or empty is left out."""
    content = {key: value for key, value in asdict(entry).items() if value not in (None, (), {})}
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def write_index(folder: PathLike, entries: Iterable[Entry]) -> Path:
    """Write ``index.jsonl`` into a folder, whole or not at all; entries in the order given.

    :raises OutputError: see :func:`SAMv2Core.io.files.atomic_path`.
    """
    path = Path(folder) / INDEX_NAME
    header = json.dumps({"format": FORMAT, "version": VERSION})
    write_text(path, "\n".join([header, *(to_line(entry) for entry in entries)]) + "\n")
    return path


def moved_to(entry: Entry, old_folder: PathLike, new_folder: PathLike) -> Dict[str, str]:
    """The entry's paths as seen from another folder: for an index that shares the arrays of another one."""
    names = ("image", "body", "image_4mm", "body_4mm", "labels", "partner_field")
    paths = {name: getattr(entry, name) for name in names if getattr(entry, name) is not None}
    return {name: os.path.relpath(Path(old_folder) / path, new_folder) for name, path in paths.items()}


def field_at(field: np.ndarray, grid: Grid, points_lps: np.ndarray) -> np.ndarray:
    """Trilinear samples of a displacement field (d, h, w, 3) of ``partner_field`` at (N, 3) LPS mm; (N, 3) mm.

    Beyond its last points the border value counts.
    """
    position = np.atleast_2d(grid.to_ijk(points_lps)) / FIELD_STEP
    position = np.clip(position, 0, np.array(field.shape[2::-1]) - 1)
    low = np.minimum(position.astype(int), np.maximum(np.array(field.shape[2::-1]) - 2, 0))
    part = position - low
    total = np.zeros((len(position), 3))
    for corner in np.ndindex(2, 2, 2):
        step = np.array(corner)
        x, y, z = np.minimum(low + step, np.array(field.shape[2::-1]) - 1).T
        total += np.prod(np.where(step, part, 1 - part), axis=1)[:, None] * field[z, y, x]
    return total


def partner_points(index: Index, entry: Entry, points_lps: np.ndarray) -> np.ndarray:
    """(N, 3) LPS points of an entry in its partner, (N, 3) LPS.

    :raises InputError: the pair is not registered.
    """
    matrix = entry.to_partner
    if matrix is None:
        raise InputError(f"{entry.name} is not registered to a partner.", "Run Training.crosssam_iterate first.")
    moved = np.atleast_2d(points_lps) @ matrix[:3, :3].T + matrix[:3, 3]
    if entry.partner_field is not None:
        moved += field_at(index.array(entry.partner_field), entry.grid, points_lps)
    return moved
