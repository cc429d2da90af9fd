"""Diameters in follow-ups: where the ends of a lesion's drawn diameter are found, and whether that is worth proposing.

The line between the matched ends is a *proposal*: it follows a lesion's place more than its size, so it is no
measurement. The ends' matches come from fixed points (arXiv 2311.15111, section 3.2), whose neighbors steady each end.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import numpy as np

from SAMv2Core.geometry.diameters import in_slice
from SAMv2Core.geometry.grid import Grid

FIT_MM, FIT_SHARE = 5.0, 0.25
"""The middle of a proposal may lie this far from its finding: so many mm, and this share of its length."""

FLAT_SHARE = 0.95
"""A line was drawn in a slice when so much of its length is left within it: less than 18 degrees out of it."""

MOST_CHANGE = 3.0
"""Ends that are so many times farther apart, or closer, than in the baseline were matched badly."""


def match_ends(
    baseline: Any,
    follow_up: Any,
    ends: Mapping[str, np.ndarray],
    findings: Sequence[Any],
    progress: Optional[Callable[[float, str], None]] = None,
) -> Dict[str, np.ndarray]:
    """Where both ends of diameters are in a follow-up.

    :param baseline: embedding; :param follow_up: embedding.
    :param ends: label of each lesion with a diameter -> (2, 3) LPS mm in the baseline.
    :param findings: the tracker's, of this follow-up; lesions that were not found are left out.
    :returns: label -> (2, 3) LPS mm in the follow-up, without those of which an end was not found.
    """
    from SAMv2Core.matching.match import match

    placed = {finding.label for finding in findings if finding.lps is not None}
    asked = {label: places for label, places in ends.items() if label in placed}
    if not asked:
        return {}
    places: Any = np.concatenate(list(asked.values()))
    matches = match(baseline, follow_up, places, progress=progress)
    found = {}
    for n, label in enumerate(asked):
        pair = [item.query_lps for item in matches[2 * n : 2 * n + 2]]
        if all(end is not None for end in pair):
            found[label] = np.array(pair)
    return found


def laid_like(ends: np.ndarray, grid: Grid, drawn: np.ndarray, drawn_grid: Grid) -> np.ndarray:
    """Matched ends laid into one axial slice, when the line that they come from was drawn in one.

    Ends are matched in space, each on its own; a line between two slices is seen in no view that radiologists read. One
    that was drawn across the slices on purpose stays as it was matched.

    :param ends: (2, 3) LPS mm in the follow-up of this ``grid``; ``drawn`` in the baseline of ``drawn_grid``.
    """
    length = float(np.linalg.norm(drawn[1] - drawn[0]))
    flat = in_slice(drawn, drawn_grid)
    is_in_slice = float(np.linalg.norm(flat[1] - flat[0])) >= FLAT_SHARE * length
    return in_slice(ends, grid) if is_in_slice else ends


def fits(ends: Optional[np.ndarray], place: Optional[np.ndarray]) -> bool:
    """Whether a line (2, 3) belongs to a finding at a place (3,), both mm in one frame; None is no line or no place."""
    if ends is None or place is None:
        return False
    apart = float(np.linalg.norm(ends.mean(axis=0) - place))
    return apart <= FIT_MM + FIT_SHARE * float(np.linalg.norm(ends[1] - ends[0]))


def is_credible(ends: Optional[np.ndarray], place: Optional[np.ndarray], length_before: float) -> bool:
    """Whether matched ends are worth proposing for a finding of a lesion that was so long (mm) in the baseline."""
    if ends is None or not fits(ends, place):
        return False
    change = max(float(np.linalg.norm(ends[1] - ends[0])), 1e-6) / max(length_before, 1e-6)
    return 1 / MOST_CHANGE <= change <= MOST_CHANGE
