"""``samv2 serve``: compute for others, for a department that shares one GPU; see Resources/Server.md."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Optional

from SAMv2Core.cli import common
from SAMv2Core.errors import UsageError

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

PORT = 8123
LEAST_KEPT_GIB = 0.5


def add_subparser(subparsers: Any) -> None:
    """Add ``serve`` to the parser."""
    parser = subparsers.add_parser("serve", help="compute for others, over HTTP", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; default: 127.0.0.1, this computer alone")
    parser.add_argument("--port", type=_port, default=PORT, metavar="N", help=f"default: {PORT}; 0 takes a free one")
    parser.add_argument(
        "--token-file",
        required=True,
        metavar="F",
        help="file with the token that clients must have; made, with a random one, where there is none",
    )
    parser.add_argument("--tls-cert", metavar="PEM", help="certificate, to be reached from other computers")
    parser.add_argument("--tls-key", metavar="PEM", help="its key")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="be reached from other computers without TLS, where all can be read",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps; default: auto")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="models that clients may ask for; default: all that are here"
    )
    parser.add_argument(
        "--max-memory", type=common.positive_float, metavar="GIB", help="limit on the memory of the whole process"
    )
    parser.add_argument(
        "--keep",
        type=common.positive_float,
        metavar="GIB",
        help="of scans and embeddings in memory, the least recently used go first; default: half of what is free",
    )
    parser.add_argument("--threads", type=common.positive_int, metavar="N", help="CPU threads; default: torch's choice")
    parser.add_argument("--cache", metavar="DIR", help="keep embeddings on disk, too; default: nothing is kept on disk")
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def run(session: Session) -> None:
    """Serve until interrupted."""
    from SAMv2Core.models.library import model_info
    from SAMv2Core.serve import http
    from SAMv2Core.serve.service import Service, Settings

    args = session.args
    if bool(args.tls_cert) != bool(args.tls_key):
        raise UsageError("A certificate needs its key, and a key its certificate.", "Give --tls-cert and --tls-key.")
    tls = (args.tls_cert, args.tls_key) if args.tls_cert else None
    http.check_host(args.host, tls is not None, args.insecure)
    for name in args.models or ():
        model_info(name)  # an error for a name that nobody knows
    token, is_new = http.token_from(args.token_file)
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    settings = Settings(
        device=str(_device(args.device)),
        models=tuple(args.models) if args.models else None,
        max_memory_gib=args.max_memory,
        keep_bytes=_keep_bytes(args.keep, args.max_memory),
        cache=args.cache is not None,
        cache_folder=args.cache or "",
    )
    if is_new:
        session.say(f"A token was made; clients need it: {args.token_file}")
    session.results["host"] = args.host

    def on_start(port: int) -> None:
        scheme = "https" if tls else "http"
        session.results["port"] = port
        session.say(f"Serving on {scheme}://{args.host}:{port} with {settings.device}; Ctrl-C ends it")

    http.run(Service(settings), token, args.host, args.port, tls, on_start)


def _device(asked: str) -> Any:
    from SAMv2Core.network.device import resolve_device

    return resolve_device(asked)


def _keep_bytes(keep_gib: Optional[float], max_memory_gib: Optional[float]) -> int:
    """What may be kept: as asked, else half of what the process may use or of what is free."""
    from SAMv2Core.embedding.memory import available_bytes

    if keep_gib is not None:
        return int(keep_gib * 2**30)
    free = (available_bytes() or 8 * 2**30) / 2**30
    return int(max(LEAST_KEPT_GIB, min(max_memory_gib or free, free) / 2) * 2**30)
