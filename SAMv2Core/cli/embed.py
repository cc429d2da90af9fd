"""``samv2 embed``: the embedding of one scan as a file, for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from SAMv2Core.cli import common

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session


def add_subparser(subparsers: Any) -> None:
    """Add ``embed`` to the parser."""
    parser = subparsers.add_parser("embed", help="write the embedding of a scan", description=__doc__)
    common.add_input(parser, "image", "the scan (a file, or a folder of DICOM)")
    common.add_series_option(parser)
    parser.add_argument(
        "--output",
        required=True,
        metavar="E.safetensors",
        type=common.safetensors_to_write,
        help="unit vectors per voxel (fine, coarse, semantic) with their geometry; float16, safetensors layout",
    )
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Read, embed, write."""
    args = session.args
    session.declare(inputs=[args.image], outputs=[args.output])
    with session.stage("read", 0.0, 0.05):
        volume = common.read_input(session, "image")
    model = common.load_model(session, {"image": volume})
    emb = common.embed(session, model, "image", volume, 0.05, 0.95, every_head=True)
    with session.stage("write", 0.95, 1.0):
        from SAMv2Core.embedding.file import save_embedding

        save_embedding(emb, args.output)
    session.results["heads"] = {
        head.name: {
            "shape_czyx": list(head.vectors.shape),
            "spacing_mm": [float(value) for value in head.grid.spacing_ijk_mm],
        }
        for head in emb.heads
    }
    session.say(f"{args.output}: {', '.join(head.name for head in emb.heads)}, {emb.nbytes / 2**20:.0f} MiB")
