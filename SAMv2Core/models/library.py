"""The models: which are here, which can be had, and whether a file is the one it should be.

The authors of the paper published no hashes. So the first hash seen of a file is remembered in its record,
and a later difference is an error (trust on first use); only files whose hash came with this program count as
``trusted``.

Importing this module does not load torch.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Optional

from SAMv2Core.errors import ModelError, OutputError, SAMv2Error
from SAMv2Core.io.files import PathLike, atomic_path, output_error
from SAMv2Core.models.catalogue import (
    ModelInfo,
    catalogue,
    catalogue_sha256,
    entry_info,
    file_info,
    find_model,
    list_models,
    model_info,
    name_of,
    unknown_model,
)
from SAMv2Core.models.download import download_file
from SAMv2Core.models.records import (
    bundled_folder,
    check_looks_like_weights,
    is_safetensors,
    models_folder,
    read_head,
    read_record,
    record_path,
    sha256_of,
    write_record,
)
from SAMv2Core.progress import Progress

__all__ = [
    "ModelInfo",
    "bundled_folder",
    "default_model",
    "download",
    "find_model",
    "import_file",
    "list_models",
    "model_info",
    "models_folder",
    "verify",
]

logger = logging.getLogger(__name__)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")


def default_model(*modalities: str) -> str:
    """The name of the model to use for volumes of these modalities, of those that are here.

    :param modalities: ``ct`` or ``mr``, one per volume.
    :raises ModelError: none that was trained on them is here.
    """
    wanted = set(modalities) or {"ct"}
    preferred = ("lite-ct", "lite-ctmr", "sampp", "sam") if wanted == {"ct"} else ("lite-ctmr", "crosssam")
    for name in preferred:
        info = model_info(name)
        if info.path is not None and wanted <= set(info.modalities):
            return name
    spoken = " and ".join(sorted(modality.upper() for modality in wanted))
    remedy = "Run `samv2 models download crosssam`, or choose a CT model with --model and expect worse matches."
    if wanted == {"ct"}:
        remedy = "Reinstall SAMv2, or run `samv2 models download sampp`."
    raise ModelError(f"No model trained on {spoken} is here.", remedy)


def verify(name_or_file: PathLike) -> ModelInfo:
    """Hash the weights file and compare with what is known; a first hash in the user's folder is remembered.

    :returns: with ``sha256`` of the file, ``trusted``, and in ``warnings`` what speaks against trust.
    :raises ModelError: not here, or not the file that was recorded.
    """
    path = find_model(name_or_file)
    info = file_info(path)
    found = sha256_of(path)
    expected, recorded = catalogue_sha256(info), str(read_record(path).get("sha256") or "")
    for known in (expected, recorded):
        if known and known != found:
            raise ModelError(
                f"{path} is not the file that it was: its SHA-256 is {found}, not {known}.",
                "Delete it and get it again; keep nothing that was computed with it.",
            )
    if found in (expected, recorded) and (expected or info.origin == "bundled"):
        return replace(info, sha256=found, trusted=True)
    doubt = _doubt(info, found, recorded)
    logger.log(logging.INFO if recorded else logging.WARNING, "%s", doubt)
    if not recorded and path.parent.resolve() == models_folder().resolve():
        try:
            write_record(path, found, "found in the models folder")
        except OutputError as error:  # a folder shared for reading
            logger.info("the hash of %s is not remembered: %s", path, error.cause)
    return replace(info, sha256=found, trusted=False, warnings=(*info.warnings, doubt))


def _doubt(info: ModelInfo, found: str, recorded: str) -> str:
    """Why a file that is not known to be wrong is not trusted."""
    if recorded:
        text = f"The model {info.name} has the SHA-256 that it had when it was first seen here"
    elif info.origin == "bundled":
        text = f"The model {info.name} came without a recorded SHA-256 ({found})"
    elif info.url:
        text = f"The model {info.name} has the SHA-256 {found}, which is not recorded here yet"
    else:
        text = f"The model {info.name} is not one that this program knows (SHA-256 {found})"
    if info.url:
        text += "; its authors published none to compare with"
    if info.reported_sha256:
        word = "equal to" if info.reported_sha256 == found else "DIFFERENT from"
        text += f"; it is {word} one that a third party reported (unverified)"
    return text + "."


def download(name: str, progress: Optional[Progress] = None) -> ModelInfo:
    """Fetch a released model into the user's models folder; an interrupted download is continued.

    :param progress: called with (fraction, text); may raise to cancel.
    :raises ModelError: not a model that can be downloaded, no connection, or not the file that was recorded.
    :raises OutputError: the disk is full or the folder cannot be written.
    """
    entry = catalogue().get(name)
    if entry is None:
        raise unknown_model(name)
    info = entry_info(entry)
    if not info.url:
        raise ModelError(f"The model {name} cannot be downloaded.", "It comes with SAMv2: install that again.")
    target = models_folder() / entry["file"]
    if target.exists():
        return verify(target)
    arriving = target.with_name(target.name + ".download")  # not under its name before it is checked
    download_file(info.url, arriving, progress)
    try:
        check_looks_like_weights(arriving, info.url)
        found = sha256_of(arriving)
        for known in (catalogue_sha256(info), str(read_record(target).get("sha256") or "")):
            if known and known != found:
                raise ModelError(
                    f"{info.url} gives another file than before: its SHA-256 is {found}, not {known}.",
                    f"It was not kept. If you trust the change, delete {record_path(target)} and repeat.",
                )
        write_record(target, found, info.url)
        os.replace(arriving, target)
    except SAMv2Error:
        arriving.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise output_error(target, error) from error
    return verify(target)


def import_file(path: PathLike, name: Optional[str] = None) -> ModelInfo:
    """Check a weights file and copy it into the user's models folder.

    :param name: what to call it; a name of the catalogue says which model it is. None: the catalogue's name
        for a file of this name, else the file's name without its ending.
    :raises ModelError: not weights of a known architecture, or the name is taken by another file.
    :raises OutputError: the folder cannot be written.
    """
    path = Path(path)
    check_looks_like_weights(path, str(path))
    name = name or name_of(path)
    if not _NAME.fullmatch(name):
        raise ModelError(f"{name!r} cannot be the name of a model.", "Use letters, digits, '.', '_', '+' and '-'.")
    entry = catalogue().get(name, {})
    if entry and not entry["source"]:
        raise ModelError(f"{name} is the name of a bundled model.", "Choose another name (--as).")
    from SAMv2Core.models.checkpoints import load_network  # loads torch

    _, checkpoint = load_network(path, entry.get("architecture"))
    found = sha256_of(path)
    for other in list_models():
        if other.name == name and other.path is not None and sha256_of(other.path) != found:
            raise ModelError(
                f"Another model {name} is here: {other.path}.", "Delete it, or choose another name (--as)."
            )
    suffix = ".safetensors" if is_safetensors(read_head(path)) else ".pth"
    target = models_folder() / (entry.get("file") or f"{name}{suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
    except OSError as error:
        raise output_error(target, error) from error
    write_record(target, found, f"imported from {path.name}", checkpoint.architecture)
    info = verify(target)
    return replace(info, warnings=(*checkpoint.warnings, *info.warnings))
