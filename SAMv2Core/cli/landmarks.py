"""``samv2 landmarks``: named anatomical landmarks of a scan; ``samv2 where``: what lies near a point."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, List, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, UnreliableResultError
from SAMv2Core.io.points import Point, PointList, write_points

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


def add_subparser(subparsers: Any) -> None:
    """Add ``landmarks`` and ``where`` to the parser."""
    parser = subparsers.add_parser("landmarks", help="find named landmarks in a scan", description=__doc__)
    _add_scan(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="A.mrk.json",
        type=common.points_to_write,
        help="the landmarks: .mrk.json, .fcsv or .csv; one that was not found has no position",
    )
    parser.add_argument("--only", metavar="NAME,NAME", help="some landmarks only; default: all of the atlas")
    common.add_computing_options(parser)
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
    common.add_reporting_options(parser)
    parser.set_defaults(run=run_where)


def _add_scan(parser: argparse.ArgumentParser) -> None:
    common.add_input(parser, "image", "the scan (a file, or a folder of DICOM)")
    common.add_series_option(parser)
    parser.add_argument(
        "--atlas", metavar="FILE", help="landmarks to look for; default: those that ship with the model"
    )


def _find(session: Session, only: List[str]) -> Tuple[s.Volume, List[s.Landmark]]:
    from SAMv2Core.landmarks.atlas import load_atlas

    args = session.args
    with session.stage("read", 0.0, 0.05):
        atlas = load_atlas(args.atlas) if args.atlas else None
        volume = common.read_input(session, "image")
    model = common.load_model(session, {"image": volume})
    emb = common.embed(session, model, "image", volume, 0.08, 0.85)
    with session.stage("landmarks", 0.85, 0.98) as progress:
        return volume, s.find_landmarks(emb, atlas, only or None, progress)


def run(session: Session) -> None:
    """Read, embed, find, write; the result is unreliable when no landmark was found."""
    args = session.args
    session.declare(inputs=[args.image, args.atlas], outputs=[args.output])
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
    session.declare(inputs=[args.image, args.atlas])
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
