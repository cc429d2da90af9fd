"""Which lesion segmented in a follow-up is which tracked one; which are new, which are gone.

Tracking finds places; a segmentation of the follow-up (by a person or a network) says what is there. Both meet here:
each segmented part goes to at most one track, the sum of the distances being the smallest possible. A part that
no track claims is new; a track whose place holds no part has vanished (or was missed by whoever segmented); two
tracks on one part have merged.

Conventions: LPS mm in the follow-up's world.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.lesions import lesions_from_segmentation
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.recist import MERGED, PRESENT, VANISHED

GATE_MM = 10.0
"""A part belongs to a track when its surface is this close to the track's place: what tracking may be off."""

TOUCHING_MM = 3.0
"""A second track this close to a part that is taken has merged with the first."""

_NEVER = 1e6


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a segmentation says about the tracks of one study.

    :param study: 1 for the first follow-up.
    :param parts: label of each track that has a segmented lesion -> that lesion.
    :param new: segmented lesions that belong to no track.
    :param vanished: labels of tracks whose place is in the scan and holds no segmented lesion.
    :param merged: label of a track -> label of the track whose segmented lesion it shares.
    :param split: label of a track -> further segmented lesions within what it was; they are not new.
    """

    study: int
    parts: Dict[str, Lesion]
    new: Tuple[Lesion, ...] = ()
    vanished: Tuple[str, ...] = ()
    merged: Dict[str, str] = field(default_factory=dict)
    split: Dict[str, Tuple[Lesion, ...]] = field(default_factory=dict)


def parts_of(segmentation: Volume, scan: Grid) -> List[Lesion]:
    """The lesions of a follow-up's segmentation.

    :raises InputError: a lesion lies outside the follow-up's scan: it belongs to another one.
    """
    parts = lesions_from_segmentation(segmentation)
    outside = [part.label for part in parts if not scan.contains(part.center_lps)[0]]
    if outside:
        raise InputError(
            f"{segmentation.source} does not fit the scan: {len(outside)} of {len(parts)} lesions lie outside of it.",
            "Give each follow-up the segmentation that was drawn on it, in the order of the follow-ups.",
        )
    return parts


def assign(
    findings: Sequence[Finding],
    study: int,
    parts: Sequence[Lesion],
    lesions: Optional[Mapping[str, Lesion]] = None,
) -> Assignment:
    """Assign the segmented lesions of one study to the tracks found in it.

    :param findings: of any studies; those of ``study`` with a place take part.
    :param parts: from :func:`parts_of`.
    :param lesions: of the baseline, by label: their sizes tell a lesion that has come apart from a new one beside it.
    """
    placed = [finding for finding in findings if finding.study == study and finding.lps is not None]
    gaps = np.array([[gap_mm(finding, part) for part in parts] for finding in placed]).reshape(len(placed), len(parts))
    costs = np.array([[_distance_mm(f, part) for part in parts] for f in placed]).reshape(gaps.shape)
    rows, columns = linear_sum_assignment(np.where(gaps <= GATE_MM, costs, _NEVER))
    pairs = [(r, c) for r, c in zip(rows, columns) if gaps[r, c] <= GATE_MM]
    owner = {c: placed[r].label for r, c in pairs}
    merged = {}
    for r in sorted(set(range(len(placed))) - {r for r, _ in pairs}):
        touching = [c for c in owner if gaps[r, c] <= TOUCHING_MM]
        if touching:
            merged[placed[r].label] = owner[touching[int(np.argmin(costs[r, touching]))]]
    taken = {placed[r].label for r, _ in pairs}
    split: Dict[str, List[Lesion]] = {}
    for c in sorted(set(range(len(parts))) - set(owner)):
        # Its center within what the lesion of a track was: a piece of it.
        inside = [r for r, _ in pairs if costs[r, c] <= _radius_of(placed[r], lesions) + TOUCHING_MM]
        if inside:
            nearest = min(inside, key=lambda r: float(costs[r, c]))
            split.setdefault(placed[nearest].label, []).append(parts[c])
            owner[c] = placed[nearest].label
    return Assignment(
        study=study,
        parts={placed[r].label: parts[c] for r, c in pairs},
        new=tuple(part for c, part in enumerate(parts) if c not in owner),
        vanished=tuple(f.label for f in placed if f.label not in taken and f.label not in merged),
        merged=merged,
        split={label: tuple(pieces) for label, pieces in split.items()},
    )


def _radius_of(finding: Finding, lesions: Optional[Mapping[str, Lesion]]) -> float:
    """Of the finding's lesion in the baseline; 0 when nobody says."""
    lesion = None if lesions is None else lesions.get(finding.label)
    return 0.0 if lesion is None or lesion.diameter_mm is None else lesion.radius_mm


def with_parts(findings: Sequence[Finding], assignment: Assignment) -> List[Finding]:
    """The findings with what the segmentation adds to its study: center and diameter of the lesion that is there.

    Where none is, the place stays as it was tracked and the reason says so. A place that was found and holds a
    segmented lesion keeps its status; confidence is not changed, for it is the tracking's.
    """
    updated = []
    for finding in findings:
        if finding.study != assignment.study or finding.status == NOT_FOUND:
            updated.append(finding)
            continue
        part, note = assignment.parts.get(finding.label), ""
        pieces = assignment.split.get(finding.label, ())
        if part is not None:
            whole = [part, *pieces]
            finding = replace(
                finding, lps=part.center_lps, diameter_mm=_sum(whole, "diameter_mm"), short_mm=_sum(whole, "short_mm"),
                volume_ml=_sum(whole, "volume_ml"), ends_lps=None if pieces else part.ends_lps, state=PRESENT,
            )  # fmt: skip
            note = f"It has come apart: {1 + len(pieces)} parts are segmented." if pieces else ""
        elif finding.label in assignment.merged:
            finding = replace(finding, state=MERGED)
            note = f"Shares one segmented lesion with {assignment.merged[finding.label]!r}: they may have merged."
        else:
            finding = replace(finding, state=VANISHED)
            note = "No lesion is segmented at its place: it may have vanished."
        if note:
            said = "" if finding.status == MATCHED else f"{finding.reason} "
            finding = replace(finding, reason=said + note)
        updated.append(finding)
    return updated


def _sum(parts: Sequence[Lesion], name: str) -> Optional[float]:
    """Of a lesion that has come apart, the diameters of its parts are added (RECIST 1.1, page 233)."""
    values = [getattr(part, name) for part in parts]
    return None if None in values else float(sum(values))


def gap_mm(finding: Finding, part: Lesion) -> float:
    """How far a finding's place lies outside a segmented lesion, mm; 0 inside."""
    assert finding.lps is not None
    to_samples = np.linalg.norm(part.points_lps - finding.lps, axis=1).min()
    return float(max(min(_distance_mm(finding, part) - part.radius_mm, to_samples), 0.0))


def _distance_mm(finding: Finding, part: Lesion) -> float:
    assert finding.lps is not None
    return float(np.linalg.norm(part.center_lps - finding.lps))
