"""The images of one DICOM series, told apart: which of them make one volume together.

A series holds what it holds: images twice (an export in two folders), scouts, phases, echoes and b-values at the same
places, a native and a contrast phase half a slice apart, a derived picture far away. Copies and what is no part of a
stack are left out with a warning; several volumes are listed, and one is read when it was chosen. Nothing is mixed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Dict, Hashable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.dicom_header import MARKS, Frame
from SAMv2Core.io.dicom_pixels import raw_bytes, stored_values

# Orientations closer than this are the same, rounded: two of them in three decimals lie up to 0.0017 rad apart.
SAME_ANGLE = 2e-3
_SAME_LENGTH = 1e-3  # of a spacing

# Positions closer than this part of the slice distance (and than this in mm) are one.
_SAME_POSITION, _SAME_POSITION_MM = 0.05, 0.01

# A group of images is a volume of its own when it has this many, and this share of the largest; else it is left out.
_MIN_IMAGES, _MIN_SHARE = 3, 0.1
_MIN_SHARE_TILTED = 0.5  # of other orientations: scouts of three planes are not asked about
# A gap of more slices than this parts a stack in two; fewer are filled.
MAX_MISSING = 5
_MAX_GAP_MM = 15.0  # smaller ones never part it
# Images that repeat the position of another, up to this share, are strays; more are another volume.
_FEW = 0.2
# Two interleaved acquisitions together are as dense as this part of the slice thickness; one acquired in two passes
# (MR) is less dense.
_DENSE = 0.6


class Part(NamedTuple):
    """Images of one volume, and what tells it from the others of its series (words for people)."""

    what: str
    frames: List[Frame]


def without_copies(frames: Sequence[Frame], path: Path, warnings: List[str]) -> List[Frame]:
    """Each image once: at one place, those of one UID or of the same bytes are the same one.

    One UID for images of different values is a fault of their making, phases share their blank slices, and frames of
    one file at one place are phases of it, however alike: no copies.
    """
    at: Dict[Hashable, List[Frame]] = defaultdict(list)
    for frame in frames:
        at[_place(frame)].append(frame)
    repeated = [group for group in at.values() if len(group) > 1]
    bytes_of = {id(frame): _digest(frame) for group in repeated for frame in group}
    values_of = _values_of_copies(repeated, bytes_of)
    drop = set()
    for group in repeated:
        seen: Dict[Hashable, Frame] = {}
        for frame in group:
            if seen.setdefault((frame.sop_uid, frame.index, values_of[id(frame)]), frame) is not frame:
                drop.add(id(frame))
    left = [[frame for frame in group if id(frame) not in drop] for group in repeated]
    if all(len({bytes_of[id(f)] for f in group}) == 1 and len({f.path for f in group}) == len(group) for group in left):
        drop |= {id(frame) for group in left for frame in group[1:]}
    if drop:
        warnings.append(f"{path}: {len(drop)} images are copies of others and were left out.")
    return [frame for frame in frames if id(frame) not in drop]


def _values_of_copies(groups: Sequence[Sequence[Frame]], bytes_of: Dict[int, bytes]) -> Dict[int, bytes]:
    """What the values of each image are known by: its bytes, unless another of its UID is stored in another way."""
    of_uid: Dict[Hashable, List[Frame]] = defaultdict(list)
    for n, group in enumerate(groups):
        for frame in group:
            of_uid[(n, frame.sop_uid, frame.index)].append(frame)
    unclear = [
        frame
        for frames in of_uid.values()
        if len({bytes_of[id(frame)] for frame in frames}) > 1 and len({frame.pixels.syntax for frame in frames}) > 1
        for frame in frames
        if not frame.pixels.fault
    ]
    decoded = {
        id(frame): hashlib.blake2b(values.astype("<i4").tobytes(), digest_size=16).digest()
        for frame, values in zip(unclear, stored_values(unclear))
    }
    return {**bytes_of, **decoded}


def _place(frame: Frame) -> Hashable:
    position = None if frame.position is None else tuple(np.round(frame.position, 2) + 0.0)
    axes = None if frame.axes is None else tuple(np.round(frame.axes.ravel(), 2) + 0.0)
    return position, axes, frame.size


def _digest(frame: Frame) -> bytes:
    if frame.pixels.fault:
        return str(frame.path).encode()
    return hashlib.blake2b(raw_bytes(frame), digest_size=16).digest()


def check_places(frames: Sequence[Frame], path: Path, warnings: List[str]) -> List[Frame]:
    """The images that say where they are; a few others (a page of doses) are left out.

    :raises InputError: many do not; names the tag.
    """
    for name, keyword, tag in (
        ("axes", "ImageOrientationPatient", "0020,0037"),
        ("position", "ImagePositionPatient", "0020,0032"),
        ("spacing", "PixelSpacing", "0028,0030"),
    ):
        without = [frame for frame in frames if getattr(frame, name) is None]
        if without and len(without) <= _FEW * len(frames):
            named = ", ".join(frame.name for frame in without[:3])
            warnings.append(f"{path}: {len(without)} images do not say where they are ({keyword}): {named}: left out.")
            frames = [frame for frame in frames if getattr(frame, name) is not None]
        elif without:
            raise InputError(
                f"{path}: {len(without)} of {len(frames)} images do not say where they are ({keyword}, {tag}, is "
                f"missing or no geometry; first one: {without[0].name}).",
                "Export the series again with its geometry, or convert it with a program that knows it.",
            )
    return list(frames)


def parts_of(frames: Sequence[Frame], path: Path, warnings: List[str]) -> List[Part]:
    """The volumes of a series, the largest first among those that nothing but size tells apart.

    :param frames: with positions, without copies.
    :raises InputError: all lie at one place, or nothing tells images at the same places apart.
    """
    if len({tuple(frame.position) for frame in frames}) < 2:  # type: ignore[arg-type]
        is_mosaic = all("MOSAIC" in frame.marks.get("image type", "") for frame in frames)
        what = " and are mosaics of many slices each" if is_mosaic else ""
        raise InputError(
            f"{path}: its {len(frames)} images all lie at one position (ImagePositionPatient){what}.",
            "Convert it with dcm2niix." if is_mosaic else "Choose a volumetric series, or export it again.",
        )
    parts = []
    for stack in _stacks(frames, path, warnings):
        for part in _split(stack, path):
            parts += _runs(part, path, warnings)
    return _worth_asking(parts, path, warnings)


def choose(parts: List[Part], wanted: Optional[int], uid: str, path: Path) -> List[Frame]:
    """The images of the volume that was asked for.

    :param wanted: its number, from 1, or None.
    :raises InputError: several and none chosen, or no such number; lists them.
    """
    listing = "; ".join(f":{n} ({_described(part)})" for n, part in enumerate(parts, 1))
    if wanted is None and len(parts) > 1:
        raise InputError(
            f"{path}: the series holds {len(parts)} volumes: {listing}.",
            f"Choose one with --series {uid}:1 or another number (series=... in Python).",
        )
    number = wanted or 1
    if not 1 <= number <= len(parts):
        raise InputError(f"{path}: the series has no volume {number}. It holds: {listing}.", "Choose one of these.")
    return parts[number - 1].frames


def _described(part: Part) -> str:
    depths = depths_of(part.frames)
    return f"{part.what or 'the rest'}, {len(part.frames)} images over {np.ptp(depths):.0f} mm"


def depths_of(frames: Sequence[Frame]) -> np.ndarray:
    """(n,) mm along the normal of the first image."""
    normal = frames[0].axes[:, 2]  # type: ignore[index]
    return np.array([float(frame.position @ normal) for frame in frames])


def _stacks(frames: Sequence[Frame], path: Path, warnings: List[str]) -> List[List[Frame]]:
    """Groups of one size, spacing and orientation, up to rounding; small ones (scouts) are left out."""
    groups: List[List[Frame]] = []
    for frame in frames:
        group = next((group for group in groups if _fits(frame, group[0])), None)
        if group is None:
            groups.append([frame])
        else:
            group.append(frame)
    groups.sort(key=len, reverse=True)
    least = max(_MIN_IMAGES, _MIN_SHARE_TILTED * len(groups[0]))
    kept = [group for group in groups if group is groups[0] or len(group) >= least]
    n_others = sum(len(group) for group in groups) - sum(len(group) for group in kept)
    if n_others:
        warnings.append(f"{path}: {n_others} images of another size or orientation (scouts?) were left out.")
    return kept


def _fits(one: Frame, other: Frame) -> bool:
    angles = np.linalg.norm(np.array(one.axes) - np.array(other.axes), axis=0)
    lengths = np.abs(np.array(one.spacing) / np.array(other.spacing) - 1)
    return one.size == other.size and bool(angles.max() <= SAME_ANGLE and lengths.max() <= _SAME_LENGTH)


def _split(frames: List[Frame], path: Path) -> List[Part]:
    """The volumes of a stack, by the first mark that tells images at the same place apart; then by their order."""
    counts = _at_each_position(frames)
    repeated = sum(count > 1 for count in counts)
    names = [name for name in MARKS if name not in _LATE] + sorted(
        {name for frame in frames for name in frame.marks} - set(MARKS)
    )
    for name in (*names, *_LATE):
        groups = _by_mark(frames, name)
        if len(groups) > 1 and _tells_apart(list(groups.values()), frames, bool(repeated), name):
            return [
                Part(_joined(f"{name} {value or '(none)'}", part.what), part.frames)
                for value, group in sorted(groups.items(), key=lambda item: _sortable(item[0]))
                for part in _split(group, path)
            ]
    if repeated > _FEW * len(counts):
        return _by_order(frames, counts, path)
    return [Part("", frames)]


_LATE = ("slice thickness", "description", "protocol", "series number", "frame of reference", "study", "date",
         "series time", "acquisition time", "content time")  # fmt: skip


def _joined(first: str, second: str) -> str:
    return ", ".join(filter(None, (first, second)))


def _sortable(value: str) -> Tuple[int, float, str]:
    if not value:
        return -1, 0.0, value
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _by_mark(frames: Sequence[Frame], name: str) -> Dict[str, List[Frame]]:
    groups: Dict[str, List[Frame]] = defaultdict(list)
    for frame in frames:
        groups[frame.marks.get(name, "")].append(frame)
    if name.endswith("time") and len(groups) > max(2, len(frames) // 3):
        return _by_pause(frames, name)
    return groups


def _by_pause(frames: Sequence[Frame], name: str) -> Dict[str, List[Frame]]:
    """Times that differ from image to image, in groups with a pause between them."""
    times = {id(frame): _seconds(frame.marks.get(name, "")) for frame in frames}
    ordered = sorted(frames, key=lambda frame: times[id(frame)])
    steps = np.diff([times[id(frame)] for frame in ordered])
    pause = max(5.0, 10 * float(np.median(steps))) if len(steps) else np.inf
    groups: Dict[str, List[Frame]] = {}
    for n, frame in enumerate(ordered):
        if n == 0 or steps[n - 1] > pause:
            label = frame.marks.get(name, "")
            groups[label] = []
        groups[label].append(frame)
    return groups


def _seconds(text: str) -> float:
    """Of a time (HHMMSS.f) or a date with one; only differences matter."""
    digits = text.split("+")[0].split(".")
    clock, fraction = digits[0][-6:], f"0.{digits[1]}" if len(digits) > 1 and digits[1].isdigit() else "0"
    if len(clock) != 6 or not clock.isdigit():
        return 0.0
    return int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:]) + float(fraction)


def _tells_apart(groups: List[List[Frame]], frames: List[Frame], is_repeated: bool, name: str) -> bool:
    """Whether groups are volumes over each other rather than neighbors or slices of one."""
    largest = max(groups, key=len)
    if len(largest) < _MIN_IMAGES:
        return False
    if is_repeated:
        # It helps when places are repeated less often within the groups than over all.
        most = max(_at_each_position(frames))
        return max(max(_at_each_position(group)) for group in groups) < most
    large = [group for group in groups if len(group) >= max(_MIN_IMAGES, _MIN_SHARE * len(largest))]
    return len(large) > 1 and _are_interleaved(large, frames) and _are_denser_than_thick(frames, name)


def _are_interleaved(groups: List[List[Frame]], frames: List[Frame]) -> bool:
    """Two of the groups cover the same range of depths."""
    normal = frames[0].axes[:, 2]  # type: ignore[index]
    ranges = []
    for group in groups:
        depths = [float(frame.position @ normal) for frame in group]
        ranges.append((min(depths), max(depths)))
    for n, (low, high) in enumerate(ranges):
        for other_low, other_high in ranges[:n]:
            common = min(high, other_high) - max(low, other_low)
            if common > 0.5 * min(high - low, other_high - other_low) > 0:
                return True
    return False


def _are_denser_than_thick(frames: List[Frame], name: str) -> bool:
    """Together the groups lie closer than slices of their thickness; unknown, only a mark that means it decides."""
    thickness = float(np.median([frame.thickness for frame in frames]))
    if thickness <= 0:
        return not name.endswith("time")
    return float(np.median(np.diff(np.sort(depths_of(frames))))) < _DENSE * thickness


def _positions(frames: Sequence[Frame]) -> np.ndarray:
    """(n,) number of the position of each image, counted along the normal."""
    depths = depths_of(frames)
    order = np.argsort(depths, kind="stable")
    gaps = np.diff(depths[order])
    real = gaps[gaps > _SAME_POSITION_MM]
    tolerance = max(_SAME_POSITION_MM, _SAME_POSITION * float(np.percentile(real, 75)) if len(real) else 0.0)
    numbers = np.empty(len(frames), int)
    numbers[order] = np.concatenate([[0], np.cumsum(gaps > tolerance)])
    return numbers


def _at_each_position(frames: Sequence[Frame]) -> List[int]:
    return np.bincount(_positions(frames)).tolist()


def _by_order(frames: List[Frame], counts: List[int], path: Path) -> List[Part]:
    """The n-th image at each position is of the n-th volume, in the order of image numbers.

    :raises InputError: they repeat some positions more often than others.
    """
    count = max(counts)
    if len(set(counts)) > 1:
        raise InputError(
            f"{path}: {sum(n > 1 for n in counts)} of {len(counts)} positions hold up to {count} images each, and "
            "nothing in their headers tells which of them belong together.",
            "Export one volume, or each in a series of its own.",
        )
    at: Dict[int, List[Frame]] = defaultdict(list)
    for frame, position in zip(frames, _positions(frames)):
        at[int(position)].append(frame)
    for group in at.values():
        group.sort(key=lambda frame: (frame.number, str(frame.path), frame.index))
    ordinals = ("first", "second", "third")
    return [
        Part(
            f"{ordinals[n] if n < len(ordinals) else f'{n + 1}th'} image at each position",
            [group[n] for group in at.values()],
        )
        for n in range(count)
    ]


def _runs(part: Part, path: Path, warnings: List[str]) -> List[Part]:
    """The volume, sorted, one image per position, parted where too many slices are missing; strays are left out."""
    ordered = sorted(
        zip(_positions(part.frames), part.frames), key=lambda item: (item[0], item[1].number, str(item[1].path))
    )
    frames = [frame for n, (position, frame) in enumerate(ordered) if n == 0 or position != ordered[n - 1][0]]
    if len(frames) < len(ordered):
        warnings.append(
            f"{path}: {len(ordered) - len(frames)} images repeat the position of another and were left out."
        )
    depths = depths_of(frames)
    gaps = np.diff(depths)
    if len(gaps) < 2:
        return [Part(part.what, frames)]
    limit = max((MAX_MISSING + 1.5) * float(np.median(gaps)), _MAX_GAP_MM)
    starts = [0, *(np.flatnonzero(gaps > limit) + 1).tolist(), len(frames)]
    runs = [frames[start:stop] for start, stop in zip(starts[:-1], starts[1:])]
    largest = max(map(len, runs))
    kept = [run for run in runs if len(run) == largest or len(run) >= max(_MIN_IMAGES + 1, _MIN_SHARE * largest)]
    if len(kept) == 1 and len(runs) > 1:
        strays = [frame for run in runs if run is not kept[0] for frame in run]
        warnings.append(
            f"{path}: {_listed(strays)} up to {gaps.max():.0f} mm away from the {largest} images of the scan: left out."
        )
    if len(kept) == 1:
        return [Part(part.what, kept[0])]
    return [
        Part(_joined(part.what, f"part {n} beyond a gap" if n > 1 else "part 1"), run) for n, run in enumerate(kept, 1)
    ]


def _listed(frames: Sequence[Frame]) -> str:
    names = [frame.name for frame in frames[:3]]
    more = f" and {len(frames) - len(names)} more" if len(frames) > len(names) else ""
    return f"{', '.join(names)}{more} lie{'s' if len(frames) == 1 else ''}"


def _worth_asking(parts: List[Part], path: Path, warnings: List[str]) -> List[Part]:
    """Without the parts that are too small for a volume beside a large one."""
    largest = max(len(part.frames) for part in parts)
    kept = [
        part
        for part in parts
        if len(part.frames) == largest or len(part.frames) >= max(_MIN_IMAGES, _MIN_SHARE * largest)
    ]
    others = [part for part in parts if part not in kept]
    if others:
        n_images = sum(len(part.frames) for part in others)
        what = "; ".join(part.what or "no mark" for part in others[:3])
        warnings.append(f"{path}: {n_images} images of another kind ({what}) were left out.")
    return kept
