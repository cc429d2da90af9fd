"""The JSON report of a command: enough to tell later what was done to what, with what, and how long it took.

Valid JSON always (NaN and infinities become null), no patient names or DICOM identifiers. A report is
gathered while a command runs and written once, atomically, also when the command failed.
"""

from __future__ import annotations

import contextlib
import datetime
import enum
import importlib.metadata
import math
import os
import platform
import sys
import time
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Optional

import numpy as np

import SAMv2Core
from SAMv2Core.embedding.memory import peak_rss_bytes
from SAMv2Core.errors import SAMv2Error
from SAMv2Core.io.files import PathLike, write_json

if TYPE_CHECKING:
    from SAMv2Core.geometry.grid import Grid
    from SAMv2Core.io.volume import Volume

#: Version of the report's layout; raised when a key changes its meaning.
REPORT_VERSION = 1

_PACKAGES = ("numpy", "scipy", "SimpleITK", "torch")


def versions() -> Dict[str, Optional[str]]:
    """Versions of SAMv2, Python and the packages it computes with, None for an absent one; imports none."""
    found: Dict[str, Optional[str]] = {"samv2": SAMv2Core.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package.lower()] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # as SimpleITK inside Slicer
            found[package.lower()] = getattr(sys.modules.get(package), "__version__", None)
    return found


def as_json(value: Any) -> Any:
    """The value in types of JSON: arrays as lists, paths and enums as text, NaN and infinities as null."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, enum.Enum):
        return as_json(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot stand in a report")


def geometry_of(grid: Grid) -> Dict[str, Any]:
    """Size (x, y, z), spacing in mm, and the 4x4 matrix of a lattice, LPS."""
    return {
        "size_ijk": grid.size_ijk.tolist(),
        "spacing_mm": [round(float(s), 6) for s in grid.spacing_ijk_mm],
        "ijk_to_lps": [[round(float(value), 6) + 0.0 for value in row] for row in grid.ijk_to_lps],
    }


class Report:
    """What one run of one command did.

    :param command: its name, such as ``"match"``.
    :param options: all options, by name.
    """

    def __init__(self, command: str, options: Mapping[str, Any]) -> None:
        self.command = command
        self.options = dict(options)
        self.inputs: Dict[str, Dict[str, Any]] = {}
        self.model: Optional[Dict[str, Any]] = None
        self.device: Optional[str] = None
        self.warnings: List[str] = []
        self.results: Dict[str, Any] = {}
        self.addresses: Dict[str, str] = {}  # where inputs came from that were fetched for this run
        self.seconds: Dict[str, float] = {}
        self._started = datetime.datetime.now(datetime.timezone.utc)
        self._start = time.perf_counter()

    def add_volume(self, name: str, volume: Volume, **more: Any) -> None:
        """Record an input volume under its option's name: file, type, geometry, DICOM series, e.g. ``modality=``."""
        self.inputs[name] = {
            "file": volume.source,
            "voxel_type": str(volume.array.dtype),
            **geometry_of(volume.grid),
            "series": None if volume.dicom is None else volume.dicom.series_instance_uid or None,
            **more,
        }

    def add_file(self, name: str, path: PathLike, **more: Any) -> None:
        """Record another input file under its option's name."""
        self.inputs[name] = {"file": os.fspath(path), **more}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a part of the work; stages of one name add up, failed ones count too."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def content(self, exit_code: int = 0, error: Optional[SAMv2Error] = None) -> Dict[str, Any]:
        """The whole report as plain data. The results stand at the top level, beside what is common to all
        commands.

        :raises TypeError: something in it has no place in JSON.
        """
        peak = peak_rss_bytes()
        inputs = {
            name: {**facts, "file": self.addresses.get(facts["file"], facts["file"])}
            for name, facts in self.inputs.items()
        }
        common = {
            "report_version": REPORT_VERSION,
            "command": self.command,
            "started": self._started.isoformat(timespec="seconds"),
            "versions": versions(),
            "platform": platform.platform(),
            "options": self.options,
            "inputs": inputs,
            "model": self.model,
            "device": self.device,
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "seconds_total": round(time.perf_counter() - self._start, 3),
            "peak_memory_mib": None if peak is None else round(peak / 2**20, 1),
            "warnings": list(dict.fromkeys(self.warnings)),
            "exit_code": exit_code,
            "error": None if error is None else {"cause": error.cause, "remedy": error.remedy},
        }
        return as_json({**common, **self.results})

    def write(
        self,
        path: PathLike,
        inputs: Iterable[PathLike] = (),
        exit_code: int = 0,
        error: Optional[SAMv2Error] = None,
    ) -> None:
        """Write the report, atomically.

        :param inputs: files that were read; overwriting one is refused.
        :raises OutputError: see :func:`SAMv2Core.io.files.check_output`.
        """
        write_json(path, self.content(exit_code, error), inputs)
