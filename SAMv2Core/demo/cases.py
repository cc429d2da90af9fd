"""What the demo hands from one of its parts to the next: a scan, a point's outcome, a pair of scans."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Tuple

import numpy as np

from SAMv2Core.geometry.grid import Grid

if TYPE_CHECKING:
    from SAMv2Core.embedding.embedding import Embedding
    from SAMv2Core.io.volume import Volume
    from SAMv2Core.matching.match import Match
    from SAMv2Core.registration.register import Registration


@dataclass(frozen=True)
class Scan:
    """A volume with the name that tables and pictures give it.

    :param seen: what the model knows of it: ``"was among the training volumes"``, ``"never seen in
        training"``, ...
    """

    name: str
    volume: Volume
    embedding: Embedding
    modality: str = "ct"
    seen: str = ""

    @property
    def array(self) -> np.ndarray:
        """(z, y, x)."""
        return self.volume.array

    @property
    def grid(self) -> Grid:
        return self.volume.grid


@dataclass(frozen=True)
class Finding:
    """One point: what was asked, what the matching answered, and the truth where it is known.

    :param template_lps: (3,) mm, the point asked for.
    :param window: the CT window to show it in.
    :param match: the answer; ``match.query_lps`` is None when nothing was found.
    :param truth_lps: (3,) mm in the query, or None.
    :param truth_kind: ``"exact"`` (simulated), ``"by eye"`` (with its own error of some mm), or ``""``.
    :param in_view: whether the anatomy is in the query at all; None when nobody has said.
    """

    label: str
    template_lps: np.ndarray
    window: str = "soft tissue"
    match: Match = None  # type: ignore[assignment]  # filled in by the matching
    truth_lps: Optional[np.ndarray] = None
    truth_kind: str = ""
    in_view: Optional[bool] = None

    @property
    def error_mm(self) -> Optional[float]:
        """Distance of the answer from the truth; None without either."""
        if self.truth_lps is None or self.match.query_lps is None:
            return None
        return float(np.linalg.norm(np.asarray(self.match.query_lps) - self.truth_lps))


@dataclass(frozen=True)
class Case:
    """A template and a query with their points.

    :param folder: name of the folder of its files.
    :param title: one line for headings.
    :param files: written for it, relative to the demo's folder.
    """

    folder: str
    title: str
    template: Scan
    query: Scan
    findings: Tuple[Finding, ...]
    seconds: float = 0.0
    files: Tuple[str, ...] = ()


@dataclass(frozen=True)
class RegistrationCase:
    """Two registered scans; ``folder``, ``title`` and ``files`` as in :class:`Case`.

    :param before_mm, after_mm: (N,) distances of the landmarks from their true places without and with the
        registration; None when the truth is not known.
    """

    folder: str
    title: str
    fixed: Scan
    moving: Scan
    result: Registration
    before_mm: Optional[np.ndarray] = None
    after_mm: Optional[np.ndarray] = None
    seconds: float = 0.0
    files: Tuple[str, ...] = ()


def slug(text: str) -> str:
    """A file name for a title: lower case, words joined by hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
