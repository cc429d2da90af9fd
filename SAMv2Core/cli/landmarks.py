"""``samv2 landmarks``: named anatomical landmarks of a scan; ``samv2 where``: what lies near a point."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, ModelError, UnreliableResultError, UsageError
from SAMv2Core.io.points import Point, PointList, read_points, write_points
from SAMv2Core.landmarks.atlas import BUNDLED

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


def add_subparser(subparsers: Any) -> None:
    """Add ``landmarks`` and ``where`` to the parser."""
    parser = subparsers.add_parser("landmarks", help="find named landmarks in a scan", description=__doc__)
    _add_scan(parser)
    parser.add_argument(
        "--output",
        metavar="A.mrk.json",
        type=common.points_to_write,
        help="the landmarks: .mrk.json, .fcsv or .csv; one that was not found has no position",
    )
    parser.add_argument("--only", metavar="NAME,NAME", help="some landmarks only; default: all of the atlas")
    parser.add_argument(
        "--teach",
        metavar="F.mrk.json",
        help="nothing is looked for: the scan and these points of it become an exemplar of the file --atlas, which is "
        "made where there is none",
    )
    common.add_computing_options(parser)
    common.add_server_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)
    parser = subparsers.add_parser("where", help="tell what lies near a point of a scan", description=__doc__)
    _add_scan(parser)
    parser.add_argument(
        "--point",
        required=True,
        metavar="L,P,S",
        type=common.position,
        help="mm, LPS; write --point=-12,30,80 (with =)",
    )
    common.add_computing_options(parser)
    common.add_server_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run_where)


def _add_scan(parser: argparse.ArgumentParser) -> None:
    common.add_input(parser, "image", "the scan (a file, or a folder of DICOM)")
    common.add_series_option(parser)
    parser.add_argument(
        "--atlas",
        nargs="+",
        metavar="FILE",
        help=f"landmarks to look for, several files together; default: {BUNDLED}, those that ship with the model",
    )


def _embedded(session: Session) -> Tuple[s.Volume, s.Embedding]:
    with session.stage("read", 0.0, 0.05):
        volume = common.read_input(session, "image")
    model = common.load_model(session, {"image": volume})
    return volume, common.embed(session, model, "image", volume, 0.08, 0.85)


def _find(session: Session, only: List[str]) -> Tuple[s.Volume, List[s.Landmark]]:
    from SAMv2Core.landmarks.atlas import atlas_for, join, load_atlas

    own = {path: load_atlas(path) for path in _own_files(session.args)}  # a wrong file is told before the long work
    chosen = [BUNDLED if name == BUNDLED else own[name] for name in session.args.atlas or [BUNDLED]]
    volume, emb = _embedded(session)
    atlas: Any = chosen
    if session.remote is None:
        atlas = join([atlas_for(emb) if isinstance(item, str) else item for item in chosen])
    with session.stage("landmarks", 0.85, 0.98) as progress:
        return volume, common.functions(session).find_landmarks(emb, atlas, only or None, progress)


def _own_files(args: argparse.Namespace) -> List[str]:
    return [path for path in args.atlas or [] if path != BUNDLED]


def teach(session: Session) -> None:
    """Add a scan and its points to an atlas; its confidence is judged as with the bundled one."""
    from SAMv2Core.landmarks.atlas import atlas_for, exemplar, join, load_atlas, save_atlas

    args = session.args
    if args.server:
        raise UsageError("--teach needs the scan's vectors here.", "Leave --server out.")
    if len(_own_files(args)) != 1 or len(args.atlas) != 1 or args.output or args.only:
        raise UsageError(
            "--teach needs one --atlas of your own, and neither --output nor --only.",
            "Write: samv2 landmarks --image A.nii.gz --teach A.mrk.json --atlas mine.safetensors",
        )
    path = common.safetensors_to_write(args.atlas[0])
    session.declare(inputs=[args.image, args.teach])
    points = read_points(args.teach)
    before = load_atlas(path) if Path(path).exists() else None
    placed = {point.label: point.position_lps for point in points if point.label and point.position_lps is not None}
    if len(placed) < sum(point.position_lps is not None for point in points):
        raise InputError(
            f"The points of {args.teach} cannot be told apart.", "Give every point a name of its own, as L3 or carina."
        )
    _, emb = _embedded(session)
    mine = exemplar(emb, placed, Path(args.image).name.partition(".")[0], {})
    if before is None:
        with contextlib.suppress(ModelError):  # a model without an atlas: the usual coefficients
            bundled = atlas_for(emb)
            mine = dataclasses.replace(mine, calibration=bundled.calibration, reliability=bundled.reliability)
    atlas = mine if before is None else join([before, mine])
    save_atlas(atlas, path)
    session.results["atlas"] = {"landmarks": len(set(atlas.names)), "exemplars": sorted(set(atlas.exemplars))}
    session.say(f"{path}: {atlas!r}")


def run(session: Session) -> None:
    """Read, embed, find, write; the result is unreliable when no landmark was found."""
    args = session.args
    if args.teach:
        return teach(session)
    if not args.output:
        raise UsageError("Where to write the landmarks is missing.", "Add --output A.mrk.json")
    session.declare(inputs=[args.image, *_own_files(args)], outputs=[args.output])
    _, found = _find(session, [name.strip() for name in (args.only or "").split(",") if name.strip()])
    session.results["landmarks"] = [
        {
            "label": one.name,
            "position": None if one.position_lps is None else [float(value) for value in one.position_lps],
            "confidence": one.confidence,
            "status": one.status,
            "reason": one.reason,
            "exemplars": one.witnesses.exemplars,
        }
        for one in found
    ]
    with session.stage("write", 0.98, 1.0):
        write_points(as_point_list(found), args.output, session.inputs)
    width = max(len(one.name) for one in found)
    session.say(f"{'landmark':{width}}  {'(l, p, s) mm':>26}  confidence  status")
    for one in found:
        place = "-" if one.position_lps is None else " ".join(f"{value:8.1f}" for value in one.position_lps)
        verdict = f"{one.status} ({one.reason.rstrip('.')})" if one.reason else one.status
        session.say(f"{one.name:{width}}  {place:>26}  {one.confidence:10.2f}  {verdict}")
    if all(one.position_lps is None for one in found):
        raise UnreliableResultError(
            f"None of the {len(found)} landmarks was found in {args.image}.",
            "Check that the scan shows the neck, chest, abdomen or pelvis of a patient, and its modality.",
        )


def as_point_list(found: List[s.Landmark]) -> PointList:
    """The landmarks as a list of points; one that was not found has no position."""
    points = [
        Point(
            one.name,
            None if one.position_lps is None else common.triple(one.position_lps),
            f"status={one.status}; confidence={one.confidence:.2f}",
        )
        for one in found
    ]
    return PointList(tuple(points), "landmarks")


def run_where(session: Session) -> None:
    """Find all landmarks, then name those that are near the point."""
    from SAMv2Core.landmarks.where import where

    args = session.args
    session.declare(inputs=[args.image, *_own_files(args)])
    volume, found = _find(session, [])
    if not volume.grid.contains(np.array(args.point))[0]:
        raise InputError(f"The point {args.point} lies outside {args.image}.", "Give L,P,S in mm of this scan.")
    region, near = where(args.point, found)
    session.results["region"] = region or None
    session.results["near"] = [{"label": one.name, "distance_mm": one.distance_mm, "text": one.text} for one in near]
    if not near:
        raise UnreliableResultError(
            f"No landmark was found in {args.image} with confidence.", "Try `samv2 landmarks` to see what is doubtful."
        )
    session.say(f"region: {region or 'not known'}")
    for one in near:
        session.say(one.text)
