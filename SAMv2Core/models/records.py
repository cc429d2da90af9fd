"""Weights files as files: where they are kept, what is recorded about them, and what they must not be.

Beside a weights file ``<stem>.<suffix>`` lies its record ``<stem>.json``: ``{"file", "sha256", "origin",
"recorded", "architecture", "calibration"}``, the last one where it was fitted. The record of a bundled file comes
with it and vouches for it; that of a downloaded or imported one is made when the file is first seen, and a later
difference means that the file was changed or exchanged.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Mapping

from SAMv2Core.errors import ModelError
from SAMv2Core.io.files import PathLike, write_json

SUFFIXES = (".safetensors", ".pth", ".pt")
ATLAS_SUFFIX = ".landmarks.safetensors"
_ZIP_MAGIC = b"PK\x03\x04"


def models_folder() -> Path:
    """Where downloaded and imported models are kept: ``SAMV2_MODELS_DIR``, or the user's data folder; may not
    exist yet.

    Outside Slicer's own folders, so that a new Slicer finds them again.
    """
    override = os.environ.get("SAMV2_MODELS_DIR")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "SAMv2" / "models"


def bundled_folder() -> Path:
    """Where the models lie that come with the program: in the package (wheel, Slicer) or in the checkout."""
    inside = Path(__file__).parents[1] / "_models"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "Resources" / "Models"


def record_path(path: Path) -> Path:
    """Of the record of a weights file."""
    return path.with_suffix(".json")


def read_record(path: Path) -> Dict[str, Any]:
    """What was recorded about a weights file; empty without a (readable) record of exactly this file."""
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("file") == path.name else {}


def write_record(path: Path, sha256: str, origin: str, architecture: str = "") -> None:
    """Remember a weights file.

    :param origin: where it came from: an address, a file name, a training run.
    :raises OutputError: the folder cannot be written.
    """
    record = {
        "file": path.name,
        "sha256": sha256,
        "origin": origin,
        "recorded": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "architecture": architecture,
    }
    write_json(record_path(path), record)


def write_calibration(path: Path, calibration: Mapping[str, Any]) -> None:
    """Remember the coefficients of the confidence that were fitted to a weights file; other weights need others.

    :param calibration: :meth:`SAMv2Core.matching.confidence.UncertaintyModel.from_metadata` takes it.
    :raises ModelError: the file is not the one recorded. :raises OutputError: the folder cannot be written.
    """
    record = read_record(path)
    if record.get("sha256") != sha256_of(path):
        raise ModelError(f"{path} is not the file of its record.", "Export the weights again.")
    write_json(record_path(path), {**record, "calibration": dict(calibration)})


def sha256_of(path: PathLike) -> str:
    """SHA-256 of a file, hexadecimal; a :class:`ModelError` when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from error
    return digest.hexdigest()


def check_looks_like_weights(path: PathLike, source: str) -> None:
    """Refuse what cannot be weights by its first bytes.

    :param source: names the file in the error.
    """
    head = read_head(path)
    if not is_safetensors(head):
        refuse_foreign(source, head)


def read_head(path: PathLike) -> bytes:
    """The first 64 bytes of a weights file; a :class:`ModelError` when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(64)
    except FileNotFoundError as error:
        raise ModelError(f"There is no model file {path}.", "Check the name; `samv2 models list` shows all.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from error


def is_safetensors(head: bytes) -> bool:
    """True when a file that begins so (9 bytes or more) can be of the safetensors layout."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def refuse_foreign(path: PathLike, head: bytes) -> None:
    """Name what is found in place of a checkpoint: a web page, a Git LFS pointer, a bare pickle, nothing.

    :param head: the first bytes of the file, 40 or more where it has them.
    """
    start = head.lstrip().lower()
    if head.startswith(_ZIP_MAGIC):
        return
    remedy = "Download the file itself and import that."
    if not start:
        what = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the file it stands for"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
        what = "is a web page or a message of a server, not weights"
    elif head.startswith(b"\x80"):
        what = "is a bare pickle, which can run code when it is read; it was not read"
        remedy = "If you trust its author, save its state dict again with PyTorch 1.6 or newer."
    else:
        what = "is not a PyTorch checkpoint"
    raise ModelError(f"{path} {what}.", remedy)
