"""A registration as a file: all that it knows, as JSON, so that a notebook can go on from it another day.

The transform alone, for other programs, is :func:`SAMv2Core.io.transforms.write_transform` of its matrix.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Iterable

import numpy as np

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import PathLike, write_json
from SAMv2Core.registration.choice import Choice
from SAMv2Core.registration.verdict import Registration

FORMAT, FORMAT_VERSION = "samv2-registration", 1


def save_registration(registration: Registration, path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Write a registration, its verdict and its pairs as JSON, atomically.

    Parameters
    ----------
    registration : Registration
    path : path
        Usually ``*.json``.
    inputs : iterable of paths, optional
        Files that were read; overwriting one is refused.

    Raises
    ------
    OutputError
        The file cannot be written.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> template = s.load_model("lite-ct", "cpu").embed(volume)
    >>> result = s.register(template, template)
    >>> s.save_registration(result, "result.json")
    >>> bool((s.load_registration("result.json").matrix == result.matrix).all())
    True
    """
    content = {field.name: _plain(getattr(registration, field.name)) for field in dataclasses.fields(registration)}
    write_json(path, {"format": FORMAT, "format_version": FORMAT_VERSION, **content}, inputs)


def load_registration(path: PathLike) -> Registration:
    """Read a registration that :func:`save_registration` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    Registration
        Equal in every number.

    Raises
    ------
    InputError
        Missing, damaged, of another kind or of a newer format.

    Examples
    --------
    See :func:`save_registration`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a registration ({error}).", "Save it again.") from error
    kind = content.pop("format", None) if isinstance(content, dict) else None
    if kind != FORMAT:
        raise InputError(f"{path} is not a registration of SAMv2.", "Make one with save_registration.")
    if content.pop("format_version", None) != FORMAT_VERSION:
        raise InputError(f"{path} has a format that this program does not read.", "Update SAMv2, or register again.")
    try:
        choice = content.pop("intensity")
        values = {name: _as_it_was(name, value) for name, value in content.items()}
        intensity = None if choice is None else Choice(**{k: _as_it_was(k, v) for k, v in choice.items()})
        return Registration(**values, intensity=intensity)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}).", "Register the volumes again.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON knows no infinity
    return list(value) if isinstance(value, tuple) else value


def _as_it_was(name: str, value: Any) -> Any:
    if name == "matrix" or name.endswith("_lps"):
        columns = 4 if name == "matrix" else 3
        return np.array(value, dtype=np.float64).reshape(-1, columns)
    if name in ("reasons", "warnings"):
        return tuple(str(text) for text in value)
    return float(value) if value in ("inf", "-inf", "nan") else value
