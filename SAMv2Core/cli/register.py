"""``samv2 register``: the transform that aligns a moving scan to a fixed one, from many matches.

The transform, or its inverse, starts other programs where fields of view differ. They do best with the scan of the
smaller field of view as their fixed one, here the MR, so they get the inverse. elastix wants a file of two lines::

    samv2 register --fixed CT.nii.gz --moving MR.nii.gz --output T.tfm --inverse I.tfm
    antsRegistration --initial-moving-transform I.tfm ...                     (fixed MR.nii.gz, moving CT.nii.gz)
    printf '(Transform "File")\\n(TransformFileName "I.tfm")\\n' > start.txt   (elastix 5.1 and later)
    elastix -f MR.nii.gz -m CT.nii.gz -t0 start.txt ...
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, List, Optional

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common, dicomweb_files
from SAMv2Core.errors import UnreliableResultError
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.points import Point, PointList, write_points
from SAMv2Core.io.resample import crop_to, resample_to
from SAMv2Core.io.spatial_registration import check_sources, write_spatial_registration
from SAMv2Core.io.transforms import read_transform, write_transform
from SAMv2Core.registration.deformable import (
    Deformation,
    deform,
    load_convex_adam,
    write_deformation,
)

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

TRANSFORMS = ("rigid", "similarity", "affine")
REFINEMENTS = ("auto", "on", "off")


def add_subparser(subparsers: Any) -> None:
    """Add ``register`` to the parser."""
    parser = subparsers.add_parser(
        "register",
        help="align one scan to another",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the lines for other programs
    )
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
    parser.add_argument(
        "--refine",
        choices=REFINEMENTS,
        default="auto",
        help="let the intensities choose among hypotheses and refine: auto (default) does when modalities differ",
    )
    parser.add_argument(
        "--initial-transform",
        metavar="T0.h5",
        help="a guess that competes with the others: an ITK transform, fixed to moving",
    )
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
    _add_further_outputs(parser)
    common.add_computing_options(parser)
    common.add_server_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def _add_further_outputs(parser: Any) -> None:
    group = parser.add_argument_group("further outputs")
    group.add_argument(
        "--inverse", metavar="I.h5", type=common.transform_to_write, help="the inverse transform, moving to fixed"
    )
    group.add_argument(
        "--matched-points",
        metavar="P.mrk.json",
        type=common.points_to_write,
        help="the matches behind the transform as two point lists, P-fixed.mrk.json and P-moving.mrk.json",
    )
    group.add_argument(
        "--deformable",
        metavar="D.h5",
        type=_deformation_to_write,
        help="deform on top (needs convexadam) and write transform and field as one ITK transform; --resampled uses it",
    )
    group.add_argument(
        "--sro", metavar="S.dcm", type=_dicom_to_write, help="a DICOM Spatial Registration (needs pydicom and DICOM)"
    )
    dicomweb_files.add_stow_option(parser, "sro")


def _deformation_to_write(text: str) -> str:
    return common.suffixed(text, (".h5",))


def _dicom_to_write(text: str) -> str:
    return common.suffixed(text, (".dcm",))


def run(session: Session) -> None:
    """Read, embed, register, write; unreliable when the registration failed."""
    args = session.args
    dicomweb_files.check_stow(args, "sro")
    pair = matched_names(args.matched_points)
    outputs = [args.output, args.resampled, args.crop, args.inverse, args.deformable, args.sro, *pair]
    session.declare(inputs=[args.fixed, args.moving, args.initial_transform], outputs=outputs)
    with session.stage("read", 0.0, 0.05):
        fixed, moving = common.read_input(session, "fixed"), common.read_input(session, "moving")
        initial = read_transform(args.initial_transform) if args.initial_transform else None
        if args.sro:
            check_sources(fixed, moving)
        if args.deformable:
            load_convex_adam()
    emb_fixed, emb_moving = common.embed_all(session, {"fixed": fixed, "moving": moving}, 0.6)
    with session.stage("register", 0.6, 0.9) as progress:
        result = common.functions(session).register(
            emb_fixed,
            emb_moving,
            transform=args.transform,
            seed=args.seed,
            progress=progress,
            fixed_volume=fixed,
            moving_volume=moving,
            refine=args.refine,
            initial=initial,
        )
    for text in result.warnings:
        session.warn(text)
    # The warnings of all stages stand in one list of the report.
    session.results.update({key: value for key, value in result.to_report().items() if key != "warnings"})
    deformation = None
    if args.deformable and result.status != "failed":
        with session.stage("deform", 0.9, 0.97) as progress:
            deformation = deform(fixed, moving, result.matrix, progress)
        session.results["deformation"] = deformation.to_report()
    with session.stage("write", 0.97, 1.0):
        write_outputs(session, result, fixed, moving, deformation)
    tell(session, result)


def write_outputs(
    session: Session, result: s.Registration, fixed: s.Volume, moving: s.Volume, deformation: Optional[Deformation]
) -> None:
    """The transform, and what else was asked for."""
    args = session.args
    write_transform(result.matrix, args.output, inputs=session.inputs)
    if args.inverse:
        write_transform(np.linalg.inv(result.matrix), args.inverse, inputs=session.inputs)
    if deformation is not None:
        write_deformation(deformation, args.deformable, inputs=session.inputs)
    if args.resampled:
        if deformation is None:
            resampled = resample_to(fixed.grid, moving, result.matrix)
        else:
            resampled = resample_to(fixed.grid, moving, deformation.to_itk())
        s.write_volume(resampled, args.resampled, inputs=session.inputs)
    if args.crop:
        volume = {"fixed": fixed, "moving": moving}[result.crop_of]
        if result.crop is None:
            session.warn(f"Nothing to crop: {args.crop} is the whole {result.crop_of} scan.")
        s.write_volume(crop_to(volume, result.crop), args.crop, inputs=session.inputs)
    sides = (result.fixed_points_lps, result.moving_points_lps)
    for path, points, name in zip(matched_names(args.matched_points), sides, ("fixed", "moving")):
        write_points(point_list(points, name), path, inputs=session.inputs)
    if args.sro:
        sha256 = str((session.report.model or {}).get("sha256", ""))
        registered = (result.matrix, result.transform, fixed, moving)
        write_spatial_registration(*registered, args.sro, session.inputs, s.__version__, sha256)
        # A transform that must not be trusted is for the file alone.
        if result.status != "failed":
            dicomweb_files.stow(session, "sro")


def matched_names(path: Optional[str]) -> List[str]:
    """``P.mrk.json`` to ``P-fixed.mrk.json`` and ``P-moving.mrk.json``; none for None."""
    if path is None:
        return []
    suffix = suffix_of(path)
    return [f"{path[: -len(suffix)]}-{side}{suffix}" for side in ("fixed", "moving")]


def point_list(points_lps: np.ndarray, name: str) -> PointList:
    """Points of one side, with the labels of their partners."""
    return PointList(tuple(Point(f"M-{n}", common.triple(point)) for n, point in enumerate(points_lps, 1)), name)


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
