"""What the engine knows of lesions: plain values in, SAMv2Core's values out. For the worker thread; no MRML, no Qt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np


@dataclass(frozen=True, eq=False)
class LesionInput:
    """A lesion of the baseline, in its volume's LPS mm.

    :param placesLPS: (n, 3) places that stand for the lesion (voxels of its segment), or None.
    :param endsLPS: (2, 3) ends of a diameter that a person drew, or None.
    """

    label: str
    centerLPS: np.ndarray
    diameterMm: float
    placesLPS: Optional[np.ndarray] = None
    endsLPS: Optional[np.ndarray] = None


@dataclass(frozen=True, eq=False)
class VerifiedInput:
    """What the user decided on a lesion: where it is in a follow-up (by index), volume LPS, or that it is not there."""

    label: str
    followUp: int
    lps: Optional[np.ndarray]


@dataclass(frozen=True, eq=False)
class TrackedStudy:
    """What was found in one follow-up.

    :param findings: label of each lesion -> Finding of SAMv2Core, position in the study's volume LPS.
    :param assignment: how the study's segmented lesions belong to them (SAMv2Core's), None without a segmentation.
    :param ends: label of each lesion with a diameter -> (2, 3) where its ends were found, study's volume LPS.
    """

    findings: Dict[str, Any]
    assignment: Any = None
    ends: Mapping[str, np.ndarray] = field(default_factory=dict)


def trackedStudy(
    findings: Sequence[Any],
    study: int,
    parts: Optional[Sequence[Any]],
    ends: Optional[Mapping[str, np.ndarray]] = None,
) -> TrackedStudy:
    """One study's findings, with what is segmented there assigned to them."""
    here = [finding for finding in findings if finding.study == study]
    assignment = None
    if parts is not None:
        from SAMv2Core.tracking.assignment import assign, with_parts

        assignment = assign(here, study, parts)
        here = with_parts(here, assignment)
    return TrackedStudy({finding.label: finding for finding in here}, assignment, ends or {})


def coreVerified(item: VerifiedInput) -> Any:
    from SAMv2Core.tracking.finding import Verified

    return Verified(item.label, item.followUp + 1, item.lps)  # SAMv2Core counts the baseline as study 0


def coreLesion(item: LesionInput) -> Any:
    """The lesion as SAMv2Core wants it; a diameter of nothing is one that is not known."""
    from SAMv2Core.io.lesion import lesion_at, lesion_of_samples

    diameter = item.diameterMm if math.isfinite(item.diameterMm) and item.diameterMm > 0 else None
    if item.placesLPS is None:
        return lesion_at(item.label, item.centerLPS, diameter)
    return lesion_of_samples(item.label, item.placesLPS, diameter, item.centerLPS)
