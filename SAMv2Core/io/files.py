"""Outputs that are either complete or absent, and that never replace an input.

Every file is written under a temporary name in its final folder and renamed when it is whole (a rename within
one file system is atomic), so a full disk, a crash or Ctrl-C leaves neither half a file nor a damaged older
one. All failures of the file system become :class:`OutputError` with the name of the file that the user asked
for.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any, Iterable, Iterator, Union

from SAMv2Core.errors import OutputError

PathLike = Union[str, "os.PathLike[str]"]

_COMPOUND_SUFFIXES = (".nii.gz", ".mrk.json")
_OUT_OF_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


def suffix_of(path: PathLike) -> str:
    """Lower-case suffix of a path, with the compound ones whole: ``.nii.gz``, ``.mrk.json``."""
    name = Path(path).name.lower()
    for suffix in _COMPOUND_SUFFIXES:
        if name.endswith(suffix):
            return suffix
    return Path(name).suffix


def is_same_file(first: PathLike, second: PathLike) -> bool:
    """True when both paths lead to one file, through links and relative parts too."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)


def _is_inside(path: Path, folder: PathLike) -> bool:
    return os.path.isdir(folder) and Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def check_output(path: PathLike, inputs: Iterable[PathLike] = ()) -> Path:
    """Refuse an output that could not be written later, before hours are spent on computing it.

    :param path: where a file is to be written.
    :param inputs: files and folders that were read; the output must not replace one or land in a folder of
        them.
    :returns: the path as :class:`pathlib.Path`.
    :raises OutputError: no such folder, not writable, a folder of that name, or an input.
    """
    path = Path(path)
    for source in inputs:
        if is_same_file(path, source):
            raise OutputError(f"The output {path} is also an input.", "Choose another name for the output.")
        if _is_inside(path, source):
            raise OutputError(f"The output {path} lies in the input folder {source}.", "Choose another folder.")
    kind = _kind_of(path)
    if kind == stat.S_IFDIR:
        raise OutputError(f"The output {path} is a folder.", "Give the name of a file.")
    if kind not in (0, stat.S_IFREG):
        # Renaming onto a device (/dev/null, /dev/stdout) would replace the device by a file.
        raise OutputError(f"The output {path} is a device, not a file.", "Give the name of a file.")
    folder = path.parent
    if not folder.exists():
        raise OutputError(f"The folder {folder} does not exist.", "Create it, or choose another place.")
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder.", "Choose another place for the output.")
    if not os.access(folder, os.W_OK | os.X_OK) or (kind and _refuses_writers(path)):
        raise OutputError(f"{path} cannot be written: permission denied.", "Choose a place that you may write to.")
    return path


def _kind_of(path: Path) -> int:
    """What lies at a path, as ``stat.S_IFMT`` names it; 0: nothing. One question: another process may take it away."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return 0


def _refuses_writers(path: Path) -> bool:
    """Whether a file is there and may not be written. Asked by opening it, which tells the two apart at once."""
    try:
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        return True
    except OSError:
        return False  # gone by now, or a failure that writing itself will name
    return False


def output_error(path: PathLike, error: OSError) -> OutputError:
    """The :class:`OutputError` that tells what an ``OSError`` means for the user's file ``path``."""
    if error.errno in _OUT_OF_SPACE:
        return OutputError(f"{path} cannot be written: the disk is full.", "Free some space and try again.")
    if isinstance(error, PermissionError):
        return OutputError(f"{path} cannot be written: permission denied.", "Choose a place that you may write to.")
    if isinstance(error, FileNotFoundError):
        return OutputError(f"The folder {Path(path).parent} does not exist.", "Create it, or choose another place.")
    return OutputError(f"{path} cannot be written: {error.strerror or error}.", "Choose another place for the output.")


@contextlib.contextmanager
def atomic_path(path: PathLike, inputs: Iterable[PathLike] = ()) -> Iterator[Path]:
    """A temporary path with the suffix of ``path``; renamed to it when the block ends well, removed when it
    does not.

    For writers that want a file name (SimpleITK, numpy). Removal happens on every exception, Ctrl-C included.

    :raises OutputError: see :func:`check_output`; also when writing inside the block fails with ``OSError``.
    """
    path = check_output(path, inputs)
    # Through a link the file behind it is replaced, not the link itself.
    target = Path(os.path.realpath(path))
    suffix = suffix_of(target)
    stem = target.name[: len(target.name) - len(suffix)]
    # Long stems are cut: 255 bytes is the limit of a name on most file systems.
    temporary = target.with_name(f".{stem[:60]}.{secrets.token_hex(4)}.part{suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: PathLike, content: bytes, inputs: Iterable[PathLike] = ()) -> None:
    """Write ``content`` to ``path`` atomically; errors as in :func:`atomic_path`."""
    with atomic_path(path, inputs) as temporary, open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        # Without it some file systems rename first and write later: a power cut would leave an empty file.
        os.fsync(stream.fileno())


def write_text(path: PathLike, text: str, inputs: Iterable[PathLike] = ()) -> None:
    """Write UTF-8 text with ``\\n`` line ends atomically; errors as in :func:`atomic_path`."""
    write_bytes(path, text.encode("utf-8"), inputs)


def write_json(path: PathLike, content: Any, inputs: Iterable[PathLike] = ()) -> None:
    """Write strict JSON (UTF-8, indented, NaN refused with ``ValueError``) atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", inputs)
