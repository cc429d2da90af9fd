"""``samv2 evaluate``: the paper's evaluations as commands.

``dls`` measures lesion tracking by both published evaluators, ``landmarks`` finds landmarks of every template in
every query, ``registration`` compares errors before and after, beside other programs, ``longitudinal-ct`` follows
lesions beside the set's own registration.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence

from SAMv2Core.cli import (
    common,
    evaluate_dls,
    evaluate_landmarks,
    evaluate_longitudinal,
    evaluate_registration,
)
from SAMv2Core.errors import UsageError
from SAMv2Core.evaluation import methods

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

BASELINES = ("sitk", "elastix", "ants")
TRANSFORMS = ("rigid", "similarity", "affine")


def add_subparser(subparsers: Any) -> None:
    """Add ``evaluate`` with its evaluations to the parser."""
    parser = subparsers.add_parser(
        "evaluate", help="measure matching, tracking or registration against the truth", description=__doc__
    )
    evaluations = parser.add_subparsers(title="evaluations", metavar="EVALUATION", dest="evaluation", required=True)
    _add_dls(evaluations)
    _add_landmarks(evaluations)
    _add_registration(evaluations)
    _add_longitudinal(evaluations)


def _add_dls(evaluations: Any) -> None:
    parser = evaluations.add_parser(
        "dls", help="lesion tracking on DeepLesion", description="Lesion tracking by the DLT and the TLT evaluator."
    )
    parser.add_argument("--annotations", metavar="A.json", help="test.json of the DLT repository, or of its form")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--predictions", metavar="P", help="predicted centers: DLT's results JSON, or CSV id,x,y,z")
    source.add_argument("--images", metavar="DIR", help="DeepLesion as NIfTI: run the matcher on it")
    parser.add_argument(
        "--method",
        choices=methods.LESION_METHODS,
        default="default",
        help="nearest, the paper's fixed-point, what `samv2 match` does (default), or `samv2 track` (track)",
    )
    parser.add_argument(
        "--slice-order",
        choices=("auto", "affine", "slices"),
        default="auto",
        help="whether the files' headers are right (affine) or their voxels are in the annotation's order whatever the "
        "header says (slices); default: told from the annotated places",
    )
    parser.add_argument("--regions", metavar="CSV", help="id,region: the part of the body of each lesion")
    parser.add_argument("--save-predictions", metavar="P", help="write the predictions of --images, .json or .csv")
    _add_features(parser)
    _add_outputs(parser)
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=_checked(evaluate_dls.run))


def _add_landmarks(evaluations: Any) -> None:
    parser = evaluations.add_parser(
        "landmarks",
        help="landmarks of every template in every query",
        description="All ordered pairs of the scans of two folders (which may be one), with the landmarks beside them.",
    )
    parser.add_argument("--template", required=True, metavar="DIR", help="scans whose landmarks are looked for")
    parser.add_argument("--query", required=True, metavar="DIR", help="scans in which they are looked for")
    parser.add_argument(
        "--points-from",
        choices=("markups", "labels"),
        default="markups",
        help="NAME.mrk.json, .fcsv or .csv beside NAME.nii.gz, or NAME_labels.nii.gz (centroids, tops, bottoms); "
        "default: markups",
    )
    parser.add_argument("--label-names", metavar="JSON", help='{"1": "liver"}; FILE#KEY takes a part of the file')
    parser.add_argument(
        "--phases",
        metavar="CSV|RULE",
        help="patient and phase of each scan: a table name,patient,phase, or a regular expression for its name with "
        "the groups (?P<patient>...) and (?P<phase>...)",
    )
    parser.add_argument(
        "--method",
        choices=("all", *methods.POINT_METHODS),
        default="all",
        help="nearest, the paper's fixed-point, what `samv2 match` does (default), or all three (all); default: all",
    )
    parser.add_argument("--modality", choices=common.MODALITIES, default="auto", help="of all scans; default: auto")
    _add_features(parser)
    _add_outputs(parser)
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=_checked(evaluate_landmarks.run))


def _add_registration(evaluations: Any) -> None:
    parser = evaluations.add_parser(
        "registration",
        help="errors before and after, beside other programs",
        description="Registers every pair of a table by every method, each in a process of its own.",
    )
    parser.add_argument(
        "--pairs",
        required=True,
        metavar="TABLE.csv",
        help="columns fixed, moving and fixed_keypoints, moving_keypoints or fixed_labels, moving_labels; also id, "
        "initial_transform, fixed_modality, moving_modality",
    )
    parser.add_argument("--transform", choices=TRANSFORMS, default=TRANSFORMS[0], help=f"default: {TRANSFORMS[0]}")
    parser.add_argument(
        "--baselines",
        type=baseline_names,
        default=[],
        metavar="NAME,...",
        help=f"of {', '.join(BASELINES)}; each runs with the smaller and with the larger scan as its fixed image",
    )
    parser.add_argument("--label-names", metavar="JSON", help='{"1": "liver"}; FILE#KEY takes a part of the file')
    parser.add_argument(
        "--timeout", type=common.positive_float, default=900.0, metavar="SECONDS", help="per registration; default: 900"
    )
    _add_features(parser)
    _add_outputs(parser)
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=_checked(evaluate_registration.run))


def _add_longitudinal(evaluations: Any) -> None:
    parser = evaluations.add_parser(
        "longitudinal-ct",
        help="lesions from baseline to follow-up",
        description="Lesions of Longitudinal-CT, or of a set of its layout, beside the set's own registration.",
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="the unpacked set: PID.csv and NIfTI scans")
    parser.add_argument(
        "--method",
        choices=methods.LESION_METHODS,
        default="track",
        help="nearest, the paper's fixed-point, what `samv2 match` does (default), or `samv2 track` (track); "
        "default: track",
    )
    _add_features(parser)
    _add_outputs(parser)
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=_checked(evaluate_longitudinal.run))


def _add_features(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features")
    group.add_argument(
        "--features",
        metavar="FILE",
        help="also (dls, longitudinal-ct: instead) another network's features with the same matcher: a TorchScript "
        "module taking (1, 1, D, H, W) at 2 mm and returning (1, C, d, h, w), or a folder of embeddings "
        "NAME.safetensors",
    )
    group.add_argument(
        "--mind",
        action="store_true",
        help="also (dls, longitudinal-ct: instead) MIND-SSC, a descriptor without training (convexAdam)",
    )
    group.add_argument("--no-model", action="store_true", help="leave our model out")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", metavar="T.md", help="write the tables as Markdown")
    parser.add_argument("--plot", metavar="P.png", help="write a plot (needs matplotlib)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random; default: 0")


def baseline_names(text: str) -> List[str]:
    """An argparse type: names of baselines, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no baseline {unknown[0]!r}; choose among {', '.join(BASELINES)}")
    return list(dict.fromkeys(names))


def _checked(run: Callable[..., None]) -> Callable[[Session], None]:
    """The evaluation, after the checks that all of them share."""

    def checked(session: Session) -> None:
        args = session.args
        if args.plot:
            from SAMv2Core.evaluation.plots import check_matplotlib

            check_matplotlib()
        run(session, feature_choices(args))

    return checked


def feature_choices(args: argparse.Namespace) -> List[Dict[str, Any]]:
    """The features asked for, ours first.

    :raises UsageError: none is left.
    """
    from SAMv2Core.evaluation.chosen import chosen_model

    choices: List[Dict[str, Any]] = []
    if not args.no_model:
        limits: Sequence[Any] = (args.max_memory, args.threads, args.cache, args.cache_size)
        choices.append(chosen_model(args.model, args.device, args.precision, *limits))
    if args.features:
        choices.append({"kind": "file", "path": args.features})
    if args.mind:
        choices.append({"kind": "mind"})
    if not choices and not getattr(args, "baselines", None) and not getattr(args, "predictions", None):
        raise UsageError("--no-model leaves nothing to evaluate.", "Add --mind or --features FILE.")
    return choices
