"""One scan from its files to the arrays of the index: what happens to the data is all here.

The preprocessing is the one the models see at run time (:mod:`SAMv2Core.preprocessing.preprocess`): 2 mm lattice along
the patient's axes, CT in HU, MR by its robust rescale, body mask without table. Labels go to the same lattice by
nearest neighbor.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.files import atomic_path
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.preprocessing.preprocess import PREPROCESSING_VERSION, Preprocessed, preprocess_report
from Training.data.index import Entry, to_stored
from Training.data.jobs import Job, Labels

#: Raise it when the same files give other arrays.
PREPARATION_VERSION = 1
ARRAYS = "arrays"
MIN_BODY_VOXELS = 1000  # 8 ml: less is a test object or a mistake
MAX_LABEL = 65535


class Problem(NamedTuple):
    """Something that was left out: a whole scan, or labels of a scan that was kept."""

    name: str
    source: str
    what: str
    reason: str


def fingerprint(job: Job) -> str:
    """Of names, sizes and times of all files of a job, and of everything that decides how they are read.

    A file that does not exist counts as such: when it appears, the scan is prepared again.
    """
    digest = hashlib.sha256(f"{PREPARATION_VERSION} {PREPROCESSING_VERSION} {job.modality} {job.series}".encode())
    for path, value in [(job.image, None), *((one.path, one.value) for one in job.labels)]:
        for file in _files(path):
            try:
                facts = os.stat(file)
                digest.update(f"|{file} {facts.st_size} {facts.st_mtime_ns} {value}".encode())
            except OSError:
                digest.update(f"|{file} missing".encode())
    digest.update(repr(sorted((job.label_names or {}).items())).encode())
    return digest.hexdigest()[:32]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for root, folders, names in os.walk(path):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def halve(array: np.ndarray) -> np.ndarray:
    """Means of 2x2x2 blocks of (z, y, x); an odd last plane is dropped, unless it is the only one."""
    array = np.pad(array, [(0, 1 if n == 1 else 0) for n in array.shape], mode="edge")
    d, h, w = (n // 2 for n in array.shape)
    return array[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2).mean((1, 3, 5), dtype=np.float32)


def resample_labels(labels: np.ndarray, label_grid: Grid, grid: Grid) -> np.ndarray:
    """Nearest-neighbor labels (z, y, x) on another lattice; 0 outside."""
    matrix = label_grid.lps_to_ijk @ grid.ijk_to_lps
    flip = [2, 1, 0]
    return ndimage.affine_transform(
        labels,
        matrix[:3, :3][np.ix_(flip, flip)],
        offset=matrix[:3, 3][flip],
        output_shape=grid.shape_zyx,
        order=0,
        mode="grid-constant",  # "constant" would lose the outer half voxel
        cval=0,
    )


def prepare_scan(job: Job, out: Path) -> Tuple[Entry, List[Problem]]:
    """Write the arrays of one scan below ``out/arrays``.

    :returns: its entry, and the label files that were left out with the reason.
    :raises InputError: the image cannot be read, makes no sense, or shows no body.
    :raises OutputError: the arrays cannot be written.
    """
    volume = read_volume(job.image, job.series)
    prepared = preprocess_report(volume, job.modality)
    if int(prepared.body.sum()) < MIN_BODY_VOXELS:
        raise InputError(f"{job.image}: no body was found in it.", "Choose a scan of a patient.")
    labels, problems = merged_labels(job, volume.grid, prepared.grid)
    arrays = _arrays_of(prepared, labels)
    paths = {kind: f"{ARRAYS}/{job.name}.{kind}.npy" for kind in arrays}
    for kind, array in arrays.items():
        save_array(out / paths[kind], array)
    matrix = prepared.grid.ijk_to_lps
    spacing = prepared.grid.spacing_ijk_mm
    entry = Entry(
        name=job.name,
        group=job.group,
        modality=prepared.modality,
        image=paths["image"],
        body=paths["body"],
        shape_zyx=prepared.grid.shape_zyx,
        origin_lps=tuple(matrix[:3, 3].tolist()),
        spacing_mm=tuple(np.round(spacing, 6).tolist()),
        direction=tuple((matrix[:3, :3] / spacing).ravel().tolist()),
        image_4mm=paths["image4"],
        body_4mm=paths["body4"],
        labels=paths.get("labels"),
        label_names=_names_of(labels, job.label_names),
        partner=job.partner,
        partner_matrix=job.partner_matrix,
        split=job.split,
        source=str(job.image),
        fingerprint=fingerprint(job),
        warnings=prepared.warnings,
    )
    return entry, problems


def _arrays_of(prepared: Preprocessed, labels: Optional[np.ndarray]) -> Dict[str, np.ndarray]:
    arrays = scan_arrays(to_stored(prepared.x[0, 0].numpy()), prepared.body)
    if labels is not None:
        arrays["labels"] = labels
    return arrays


def scan_arrays(stored: np.ndarray, body: np.ndarray) -> Dict[str, np.ndarray]:
    """The arrays that every entry has: ``image`` and ``body`` at 2 mm, ``image4`` and ``body4`` at 4 mm.

    :param stored: (z, y, x) int16.
    :param body: (z, y, x), true inside.
    """
    inside = np.asarray(body, bool)
    return {
        "image": stored,
        "body": inside.astype(np.uint8),
        "image4": np.round(halve(stored)).astype(np.int16),
        "body4": (halve(inside.astype(np.float32)) >= 0.5).astype(np.uint8),
    }


def _names_of(labels: Optional[np.ndarray], names: Optional[Dict[str, str]]) -> Optional[Dict[str, str]]:
    """Names of the ids that occur; ``label_7`` where none was given."""
    if labels is None:
        return None
    return {str(n): (names or {}).get(str(n), f"label_{n}") for n in np.unique(labels).tolist() if n}


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file, whole or not at all; its folder is made.

    :raises OutputError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, np.ascontiguousarray(array))


def merged_labels(job: Job, image_grid: Grid, grid: Grid) -> Tuple[Optional[np.ndarray], List[Problem]]:
    """The job's label files as one map on the 2 mm lattice, later files over earlier ones.

    :returns: (z, y, x) uint8 or uint16, or None when no file could be used; and the files left out, with the reason.
    """
    merged: Optional[np.ndarray] = None
    merged_grid = image_grid
    problems: List[Problem] = []
    for one in job.labels:
        try:
            volume = read_volume(one.path)
            _check_geometry(volume, image_grid)
            ids = _ids_of(volume, one)
            if merged is None:
                merged, merged_grid = np.zeros(ids.shape, np.uint16), volume.grid
            if ids.shape != merged.shape:
                raise InputError(f"{one.path} has another lattice than the label files before it.", "Resample it.")
        except SAMv2Error as error:
            problems.append(Problem(job.name, str(one.path), "labels", str(error)))
            continue
        np.copyto(merged, ids, where=ids > 0)
    if merged is None:
        return None, problems
    on_lattice = resample_labels(merged, merged_grid, grid)
    return on_lattice.astype(np.uint8 if on_lattice.max(initial=0) < 256 else np.uint16), problems


def _check_geometry(volume: Volume, image_grid: Grid) -> None:
    """A label map must fill the image's box, whatever its lattice: corners within one voxel."""
    # Corners as a set: the axes of one may be flipped or permuted against the other.
    own, others = volume.grid.corners_lps(), image_grid.corners_lps()
    apart = np.linalg.norm(own[:, None] - others[None], axis=-1).min(axis=1).max()
    voxel = max(float(volume.grid.spacing_ijk_mm.max()), float(image_grid.spacing_ijk_mm.max()))
    if apart > voxel:
        raise InputError(
            f"{volume.source} has another geometry than its image (corners {apart:.0f} mm apart).",
            "Resample it to the image.",
        )


def _ids_of(volume: Volume, labels: Labels) -> np.ndarray:
    """(z, y, x) uint16 ids of a label file."""
    array = volume.array
    if labels.value is not None:
        return np.where(array > 0, np.uint16(labels.value), np.uint16(0))
    low, high = float(array.min()), float(array.max())
    if not (0 <= low and high <= MAX_LABEL) or (array.dtype.kind == "f" and np.any(array != np.round(array))):
        raise InputError(
            f"{volume.source} is no label map: its values ({low:g} to {high:g}) are not whole numbers from 0 on.",
            "Export it as a label map.",
        )
    return array.astype(np.uint16)
