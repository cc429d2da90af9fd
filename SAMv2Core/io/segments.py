"""Named segments of segmentations: 3D Slicer's ``.seg.nrrd``, whose segments may overlap in layers, and DICOM SEG.

Both know which voxels belong to what, and by which name; a label volume knows numbers only (see
:mod:`SAMv2Core.io.lesions`). Conventions: ijk = (x, y, z) indices on the segment's grid; LPS mm.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.dicom import dicom_files
from SAMv2Core.io.dicom_header import (
    SEGMENTATIONS,
    Frame,
    opened,
    quiet_pydicom,
    read_dataset,
    read_headers,
    starts_like_dicom,
)
from SAMv2Core.io.dicom_pixels import stored_values
from SAMv2Core.io.dicom_volumes import check_places, depths_of
from SAMv2Core.io.files import PathLike, suffix_of
from SAMv2Core.io.itk_files import nrrd_pairs
from SAMv2Core.io.volume import read_layers

_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_BACKGROUND = "125040"  # DCM code of a label map's segment that is none
_OFF_LATTICE = 0.1  # of the slice distance


class Segment(NamedTuple):
    """Its name, the (n, 3) indices of its voxels, and their grid."""

    name: str
    ijk: np.ndarray
    grid: Grid


def read_segments(path: PathLike) -> Optional[List[Segment]]:
    """The segments of a file that names them, without the empty ones; None for any other file.

    :raises InputError: a segmentation that cannot be read, or a folder with several.
    """
    path = Path(path)
    if path.is_dir() or (path.is_file() and (suffix_of(path) == ".dcm" or starts_like_dicom(path))):
        return _of_dicom(path)
    return _of_slicer(path) if path.is_file() and _segment_numbers(nrrd_pairs(path)) else None


def _segment_numbers(pairs: Dict[str, str]) -> List[int]:
    return sorted({int(found.group(1)) for key in pairs if (found := re.match(r"Segment(\d+)_", key))})


def _of_slicer(path: Path) -> List[Segment]:
    layers, pairs = read_layers(path)
    found = []
    for n, number in enumerate(_segment_numbers(pairs)):
        name = pairs.get(f"Segment{number}_Name") or f"Segment {number + 1}"
        # Before Slicer 4.11 neither was written: a layer per segment, in order.
        defaults = {"Layer": n, "LabelValue": 1} if len(layers) > 1 else {"Layer": 0, "LabelValue": n + 1}
        layer, value = (_whole(pairs.get(f"Segment{number}_{key}"), usual) for key, usual in defaults.items())
        if not 0 <= layer < len(layers):
            raise InputError(f"{path}: segment {name!r} is in layer {layer} of {len(layers)}.", "Save it again.")
        ijk = np.argwhere(layers[layer].array == value)[:, ::-1]
        if len(ijk):
            found.append(Segment(name, ijk, layers[layer].grid))
    return found


def _whole(text: Optional[str], default: int) -> int:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text.strip()) else default


def _of_dicom(path: Path) -> Optional[List[Segment]]:
    """See :func:`read_segments`."""
    try:
        with quiet_pydicom():
            return _of_dicom_files(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever damaged data makes of pydicom
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise InputError(f"{path} is a damaged segmentation ({reason}).", "Export it again.") from error


def _of_dicom_files(path: Path) -> Optional[List[Segment]]:
    series = read_headers(dicom_files(path)).series
    found = [frames for frames in series.values() if frames[0].sop_class in SEGMENTATIONS]
    if not found:
        return None
    files = {frame.path for frames in found for frame in frames}
    if len(files) > 1:
        listed = ", ".join(sorted(file.name for file in files)[:5])
        raise InputError(f"{path} holds {len(files)} DICOM segmentations: {listed}.", "Choose the file of one of them.")
    left_out: List[str] = []
    frames = check_places(found[0], path, left_out)
    if left_out:
        raise InputError(f"{left_out[0]}", "Export it again.")
    if frames[0].pixels.fault:
        raise InputError(f"{frames[0].path} cannot be read: {frames[0].pixels.fault}.", "Export it again.")
    with opened(frames[0].path, frames[0].pixels.syntax) as stream:
        dataset = read_dataset(stream)
    names, none = _segment_names(dataset)
    grid, slices = _lattice(frames)
    voxels: Dict[int, List[np.ndarray]] = {number: [] for number in names}
    for frame, k, mask in zip(frames, slices, _masks(frames, dataset)):
        for number in sorted(set(np.unique(mask).tolist()) - none):
            ji = np.argwhere(mask == number)
            ijk = np.column_stack([ji[:, 1], ji[:, 0], np.full(len(ji), k)])
            voxels.setdefault(frame.segment or int(number), []).append(ijk)
    return [
        Segment(names.get(number) or f"Segment {number}", np.concatenate(parts), grid)
        for number, parts in sorted(voxels.items())
        if parts
    ]


def _segment_names(dataset: Any) -> Tuple[Dict[int, str], Set[int]]:
    """Names by number, and the numbers that stand for no segment (background)."""
    none = {0}
    if dataset.get("SOPClassUID") == _LABEL_MAP:
        none.add(int(dataset.get("PixelPaddingValue", 0) or 0))
    names = {}
    for item in dataset.get("SegmentSequence") or []:
        kinds = item.get("SegmentedPropertyTypeCodeSequence") or []
        if any(kind.get("CodeValue") == _BACKGROUND for kind in kinds):
            none.add(int(item.SegmentNumber))
        names[int(item.SegmentNumber)] = str(item.get("SegmentLabel", ""))
    return names, none


def _lattice(frames: Sequence[Frame]) -> Tuple[Grid, List[int]]:
    """The grid of all frames, which need not cover it, and the number of the slice of each frame."""
    axes, spacing = frames[0].axes, frames[0].spacing
    assert axes is not None and spacing is not None  # checked by the caller
    depths = depths_of(frames)
    gaps = np.diff(np.unique(np.round(depths, 3)))
    step = float(gaps.min()) if len(gaps) else 0.0
    step = frames[0].distance if frames[0].distance > 0 else step or frames[0].thickness or 1.0
    numbers = (depths - depths.min()) / step
    first = np.array(frames[int(np.argmin(depths))].position)
    predicted = first + np.outer(np.round(numbers) * step, axes[:, 2])
    away = np.linalg.norm(np.array([frame.position for frame in frames]) - predicted, axis=1)
    sizes = {(frame.size, frame.spacing) for frame in frames}
    if away.max() > _OFF_LATTICE * step or len(sizes) > 1 or any(np.abs(f.axes - axes).max() > 1e-3 for f in frames):
        raise InputError(f"{frames[0].path}: its slices do not lie on one lattice.", "Save it with even slices.")
    matrix = np.eye(4)
    matrix[:3, :3] = axes * [*spacing, step]
    matrix[:3, 3] = first
    shape = (round(float(numbers.max())) + 1, frames[0].pixels.rows, frames[0].pixels.columns)
    return Grid(shape, matrix), [round(float(number)) for number in numbers]


def _masks(frames: Sequence[Frame], dataset: Any) -> Iterator[np.ndarray]:
    """(rows, columns) of each frame: 1 inside its segment; the segments' numbers in a label map."""
    pixels = frames[0].pixels
    if pixels.bits_allocated != 1:
        half = int(dataset.get("MaximumFractionalValue", 1) or 1) / 2
        for values in stored_values(frames):
            yield values if frames[0].sop_class == _LABEL_MAP else (values >= half).astype(np.uint8)
        return
    count = pixels.rows * pixels.columns
    with opened(frames[0].path, pixels.syntax) as stream:
        for frame in frames:
            # Frames follow each other bit by bit, without padding.
            first, last = frame.index * count, (frame.index + 1) * count
            stream.seek(pixels.offset + first // 8)
            content = np.frombuffer(stream.read(last // 8 - first // 8 + 1), np.uint8)
            bits = np.unpackbits(content, bitorder="little")[first % 8 : first % 8 + count]
            if len(bits) < count:
                raise InputError(f"{frame.path} is truncated.", "Export it again.")
            yield bits.reshape(pixels.rows, pixels.columns)
