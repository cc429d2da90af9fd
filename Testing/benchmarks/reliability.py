"""Files as they come, damaged and re-expressed: ``python -m Testing.benchmarks.reliability`` writes
``Resources/Reliability.md`` anew.

The kinds of troublesome files (each built by code, with what is right), one real scan re-expressed in many ways (see
:mod:`Testing.benchmarks.reexpressions`), seeded mutations of every format (:mod:`Testing.benchmarks.mutations`), many
scans in one process (:mod:`Testing.benchmarks.soak`), and what the program stands on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.io.points import read_points
from SAMv2Core.io.transforms import read_transform
from SAMv2Core.io.volume import read_volume
from Testing.benchmarks import mutations, reexpressions, soak
from Testing.files import dicom, metaimage, nifti, nrrd, tables
from Testing.files.scan import SCAN, same_anatomy, two_lesions

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "Resources" / "Reliability.md"
N_WAYS, N_MUTATIONS = 1000, 20000
SLOW_SHARE = {"checkpoint": 0.5}  # loads torch


class Kind(NamedTuple):
    """A kind of file: what happened to it before, and what must happen."""

    line: int
    name: str
    before: str
    make: Callable[[Path], Path]
    # "same": the scan where it lies; "told": the same, with a warning; "refused": by this word; "read": the same but
    # for what was interpolated, or what it is if that is not the scan; "points", "lesions": those of Testing.files
    expected: str
    word: str = ""


KINDS = (
    Kind(1, "DICOM SEG beside its CT", "refused: truncated", dicom.segmentation_beside, "same"),
    Kind(1, "damaged file of another series", "refused: truncated", dicom.damaged_beside, "told", "other.dcm"),
    Kind(1, "JPEG XL", "refused: damaged", dicom.jpeg_xl, "refused", "JPEG XL"),
    Kind(1, "structures and doses of a plan beside the CT", "refused: 2 series", dicom.objects_beside, "same"),
    Kind(1, "structures of a plan alone", "refused: no DICOM", dicom.structures_alone, "refused", "RT Structure Set"),
    Kind(1, "a page without a place in the series", "refused", dicom.page_of_doses, "told", "page.dcm"),
    Kind(1, "a file cut off in its header", "silently left out", dicom.cut_header, "read", "IM0004.dcm cannot be read"),
    Kind(1, "multi-frame file without a suffix", "1 x 1 x 1 mm, in file order", dicom.without_suffix, "same"),
    Kind(2, "DICOM SEG of fractions", "refused: empty", dicom.fractional_segmentation, "lesions"),
    Kind(2, "DICOM SEG, deflated", "refused: truncated", dicom.deflated_segmentation, "lesions"),
    Kind(2, "DICOM label map on 255", "a lesion more, of all the rest", dicom.label_map_on_255, "lesions"),
    Kind(2, "segments in layers", "refused: colors", nrrd.layers, "lesions"),
    Kind(2, "segments of Slicer 4.10", "both of the first layer",
         lambda f: nrrd.layers(f, without=("Layer", "LabelValue")), "lesions"),
    Kind(2, "segments counted from 1, without ID", "refused: colors",
         lambda f: nrrd.layers(f, first=1, without=("ID",)), "lesions"),
    Kind(2, "segments in two files", "refused: colors", lambda f: nrrd.layers(f, name="l.seg.nhdr"), "lesions"),
    Kind(2, "DICOM SEG as lesions", "garbage, or refused: truncated", dicom.segmentation_beside, "lesions"),
    Kind(3, "multi-frame, frames in any order", "1 x 1 x 1 mm, in file order", dicom.frames_in_any_order, "same"),
    Kind(3, "multi-frame, frames missing", "1 x 1 x 1 mm, in file order", dicom.frames_missing, "read", "missing"),
    Kind(3, "multi-frame, a slope per frame", "521 HU off", dicom.frames_with_their_own_slope, "same"),
    Kind(3, "multi-frame of two phases", "one tall volume", dicom.frames_of_two_phases, "refused", "2 volumes"),
    Kind(3, "multi-frame of two equal phases", "one tall volume", dicom.frames_of_equal_phases, "refused", "2 volumes"),
    Kind(3, "multi-frame, tilted gantry", "1 x 1 x 1 mm, not sheared", dicom.tilted_frames, "read", "tilted"),
    Kind(3, "multi-frame without positions", "1 x 1 x 1 mm", dicom.frames_without_positions, "refused", "Position"),
    Kind(3, "slices shifted in plane", "20 mm off, silently", dicom.shifted_in_plane, "read", "beside the others"),
    Kind(3, "MONOCHROME1", "values inverted", dicom.monochrome1, "told", "MONOCHROME1"),
    Kind(3, "no PixelSpacing", "1 mm, silently", lambda f: dicom.without(f, "PixelSpacing"), "refused", "PixelSpacing"),
    Kind(3, "no orientation", "axial, silently", lambda f: dicom.without(f, "ImageOrientationPatient"), "refused",
         "ImageOrientationPatient"),
    Kind(3, "PALETTE COLOR", "places in it as values", dicom.palette, "refused", "color"),
    Kind(3, "a slope of 0", "one single value", dicom.slope_of_zero, "told", "RescaleSlope of 0"),
    Kind(3, "an intercept in some", "others 1024 HU off", dicom.intercept_in_some, "refused", "RescaleIntercept"),
    Kind(3, "an intercept with a comma", "1024 HU off", dicom.intercept_with_a_comma, "read", "RescaleIntercept"),
    Kind(3, "values through a table", "as stored, silently", dicom.values_through_a_table, "refused", "Modality LUT"),
    Kind(3, "phases of unequal length", "mixed into one volume", dicom.phases_of_unequal_length, "refused",
         "nothing in their headers"),
    Kind(3, "part of a concatenation", "silently a part", dicom.part_of_a_concatenation, "read", "1 of the 2 files"),
    Kind(4, "slices turned by up to 0.0008 rad", "3 of 12 slices dropped", dicom.turned_by, "read"),
    Kind(4, "orientation around a rounding edge", "13 of 35 slices dropped", dicom.jittered_orientation, "read"),
    Kind(5, "sform of unit length against pixdim", "1 mm voxels, silently", nifti.sform_of_unit_length, "told",
         "pixdim"),
    Kind(5, "sform and qform 32 mm apart", "silently one of them", nifti.forms_apart, "told", "32.0 mm apart"),
    Kind(5, "sform of zeros beside a qform", "silently the qform", nifti.zero_sform, "told", "no geometry"),
    Kind(5, "quaternion a little long", "stretched", nifti.long_quaternion, "same"),
    Kind(5, "dim[4] = 0", "refused: empty", nifti.empty_fourth_dimension, "same"),
    Kind(5, "NRRD scanner-xyz", "turned by 180 degrees", lambda f: nrrd.in_space(f, "space: scanner-xyz"), "told",
         "where left is"),
    Kind(5, "NRRD 3D-right-handed", "turned by 180 degrees", lambda f: nrrd.in_space(f, "space: 3D-right-handed"),
         "told", "where left is"),
    Kind(5, "NRRD space dimension", "turned by 180 degrees", lambda f: nrrd.in_space(f, "space dimension: 3"), "told",
         "where left is"),
    Kind(5, "NRRD in centimeters", "silently as mm", nrrd.centimeters, "read", "in cm"),
    Kind(5, "NRRD without orientation", "no warning", nrrd.spacings_only, "read", "no orientation"),
    Kind(5, "NIfTI intercept without slope", "100 off against ITK", nifti.intercept_without_slope, "told", "intercept"),
    Kind(5, "NIfTI in two files", "warned: no orientation", nifti.two_files, "same"),
    Kind(5, "NIfTI under another name", "refused", nifti.another_name, "same"),
    Kind(5, "bytes behind a compressed NIfTI", "refused: damaged", nifti.something_behind, "same"),
    Kind(5, "NRRD in centimeters by axis", "silently as mm", nrrd.centimeters_by_axis, "read", "in cm"),
    Kind(5, "MetaImage in centimeters", "silently as mm", metaimage.centimeters, "told", "in cm"),
    Kind(5, "MetaImage letters against its matrix", "silently the matrix", metaimage.orientation_against_matrix, "told",
         "contradicts"),
    Kind(5, "MetaImage, damaged compressed voxels", "memory never written", metaimage.damaged_voxels, "refused",
         "damaged"),
    Kind(5, "MetaImage, compressed voxels of no size", "refused: truncated", metaimage.compressed_of_unknown_size,
         "refused", "CompressedDataSize"),
    Kind(5, "MetaImage, a list without its last line end", "last slice never written", metaimage.slices_listed,
         "refused", "last line"),
    Kind(5, "NRRD, a wrong checksum", "read with a wrong value", nrrd.damaged_checksum, "refused", "damaged"),
    Kind(6, "the same compressed too", "refused: phases", dicom.compressed_copies, "told", "copies"),
    Kind(6, "the same images under other UIDs", "refused: phases", dicom.renamed_copies, "told", "copies"),
    Kind(6, "phases that share blank slices", "refused", dicom.phases_with_blank_slices, "refused", "2 volumes"),
    Kind(6, "a series per slice, twice", "refused: 12 series", dicom.series_per_slice_twice, "told", "copies"),
    Kind(6, "interleaved, told by the series' time", "mixed into one volume",
         lambda f: dicom.interleaved(f, SeriesTime=("101500", "101900")), "refused", "2 volumes"),
    Kind(6, "interleaved, told by the protocol", "mixed into one volume",
         lambda f: dicom.interleaved(f, ProtocolName=("native", "venous")), "refused", "2 volumes"),
    Kind(6, "every file twice", "refused: phases", dicom.every_file_twice, "told", "copies"),
    Kind(6, "a series per slice", "refused: 12 series", dicom.one_series_per_slice, "told", "series of its own"),
    Kind(6, "native and contrast interleaved", "mixed into one volume",
         lambda f: dicom.interleaved(f, ContrastBolusAgent=(None, "Iohexol")), "refused", "2 volumes"),
    Kind(11, "one picture 400 mm away", "50 of 86 slices invented", dicom.stray_picture, "told", "left out"),
    Kind(11, "increments of 1 to 7 mm", "called 13 missing slices", dicom.uneven, "read", "unevenly spaced"),
    Kind(11, "all images at one position", "12 volumes of one image", dicom.one_position, "refused", "one position"),
    Kind(11, "mosaics", "12 volumes of one image", lambda f: dicom.one_position(f, "MOSAIC"), "refused", "mosaics"),
    Kind(11, "thick slices farther apart", "3 slices missing", dicom.thicker_farther_apart, "read",
         "unevenly spaced"),
    Kind(11, "MetaImage without its voxels", "truncated", metaimage.voxels_missing, "refused", "is not there"),
    Kind(11, "MetaImage, voxels in a name with %", "the process ends", metaimage.name_with_a_percent_sign, "refused",
         "is not there"),
    Kind(8, "fcsv saved by a spreadsheet", "refused: LPS;;;;", tables.fcsv_of_a_spreadsheet, "points"),
    Kind(8, "Slicer's CSV, a point not placed", "its stale position", tables.slicers_csv, "points"),
    Kind(8, "Slicer's CSV in RAS", "refused", lambda f: tables.slicers_csv(f, "r,a,s"), "points"),
    Kind(8, "fcsv with a description of two lines", "a point (9, 9, 9) more", tables.fcsv_with_lines, "points"),
    Kind(8, "semicolons and decimal commas", "refused", tables.spreadsheet, "points"),
    Kind(8, "UTF-16", "refused", lambda f: tables.spreadsheet(f, encoding="utf-16"), "points"),
    Kind(8, "Windows-1252", "refused", lambda f: tables.spreadsheet(f, encoding="cp1252"), "points"),
)  # fmt: skip


def judge(kind: Kind, folder: Path) -> Tuple[bool, str]:
    """Whether the right thing happens, and what happens, in a few words."""
    path = kind.make(folder)
    try:
        if kind.expected == "points":
            found = {point.label: point.position_lps for point in read_points(path)}
            return found == tables.POINTS, "the right points"
        if kind.expected == "lesions":
            voxel_ml = float(np.prod(SCAN.grid.spacing_ijk_mm)) / 1000
            voxels = {lesion.label: round((lesion.volume_ml or 0) / voxel_ml) for lesion in read_lesions(path)}
            right = {name: int(mask.sum()) for name, mask in two_lesions().items()}
            if kind.make is dicom.label_map_on_255:  # a voxel has one label
                right["Läsion 2"] -= int(np.logical_and(*two_lesions().values()).sum())
            return voxels == right, "lesions with their names"
        volume = read_volume(path)
    except SAMv2Error as error:
        is_right = kind.expected == "refused" and kind.word in error.cause
        return is_right, "refused: " + error.cause.replace(f"{path}", path.name).replace(f"{folder}/", "")[:110]
    told = [text for text in volume.warnings if kind.word in text] if kind.word else []
    what = "warned: " + told[0].replace(f"{folder}/", "")[:110] if told else "read as it lies"
    is_told = bool(told) if kind.word else not volume.warnings
    return is_told and (kind.expected == "read" or same_anatomy(volume)), what


def kinds_table() -> Tuple[List[str], int]:
    """Lines of the table, and how many kinds are right."""
    lines, n_right = ["| line | file | before | now | right |", "|---|---|---|---|---|"], 0
    for kind in sorted(KINDS, key=lambda kind: kind.line):
        with tempfile.TemporaryDirectory() as folder:
            is_right, what = judge(kind, Path(folder))
        n_right += is_right
        what = what.replace("|", "/")
        lines.append(f"| {kind.line} | {kind.name} | {kind.before} | {what} | {'yes' if is_right else '**no**'} |")
    line_7 = _matrix_offset()
    lines.append(
        f"| 7 | MatrixOffsetTransformBase | never returned | read as affine | {'yes' if line_7 else '**no**'} |"
    )
    return lines, n_right + line_7


def _matrix_offset() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.tfm")
        path.write_text(
            "#Insight Transform File V1.0\n#Transform 0\nTransform: MatrixOffsetTransformBase_double_3_3\n"
            "Parameters: 1 0 0 0 1 0 0 0 1 5 6 7\nFixedParameters: 0 0 0\n"
        )
        return bool(np.allclose(read_transform(path)[:3, 3], [5, 6, 7]))


def ways_table(count: int, scan_path: Path) -> Tuple[List[str], bool]:
    scan = reexpressions.small_scan(scan_path) if scan_path.is_file() else SCAN
    found: Dict[str, List[reexpressions.Deviation]] = defaultdict(list)
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            one = reexpressions.deviation(scan, seed, Path(folder))
        found[one.kind].append(one)
    lines = ["| format | n | largest distance | largest difference of a value |", "|---|---|---|---|"]
    for kind, ways in sorted(found.items()):
        apart, value = max(way.millimeters for way in ways), max(way.value for way in ways)
        lines.append(f"| {kind} | {len(ways)} | {apart:.4f} mm | {value:g} |")
    return lines, all(way.millimeters < 2 and way.value == 0 for ways in found.values() for way in ways)


def mutations_table(count: int) -> Tuple[List[str], List[str]]:
    """Lines of the table, and the failures."""
    names = list(mutations.formats())
    share = count / sum(SLOW_SHARE.get(name, 1.0) for name in names)
    lines = ["| format | mutations | read | refused | failures | slowest |", "|---|---|---|---|---|---|"]
    failures: List[str] = []
    total = 0
    for name in names:
        n = int(np.ceil(share * SLOW_SHARE.get(name, 1.0)))
        found = mutations.run_format(name, n)
        failures += found.failures
        total += n
        lines.append(
            f"| {name} | {n} | {found.read} | {found.refused} | {len(found.failures)} | {found.slowest:.1f} s |"
        )
    return [*lines, f"| all | {total} | | | {len(failures)} | |"], failures


def dependencies_table() -> List[str]:
    """Run-time packages with what they need in turn: version and licence, as their own metadata tell them."""
    found: Dict[str, importlib.metadata.Distribution] = {}
    asked = ["samv2"]
    while asked:
        name = asked.pop()
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.distribution(name)
            needed = [need for need in found[name].requires or [] if "extra ==" not in need]
            names = [re.split(r"[^\w.-]", need, maxsplit=1)[0].lower().replace("_", "-") for need in needed]
            asked += [need for need in names if need not in found]
    lines = ["| package | version | licence |", "|---|---|---|"]
    for name in sorted(found.keys() - {"samv2"}):
        told = found[name].metadata
        classifiers = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith("License")]
        licence = (
            told.get("License-Expression") or ", ".join(classifiers) or (told.get("License") or "-").split("\n")[0]
        )
        lines.append(f"| {name} | {found[name].version} | {licence} |")
    return lines


def page(args: Any) -> str:
    began = time.perf_counter()
    kinds, n_right = kinds_table()
    ways, all_same = ways_table(args.ways, args.scan)
    mutated, failures = mutations_table(args.mutations)
    lines = [
        "# Reliability", "",
        "Written by `python -m Testing.benchmarks.reliability`; do not edit.", "",
        "## Files as they come", "",
        "One small file per kind, built by code (`Testing/files`); the numbers are those of the list of faults.", "",
        *kinds, "", f"{n_right} of {len(KINDS) + 1} kinds are right.", "",
        "## One scan, written in many ways", "",
        f"A real scan (`{args.scan.name}`) with every fourth voxel, re-expressed {args.ways} times: axes permuted and "
        "flipped, turned freely, voxels of 0.3 to 10 mm, origins up to 5 m away, six scalar types, slopes, units of "
        "length. " + ("All lie within one voxel of the 2 mm lattice." if all_same else "**Some do not.**"),
        "", *ways, "",
        "## Damaged files", "",
        f"Seeded mutations; a failure is anything but a value or a typed error: another exception, a death, more than "
        f"{mutations.SECONDS} s of computing, more than {mutations.MEMORY >> 30} GiB beyond what Python takes, a file "
        "written.",
        "", *mutated, "", *[f"- {text}" for text in failures[:20]], *([""] if failures else []),
        "## Memory of reading", "",
        f"A scan of 512 x 512 x {soak.SLICES} 16-bit voxels, beyond what Python and its libraries take.", "",
        *soak.memory_table(), "",
        "## Many scans in one process", "",
        f"Each scan written, read, embedded (`lite-ct`), kept in a cache too small for all, and {soak.POINTS_PER_SCAN} "
        "points of the one before matched in it.", "",
        *soak.soak_table(), "",
        "## Faults from outside", "",
        "Killed and competing writers, full disks, folders with odd and long names, identifiers in anything written or "
        "said: `Testing/end_to_end/test_faults.py`, `Testing/core/io/test_files.py`, "
        "`Testing/core/embedding/test_cache.py`, `Testing/core/models/test_download.py`, `Testing/core/batch`.", "",
        "## What it stands on", "",
        "Packages needed at run time, with what they need in turn, where the page was written; everything else is an "
        "extra (`pyproject.toml`). Known vulnerabilities were not looked up: that needs a network.", "",
        *dependencies_table(), "",
        f"Took {(time.perf_counter() - began) / 60:.0f} minutes.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] = ()) -> None:
    shared = Path(os.environ.get("SAMV2_SHARED", ROOT.parent / "shared"))
    scans = sorted((shared / "data" / "ct").glob("*/*.nii.gz"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", type=int, default=N_WAYS)
    parser.add_argument("--mutations", type=int, default=N_MUTATIONS)
    parser.add_argument(
        "--scan", type=Path, default=next((p for p in scans if "_labels" not in p.name), Path("phantom"))
    )
    parser.add_argument("--output", type=Path, default=PAGE)
    args = parser.parse_args(arguments or None)
    args.output.write_text(page(args), encoding="utf-8")
    print(f"Written: {args.output}")


if __name__ == "__main__":
    main()
