"""Looking for matches only inside a segment of the query: plain values, for the worker thread; no MRML, no Qt.

Whoever chooses a segment knows that the place is in it, so everything else is left out of the search as the air around
the patient is. The confidence must not rise by that: a nearest neighbor exists in every segment, also in a wrong one.
So the way back searches the whole template, and the rival of a match is the best place of the whole query; when that
one is clearly better, the match is uncertain whatever the rest of the evidence says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.progress import Progress


@dataclass(frozen=True, eq=False)
class SearchMask:
    """A segment in the frame of a volume.

    :param key: equal for equal masks.
    :param name: for people and for the results.
    :param array: (z, y, x) bool.
    :param lps_to_ijk: (4, 4), volume LPS mm to the array's index (x, y, z).
    :param refusal: (cause, remedy), translated, for a segment that has nothing to do with the volume.
    """

    key: Tuple[Any, ...]
    name: str
    array: np.ndarray
    lps_to_ijk: np.ndarray
    refusal: Tuple[str, str]

    def contains(self, points_lps: np.ndarray) -> np.ndarray:
        """Which of some points (n, 3) lie in a voxel of the segment: (n,) bool."""
        ijk = np.rint(np.asarray(points_lps) @ self.lps_to_ijk[:3, :3].T + self.lps_to_ijk[:3, 3]).astype(np.int64)
        is_inside = np.all((ijk >= 0) & (ijk < self.array.shape[::-1]), axis=1)
        x, y, z = np.where(is_inside[:, None], ijk, 0).T
        return is_inside & self.array[z, y, x]


def restricted(embedding: Any, mask: SearchMask) -> Any:
    """An embedding whose body is only what lies inside the mask; its vectors are shared, not copied.

    :raises InputError: no voxel of the body lies inside.
    """
    body = np.array(embedding.body, dtype=bool)
    zyx = np.argwhere(body)
    is_inside = mask.contains(embedding.fine.grid.to_lps(zyx[:, ::-1]))
    body[tuple(zyx[~is_inside].T)] = False
    if not body.any():
        raise InputError(*mask.refusal)
    return replace(embedding, body=body)


class LastRestricted:
    """:func:`restricted`, with the last result kept: the search index that comes with it takes up to a second."""

    def __init__(self) -> None:
        self._last: Tuple[Any, Any, Any] = (None, None, None)

    def __call__(self, embedding: Any, mask: Optional[SearchMask]) -> Any:
        """The embedding itself without a mask."""
        if mask is None:
            return embedding
        last = self._last
        if last[0] is not embedding or last[1] != mask.key:
            last = self._last = (embedding, mask.key, restricted(embedding, mask))
        return last[2]  # not read again: another thread may have asked for another mask

    def forget(self) -> None:
        """Release what was kept."""
        self._last = (None, None, None)


def match_inside(
    template: Any,
    query: Any,
    points_lps: Any,
    method: str,
    mask: Optional[SearchMask],
    narrow: LastRestricted,
    starts_per_axis: Optional[int] = None,
    matched_above: Optional[float] = None,
    expect: Optional[bool] = None,
    progress: Optional[Progress] = None,
) -> List[Any]:
    """:func:`SAMv2Core.matching.match.match`, inside a mask where there is one, with the knobs that people turn.

    :param template: an embedding; or a list of them with the points of each, NaN where one is not marked, and no mask.
    :param starts_per_axis: of the fixed-point method; made odd, so that there is a middle; None for its default.
    :param matched_above: matches with less confidence are uncertain; None for what came with the model.
    :raises UsageError: a mask with several templates.
    """
    from SAMv2Core.matching.confidence import UncertaintyModel
    from SAMv2Core.matching.fixed_point import FixedPointOptions
    from SAMv2Core.matching.match import match

    options = None if starts_per_axis is None else FixedPointOptions(starts_per_axis=starts_per_axis | 1)
    model = UncertaintyModel.from_metadata(query.calibration)
    if matched_above is not None:
        several = _cut(model.several, matched_above)
        model = replace(_cut(model, matched_above), several=several)
    if isinstance(template, (list, tuple)) and mask is not None:
        raise UsageError("A segment is searched with one template only.", "Leave out the segment or the others.")
    searched = narrow(query, mask)

    def matched(points: Any, by: str) -> List[Any]:
        knobs = {"options": options, "uncertainty": model if matched_above is not None else None, "expect": expect}
        return match(template, searched, points, by, progress, **knobs)  # type: ignore[arg-type]

    matches = matched(points_lps, method)
    if mask is not None:
        matches = kept_inside(matches, mask, lambda n: matched(points_lps[n], "nearest"))
        matches = judged_in_all(matches, template, query, model)
    return matches


def _cut(judge: Any, matched_above: float) -> Any:
    """A judge with another cut between matched and uncertain."""
    return replace(judge, matched_above=matched_above, not_found_below=min(judge.not_found_below, matched_above))


def kept_inside(matches: Sequence[Any], mask: SearchMask, nearest: Callable[[List[int]], Sequence[Any]]) -> List[Any]:
    """Matches with those that left the mask replaced: the voters' map may lead out of it, the nearest neighbor cannot.

    :param matches: SAMv2Core's; :param nearest: the numbers of some matches -> their nearest neighbors in the mask.
    """
    kept = list(matches)
    led = [n for n, item in enumerate(kept) if item.query_lps is not None]
    places = np.array([kept[n].query_lps for n in led]).reshape(-1, 3)
    out = [n for n, is_inside in zip(led, mask.contains(places)) if not is_inside]
    for n, item in zip(out, nearest(out) if out else ()):
        kept[n] = item
    return kept


def judged_in_all(matches: Sequence[Any], template: Any, query: Any, model: Any) -> List[Any]:
    """Matches that were found inside a mask, judged with all of the query in view.

    :param matches: SAMv2Core's; :param template: embedding; :param query: embedding, not restricted.
    :param model: UncertaintyModel.
    """
    from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND, RIVAL_RADIUS_MM, SMALL_MARGIN, UNCERTAIN, judge
    from SAMv2Core.matching.search import search, search_index
    from SAMv2Core.matching.similarity import joint_vectors

    judged = list(matches)
    found = [n for n, item in enumerate(matches) if item.query_lps is not None]
    if not found:
        return judged
    points, places = (np.array([getattr(matches[n], name) for n in found]) for name in ("template_lps", "query_lps"))
    _, rivals = search(search_index(query), joint_vectors(template, points), places, RIVAL_RADIUS_MM)
    for n, rival in zip(found, rivals):
        item = matches[n]
        verdict = judge(replace(item.evidence, margin=item.similarity - float(rival)), model)
        confidence, status, reason = verdict.confidence, verdict.status, verdict.reason
        if rival > item.similarity + SMALL_MARGIN and status == MATCHED:
            confidence, status = min(confidence, 0.99 * model.matched_above), UNCERTAIN
            reason = "Needs a look: a place outside the segment looks more similar."
        place = None if status == NOT_FOUND else item.query_lps
        judged[n] = replace(item, query_lps=place, confidence=confidence, status=status, reason=reason)
    return judged
