"""``samv2 models``: which models there are, which are here, how to get and check them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Dict, List

from SAMv2Core.cli import common
from SAMv2Core.models import library

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.models.library import ModelInfo

DESCRIPTION = "List, check, download and import models. Without network only `download` fails."


def add_subparser(subparsers: Any) -> None:
    """Add ``models`` and its actions to the parser."""
    parser = subparsers.add_parser("models", help="list, check, download, import models", description=DESCRIPTION)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    _add_action(actions, "list", "all models, here or not", list_all)
    info = _add_action(actions, "info", "everything known about one model", show)
    info.add_argument("name", metavar="NAME|FILE")
    verify = _add_action(actions, "verify", "hash a model's file and compare", verify_one)
    verify.add_argument("name", metavar="NAME|FILE")
    download = _add_action(actions, "download", "fetch a released model (some 130 MB; resumes)", download_one)
    download.add_argument("name", metavar="NAME")
    importing = _add_action(actions, "import", "take over a weights file that you have", import_one)
    importing.add_argument("file", metavar="FILE", help=".pth as released by the authors, or .safetensors")
    importing.add_argument("--as", dest="name", metavar="NAME", help="what to call it; default: by its file name")


def _add_action(actions: Any, name: str, help_text: str, run: Any) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)
    return parser


def list_all(session: Session) -> None:
    """A table of all models."""
    session.declare()
    infos = library.list_models()
    if _is_json(session, {"models": [as_dict(info) for info in infos]}):
        return
    width = max(len(info.name) for info in infos)
    session.say(f"{'name':{width}}  {'state':10}  {'for':6}  what")
    for info in infos:
        session.say(f"{info.name:{width}}  {state(info):10}  {_modalities(info):6}  {info.title or info.architecture}")


def show(session: Session) -> None:
    """All facts about one model, without reading its weights."""
    session.declare()
    _tell(session, library.model_info(session.args.name))


def verify_one(session: Session) -> None:
    """Hash the file; a hash that differs from the recorded one is an error (exit code 4)."""
    session.declare()
    with session.stage("verify", 0.0, 1.0):
        info = library.verify(session.args.name)
    _tell(session, info)


def download_one(session: Session) -> None:
    """Fetch; Ctrl-C keeps what has arrived for the next try."""
    session.declare()
    with session.stage("download", 0.0, 1.0) as progress:
        info = library.download(session.args.name, progress)
    _tell(session, info)


def import_one(session: Session) -> None:
    """Check that the file loads as the network it is said to be, and copy it."""
    session.declare([session.args.file])
    with session.stage("import", 0.0, 1.0):
        info = library.import_file(session.args.file, session.args.name)
    _tell(session, info)


def state(info: ModelInfo) -> str:
    """``bundled``, ``ready`` (in the user's folder) or ``absent``."""
    if not info.is_ready:
        return "absent"
    return "bundled" if info.origin == "bundled" else "ready"


def as_dict(info: ModelInfo) -> Dict[str, Any]:
    """A model in types of JSON."""
    return {
        "name": info.name,
        "title": info.title,
        "state": state(info),
        "architecture": info.architecture,
        "modalities": list(info.modalities),
        "coverage": list(info.coverage),
        "parameters": info.parameters,
        "licence": info.licence,
        "file": None if info.path is None else str(info.path),
        "sha256": info.sha256 or None,
        "reported_sha256": info.reported_sha256 or None,
        "trusted": info.trusted,
        "head_weights": dict(info.head_weights),
        "origin": info.origin,
        "url": info.url,
        "description": info.description,
        "warnings": list(info.warnings),
    }


def _modalities(info: ModelInfo) -> str:
    return ",".join(info.modalities).upper() or "?"


def _is_json(session: Session, content: Dict[str, Any]) -> bool:
    """Put the result into the report and, with ``--json``, on stdout."""
    session.results.update(content)
    if session.args.json:
        session.write_json(content)
    return bool(session.args.json)


def _tell(session: Session, info: ModelInfo) -> None:
    for text in info.warnings:
        session.warn(text)
    if _is_json(session, {"result": as_dict(info)}):
        return
    lines: List[str] = [f"{info.name}: {info.title}".rstrip(": "), f"  state         {state(info)}"]
    for name, value in as_dict(info).items():
        if name not in ("name", "title", "state", "warnings") and value not in ("", None, [], {}):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"  {name:12}  {text}")
    for line in lines:
        session.say(line)
