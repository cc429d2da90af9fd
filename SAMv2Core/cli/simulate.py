"""``samv2 simulate``: a second time point of a scan, of which every displacement is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence

import numpy as np
import SimpleITK as sitk

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.io.files import atomic_path, check_output, write_json
from SAMv2Core.io.itk import image_of, quiet_itk
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.io.points import Point, PointList, write_points

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.simulation.simulate import SimulatedFollowUp, SimulationOptions

N_BODY_POINTS = 50
GROWTH = (0.6, 1.6)
KERNELS = {"soft": {"blur_mm": (0.8, 1.5)}, "sharp": {"sharpen": (0.5, 1.2)}}
FILES = ("follow_up.nii.gz", "displacement.nii.gz", "points.csv", "truth.json")


def add_subparser(subparsers: Any) -> None:
    """Add ``simulate`` to the parser."""
    parser = subparsers.add_parser("simulate", help="make a follow-up scan with known truth", description=__doc__)
    common.add_input(parser, "image", "the baseline scan (a file, or a folder of DICOM)")
    common.add_series_option(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="folder for follow_up.nii.gz, displacement.nii.gz (mm, LPS, on the baseline grid: baseline point + vector "
        "= follow-up point), points.csv and truth.json",
    )
    parser.add_argument(
        "--lesions",
        metavar="L",
        help="what to follow: points of the baseline (.mrk.json, .fcsv or .csv) or a segmentation volume, of which "
        f"each label (or each part of a binary one) is a lesion; default: {N_BODY_POINTS} points all over the body",
    )
    parser.add_argument(
        "--growth",
        nargs=2,
        type=common.positive_float,
        default=GROWTH,
        metavar=("LOW", "HIGH"),
        help="lesions of known diameter (a segmentation's, or the column diameter_mm) grow by a factor drawn from this "
        "range; default: %(default)s; 1 1 leaves them as they are",
    )
    parser.add_argument(
        "--vanish", type=float, default=0.1, metavar="SHARE", help="share of these that disappear; default: %(default)s"
    )
    _add_changes(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0; same seed, same follow-up")
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def _add_changes(parser: Any) -> None:
    group = parser.add_argument_group(  # figures of simulation.simulate.FOLLOW_UP, which is too slow to import here
        "changes",
        "beside those always made and drawn by the seed: turned by up to 10 degrees, moved by up to 30 mm, 0.9 to 1.1 "
        "times as large, bent by up to 15 mm; contrast, window and noise",
    )
    length = common.positive_float
    group.add_argument("--breathing", type=length, metavar="MM", help="the diaphragm moves down by this much")
    group.add_argument(
        "--weight", type=length, metavar="MM", help="weight gained or lost: how far the skin moves at most"
    )
    group.add_argument("--slice-thickness", type=length, metavar="MM", help="of the follow-up; default: the baseline's")
    group.add_argument("--kernel", choices=sorted(KERNELS), help="another reconstruction kernel")
    group.add_argument(
        "--field-of-view",
        nargs=3,
        type=length,
        metavar=("X", "Y", "Z"),
        help="shares of the baseline's box that are scanned, along its axes",
    )
    group.add_argument("--table", action="store_true", help="a couch under the patient")


def simulation_options(args: Any) -> SimulationOptions:
    """The changes that always happen, and those asked for.

    :raises UsageError: a number that makes no sense.
    """
    from SAMv2Core.simulation.simulate import FOLLOW_UP

    asked = {
        "breathing_mm": args.breathing,
        "weight_mm": args.weight,
        "slice_thickness_mm": args.slice_thickness,
        "field_of_view": args.field_of_view and tuple(args.field_of_view),
        "table": args.table or None,
        **KERNELS.get(args.kernel, {}),
    }
    return dataclasses.replace(FOLLOW_UP, **{name: value for name, value in asked.items() if value is not None})


def run(session: Session) -> None:
    """Read, simulate, write the four files."""
    from SAMv2Core.simulation.lesion_growth import LesionOptions
    from SAMv2Core.simulation.simulate import simulate_follow_up

    args = session.args
    inputs = [args.image, args.lesions]
    options = simulation_options(args)
    session.declare(inputs)  # before the folder is made
    folder = open_folder(args.output)
    paths = {name: folder / name for name in FILES}
    session.declare(inputs, outputs=[str(path) for path in paths.values()])
    with session.stage("read", 0.0, 0.1):
        volume = common.read_input(session, "image")
        lesions = read_lesions(args.lesions) if args.lesions else []
        points = as_points(lesions) or spread_through_body(volume, args.modality_image, args.seed)
    with session.stage("simulate", 0.1, 0.8):
        fates = LesionOptions(tuple(args.growth), args.vanish)
        result = simulate_follow_up(volume, options, args.seed, lesions, fates)
    moved = followed(points, result)
    with session.stage("write", 0.8, 1.0):
        s.write_volume(result.volume, paths["follow_up.nii.gz"], session.inputs)
        write_displacement(result, paths["displacement.nii.gz"])
        write_points(as_table(points, moved), paths["points.csv"], session.inputs)
        write_json(paths["truth.json"], truth(result, moved), session.inputs)
    session.results.update(truth(result, moved))
    session.say(f"{folder}: {', '.join(FILES)}")
    session.say(f"{sum(point['inside'] for point in moved)} of {len(moved)} points lie inside the follow-up")


def open_folder(path: str) -> Path:
    """The output folder, made when missing (its parent must exist: a mistyped path is no wish for a tree)."""
    folder = Path(path)
    check_output(folder / FILES[0] if folder.is_dir() else folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {path} cannot be made: {error.strerror}.", "Choose another place.") from error
    return folder


def as_points(lesions: Sequence[Lesion]) -> Optional[PointList]:
    """The lesions' centers with their diameters; None without lesions."""
    points = []
    for lesion in lesions:
        extra = {} if lesion.diameter_mm is None else {"diameter_mm": f"{lesion.diameter_mm:.5g}"}
        points.append(Point(lesion.label, common.triple(lesion.center_lps), extra=extra))
    return PointList(tuple(points), "lesions") if points else None


def spread_through_body(volume: s.Volume, modality: str, seed: int) -> PointList:
    """Points all over the patient, for those who want to measure and have no lesions."""
    from SAMv2Core.matching.sampling import spread_points
    from SAMv2Core.preprocessing.preprocess import preprocess_report

    prepared = preprocess_report(volume, modality)
    k, j, i = np.nonzero(prepared.body)
    if not len(i):
        raise InputError(f"{volume.source} shows no body.", "Name points with --lesions, or choose another volume.")
    chosen = spread_points(prepared.grid.to_lps(np.stack([i, j, k], axis=-1)), N_BODY_POINTS, seed)
    return PointList(tuple(Point(f"body {n}", common.triple(lps)) for n, lps in enumerate(chosen, 1)), "body")


def followed(points: PointList, result: SimulatedFollowUp) -> List[Dict[str, Any]]:
    """Where each point with a position went: ``baseline``, ``follow_up`` (l, p, s), whether that is ``inside``,
    and of a lesion of known size its ``change`` and ``follow_up_diameter_mm``."""
    defined = [point for point in points if point.position_lps is not None]
    moved, inside = result.map_points(np.array([point.position_lps for point in defined]).reshape(-1, 3))
    changes = {
        change.label: {"change": change.kind, "follow_up_diameter_mm": round(change.diameter_mm, 2)}
        for change in result.lesions
    }
    return [
        {
            "label": point.label,
            "baseline": list(point.position_lps or ()),
            "follow_up": [float(value) for value in target],
            "inside": bool(is_inside),
            **changes.get(point.label, {}),
        }
        for point, target, is_inside in zip(defined, moved, inside)
    ]


def as_table(points: PointList, moved: List[Dict[str, Any]]) -> PointList:
    """The baseline's points with their follow-up positions as further columns: usable as ``--points`` as it is."""
    rows = []
    for point, row in zip((point for point in points if point.position_lps is not None), moved):
        target = {f"follow_up_{axis}": f"{value:.3f}" for axis, value in zip("lps", row["follow_up"])}
        change: Dict[str, str] = {name: str(row[name]) for name in ("change", "follow_up_diameter_mm") if name in row}
        extra = {**point.extra, **target, "inside": str(int(row["inside"])), **change}
        rows.append(dataclasses.replace(point, extra=extra))
    return PointList(tuple(rows), points.name)


def truth(result: SimulatedFollowUp, moved: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Everything that was drawn, and where the points went."""
    return {
        "seed": result.seed,
        "options": dataclasses.asdict(result.options),
        "drawn": result.drawn,
        "points": moved,
    }


def write_displacement(result: SimulatedFollowUp, path: Path) -> None:
    """Vectors (mm, LPS) on the baseline's grid, one per voxel, as a NIfTI vector image."""
    image = image_of(result.displacement, result.baseline_grid)
    with atomic_path(path) as temporary:
        try:
            with quiet_itk():
                sitk.WriteImage(image, str(temporary))
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written.", "Check free space and permissions.") from error
