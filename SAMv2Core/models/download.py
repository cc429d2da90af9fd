"""A large file from the network that is whole or absent, and that is not fetched twice when the line breaks.

What has arrived is kept as ``<name>.part`` and continued by an HTTP range request. The server is told which
version of the file the part is of (``If-Range`` with its ETag or date): when the file has changed meanwhile,
it is sent whole again. Only the standard library is used, so proxies are those of the environment.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, Optional, Tuple

from SAMv2Core.errors import ModelError, OutputError
from SAMv2Core.io.files import output_error
from SAMv2Core.progress import Progress

logger = logging.getLogger(__name__)


ATTEMPTS = 4
RETRY_SECONDS = 2.0  # before the second attempt, doubled before each further one
_TIMEOUT_SECONDS = 30.0  # without a byte
_BLOCK = 1 << 18
_SPARE_BYTES = 64 << 20  # never fill a disk to the last byte


class _Interrupted(Exception):
    """The connection failed or ended early; trying again may help."""


def download_file(url: str, target: Path, progress: Optional[Progress] = None) -> None:
    """Fetch ``url`` to ``target`` (its folder is made); continues a ``.part`` left by an earlier call.

    :param progress: called with (fraction, text); may raise to cancel, what has arrived is kept then.
    :raises ModelError: no connection, or the server does not give the file.
    :raises OutputError: the disk is full or the folder cannot be written.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _fetch(url, part, progress)
                break
            except _Interrupted as problem:
                logger.debug("attempt %d: %s", attempt, problem)
                if attempt == ATTEMPTS:
                    raise _no_connection(url, part, str(problem)) from problem
                time.sleep(RETRY_SECONDS * 2 ** (attempt - 1))
        os.replace(part, target)
        _version_file(part).unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # what cannot be completed must not keep the disk full
            discard_part(target)
        raise output_error(target, error) from error


def discard_part(target: Path) -> None:
    """Forget what an earlier call left for ``target``."""
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _fetch(url: str, part: Path, progress: Optional[Progress]) -> None:
    """One attempt; returns when ``part`` is the whole file."""
    version = _known_version(part, url)
    done = part.stat().st_size if version and part.exists() else 0
    headers = {"User-Agent": "SAMv2", "Accept-Encoding": "identity"}
    if done:
        headers.update({"Range": f"bytes={done}-", "If-Range": version})
    with _open(urllib.request.Request(url, headers=headers), part) as response:
        if url.startswith("https:") and not response.geturl().startswith("https:"):
            raise ModelError(f"{url} was redirected to an unencrypted address.", "Download the file by hand.")
        done, total = _extent(response, done)
        _check_space(part, done, total)
        version = response.headers.get("ETag", "") or response.headers.get("Last-Modified", "")
        _version_file(part).write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")
        with open(part, "ab" if done else "wb") as stream:
            while True:
                _tell(progress, done, total)
                try:
                    block = response.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise _Interrupted(str(error) or type(error).__name__) from error
                if not block:
                    break
                stream.write(block)
                done += len(block)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and done != total:
        raise _Interrupted(f"{done} of {total} bytes arrived")


def _open(request: urllib.request.Request, part: Path) -> http.client.HTTPResponse:
    """The server's answer of success; other answers as errors that say whether another attempt can help."""
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have: the part is not of this file
            _version_file(part).unlink(missing_ok=True)
            raise _Interrupted("the part kept does not fit the file") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _Interrupted(f"the server answers {error.code} {error.reason}") from error
        raise ModelError(
            f"{request.full_url} is not available: the server answers {error.code} {error.reason}.",
            "Get the file another way and use `samv2 models import FILE --as NAME`.",
        ) from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _extent(response: http.client.HTTPResponse, asked_from: int) -> Tuple[int, Optional[int]]:
    """(first byte that comes, size of the whole file or None when the server does not tell)."""
    length = response.headers.get("Content-Length")
    remaining = int(length) if length and length.isdigit() else None
    if response.status == 206:
        begin = response.headers.get("Content-Range", "").partition(" ")[2].partition("-")[0]
        if begin != str(asked_from):
            raise _Interrupted("the server sent another range than asked for")
        return asked_from, None if remaining is None else asked_from + remaining
    return 0, remaining


def _check_space(part: Path, done: int, total: Optional[int]) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - done + _SPARE_BYTES > free:
        raise OutputError(
            f"{part.parent} has {free >> 20} MB free, the download needs {(total - done) >> 20} MB more.",
            "Free some space, or set SAMV2_MODELS_DIR to another folder.",
        )


def _tell(progress: Optional[Progress], done: int, total: Optional[int]) -> None:
    if progress is None:
        return
    if total:
        progress(min(1.0, done / total), f"{done / 1e6:.0f} of {total / 1e6:.0f} MB")
    else:
        progress(0.0, f"{done / 1e6:.0f} MB")


def _version_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _known_version(part: Path, url: str) -> str:
    """ETag or date of the file that ``part`` belongs to; empty when it cannot be continued safely."""
    try:
        known: Dict[str, str] = json.loads(_version_file(part).read_text(encoding="utf-8"))
        version = known["version"] if known["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return "" if version.startswith("W/") else version  # a weak ETag does not promise equal bytes


def _no_connection(url: str, part: Path, reason: str) -> ModelError:
    kept = part.stat().st_size if part.exists() else 0
    return ModelError(
        f"The download of {url} failed: {reason}.",
        f"Run it again to continue ({kept / 1e6:.0f} MB are kept), or get the file another way and use "
        "`samv2 models import FILE --as NAME`.",
    )
