"""``samv2 register``: the transform that aligns a moving scan to a fixed one, from many matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import UnreliableResultError
from SAMv2Core.resample import crop_to, resample_to
from SAMv2Core.transforms import write_transform

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

TRANSFORMS = ("rigid", "similarity", "affine")


def add_subparser(subparsers: Any) -> None:
    """Add ``register`` to the parser."""
    parser = subparsers.add_parser("register", help="align one scan to another", description=__doc__)
    common.add_input(parser, "fixed", "the scan that stays (a file, or a folder of DICOM)")
    common.add_input(parser, "moving", "the scan that is to be aligned to it")
    common.add_series_option(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="T.h5",
        type=common.transform_to_write,
        help="ITK transform to write (.h5, .tfm or .txt); it maps points of the fixed to the moving scan, so that "
        "SimpleITK.Resample(moving, fixed, transform), or applying it to the moving volume in Slicer, aligns them",
    )
    parser.add_argument("--transform", choices=TRANSFORMS, default="rigid", help="default: rigid")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampled points; default: 0")
    parser.add_argument(
        "--resampled",
        metavar="R.nii.gz",
        type=common.volume_to_write,
        help="write the moving scan resampled to the fixed one",
    )
    parser.add_argument(
        "--crop",
        metavar="C.nii.gz",
        type=common.volume_to_write,
        help="write the part of the larger scan that shows what the smaller one shows",
    )
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Read, embed, register, write; unreliable when the registration failed."""
    args = session.args
    session.declare(inputs=[args.fixed, args.moving], outputs=[args.output, args.resampled, args.crop])
    with session.stage("read", 0.0, 0.05):
        fixed, moving = common.read_input(session, "fixed"), common.read_input(session, "moving")
    emb_fixed, emb_moving = common.embed_both(session, {"fixed": fixed, "moving": moving}, 0.75)
    with session.stage("register", 0.75, 0.95) as progress:
        result = s.register(emb_fixed, emb_moving, transform=args.transform, seed=args.seed, progress=progress)
    for text in result.warnings:
        session.warn(text)
    # The warnings of all stages stand in one list of the report.
    session.results.update({key: value for key, value in result.to_report().items() if key != "warnings"})
    with session.stage("write", 0.95, 1.0):
        write_outputs(session, result, fixed, moving)
    tell(session, result)


def write_outputs(session: Session, result: s.Registration, fixed: s.Volume, moving: s.Volume) -> None:
    """The transform, and the volumes that were asked for."""
    args = session.args
    write_transform(result.matrix, args.output, inputs=session.inputs)
    if args.resampled:
        s.write_volume(resample_to(fixed.grid, moving, result.matrix), args.resampled, inputs=session.inputs)
    if args.crop:
        volume = {"fixed": fixed, "moving": moving}[result.crop_of]
        if result.crop is None:
            session.warn(f"Nothing to crop: {args.crop} is the whole {result.crop_of} scan.")
        s.write_volume(crop_to(volume, result.crop), args.crop, inputs=session.inputs)


def tell(session: Session, result: s.Registration) -> None:
    """The verdict on stdout; an error when it is "failed"."""
    residual = result.residual_mm
    session.say(f"{result.status}: {result.transform}, {result.inliers} of {result.points_sampled} matches agree")
    if residual is not None:
        session.say(
            f"residual {residual['mean']:.1f} mm mean, {residual['median']:.1f} mm median, {residual['p95']:.1f} mm p95"
            f" (consistency of the matches, not accuracy); overlap {result.overlap:.0%}"
        )
    session.say(np.array2string(result.matrix, precision=4, suppress_small=True))
    reasons = "; ".join(result.reasons)
    if result.status == "failed":
        raise UnreliableResultError(
            f"The registration failed: {reasons}.",
            f"Do not use {session.args.output}; check that both scans show the same part of the body.",
        )
    if result.status != "registered":
        session.warn(f"The registration is uncertain: {reasons}. Check it by eye.")
