"""Which series of a study is the one to compare: a small file of rules, the first that any series fulfills decides.

A file (JSON) is a list of rules, or ``{"newest": [...], "prior": [...]}`` where the two sides differ (MR against CT).
A rule names what a series must be; what it leaves out may be anything::

    [{"modality": "CT", "orientation": "axial", "thickness_mm": [0.5, 3], "kernel": "^Br", "phase": "portal|ven"},
     {"modality": "CT", "orientation": "axial"}]

``kernel``, ``phase`` and ``description`` are regular expressions, whatever the case: of the convolution kernel, of
description and protocol name together (DICOM has no tag for the phase that is filled in everywhere), of the
description. ``contrast`` is true or false: whether a contrast agent is named. Of several series that fulfill a rule the
one of most images is taken.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Optional, Tuple

from SAMv2Core.errors import InputError
from SAMv2Core.io.archive import MODALITIES, ArchivedSeries
from SAMv2Core.io.files import PathLike

_ORIENTATIONS = ("axial", "coronal", "sagittal")
_PATTERNS = ("kernel", "phase", "description")
_SIDES = {"newest", "prior"}


@dataclass(frozen=True)
class Rule:
    """What a series must be; None and empty: anything.

    :param thickness_mm: smallest and largest.
    """

    modality: Tuple[str, ...] = ()
    orientation: Tuple[str, ...] = ()
    thickness_mm: Optional[Tuple[float, float]] = None
    kernel: str = ""
    phase: str = ""
    description: str = ""
    contrast: Optional[bool] = None
    min_images: int = 0

    def fits(self, series: ArchivedSeries) -> bool:
        """Whether a series fulfills it."""
        low, high = self.thickness_mm or (0.0, float("inf"))
        return (
            (not self.modality or series.modality in self.modality)
            and (not self.orientation or series.orientation in self.orientation)
            and (self.thickness_mm is None or (series.thickness_mm is not None and low <= series.thickness_mm <= high))
            and _found(self.kernel, series.kernel)
            and _found(self.phase, f"{series.description} {series.protocol}")
            and _found(self.description, series.description)
            and self.contrast in (None, series.has_contrast)
            and series.n_images >= self.min_images
        )


@dataclass(frozen=True)
class Rules:
    """The rules for the newest study and for earlier ones. ``are_apart``: the file names both."""

    newest: Tuple[Rule, ...]
    prior: Tuple[Rule, ...]
    are_apart: bool = False


#: Reconstructions in other planes and very thin or thick ones are second choice.
DEFAULT = (Rule(orientation=("axial",), thickness_mm=(0.5, 5.0)), Rule(orientation=("axial",)), Rule())


def _found(pattern: str, text: str) -> bool:
    return not pattern or re.search(pattern, text, re.IGNORECASE) is not None


def choose(series: Iterable[ArchivedSeries], rules: Iterable[Rule]) -> Optional[ArchivedSeries]:
    """The series of a study to compare; None when no rule fits any."""
    all_of_them = sorted(series, key=lambda one: (-one.n_images, one.series_uid))
    return next((one for rule in rules for one in all_of_them if rule.fits(one)), None)


def read_rules(path: Optional[PathLike]) -> Rules:
    """The rules of a file; without one, :data:`DEFAULT`.

    :raises InputError: no JSON, an unknown name, a value without sense.
    """
    if path is None:
        return Rules(DEFAULT, DEFAULT)
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The rules {path} cannot be read: {error}.", "Give a JSON file.") from error
    if isinstance(content, dict) and set(content) == _SIDES:
        return Rules(_rules(content["newest"], path), _rules(content["prior"], path), are_apart=True)
    both = _rules(content, path)
    return Rules(both, both)


def _rules(content: Any, path: PathLike) -> Tuple[Rule, ...]:
    if not isinstance(content, list) or not content or not all(isinstance(rule, dict) for rule in content):
        raise InputError(
            f"{path} holds no list of rules.", 'Write [{"modality": "CT"}], or {"newest": [...], "prior": [...]}.'
        )
    return tuple(_rule(rule, f"{path}, rule {number}") for number, rule in enumerate(content, 1))


def _rule(content: Dict[str, Any], where: str) -> Rule:
    unknown = sorted(set(content) - set(Rule.__dataclass_fields__))
    if unknown:
        names = ", ".join(Rule.__dataclass_fields__)
        raise InputError(f"{where}: {unknown[0]!r} is unknown.", f"A rule may name {names}.")
    try:
        return Rule(**{name: _value(name, value) for name, value in content.items()})
    except (TypeError, ValueError, re.error) as error:
        raise InputError(f"{where} makes no sense: {error}.", "See `samv2 batch track --help`.") from error


def _value(name: str, value: Any) -> Any:
    if name in ("modality", "orientation"):
        known = MODALITIES if name == "modality" else _ORIENTATIONS
        words = (value,) if isinstance(value, str) else tuple(value)
        if not words or not set(words) <= set(known):
            raise ValueError(f"{name} is one of {', '.join(known)}")
        return words
    if name == "thickness_mm":
        low, high = (float(number) for number in value)
        if not 0 <= low <= high:
            raise ValueError("thickness_mm is [smallest, largest]")
        return low, high
    if name in _PATTERNS:
        re.compile(value)
    elif name == "contrast" and not isinstance(value, bool):
        raise ValueError("contrast is true or false")
    elif name == "min_images" and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError("min_images is a whole number")
    return value
