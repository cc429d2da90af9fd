"""Follow many lesions of a baseline through many follow-ups: the verb that command line, GUI and scripts share.

Every study is matched with all the context that helps (arXiv 2311.15111 tracks one point at a time; the rest is
ours): each lesion by several template points and the fixed points around it
(:mod:`SAMv2Core.tracking.proposals`), directly from the baseline and again from the study before; all lesions together
with the body's landmarks as one robust field (:mod:`SAMv2Core.tracking.field`), which proposes a place of its own
where a lesion contradicts it; and what a person has verified counts for its neighbors.

What an embedding can and cannot say: it finds the *place*. A lesion that has vanished leaves its place behind, and
that is reported as found; ``not_found`` means that the place is outside the scan, cut away, or not to be recognized.
Whether a lesion is still there is for the reader, or for a segmentation of the follow-up
(:mod:`SAMv2Core.tracking.assignment`).

Conventions: LPS mm, each place in the world of its own study; study 0 is the baseline.
"""

from __future__ import annotations

import math
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.errors import InputError
from SAMv2Core.io.lesion import Lesion, check_labels
from SAMv2Core.matching.confidence import MATCHED, NOT_FOUND
from SAMv2Core.matching.similarity import check_comparable
from SAMv2Core.progress import Progress, part, silent
from SAMv2Core.tracking.finding import Finding, Verified
from SAMv2Core.tracking.recist import PRESENT
from SAMv2Core.tracking.study import Placed, Places, place_lesions


def track(
    emb_baseline: Embedding,
    emb_follow_ups: Sequence[Embedding],
    lesions: Sequence[Lesion],
    *,
    verified: Iterable[Verified] = (),
    progress: Optional[Progress] = None,
    seed: int = 0,
) -> List[Finding]:
    """Find every lesion of the baseline in every follow-up.

    Parameters
    ----------
    emb_baseline : Embedding
    emb_follow_ups : sequence of Embedding
        In order of time; each is matched with the baseline and with the one before.
    lesions : sequence of Lesion
        Of the baseline, each with a label of its own (:func:`SAMv2Core.read_lesions`).
    verified : iterable of Verified, optional
        Decisions of a person on follow-ups: returned as they are, with confidence 1, and used to find the other
        lesions of that study and the same lesion in the next one.
    progress : callable, optional
        Called as ``progress(fraction, text)``; may raise ``Cancelled``.
    seed : int
        Of the body landmarks; equal inputs give equal findings.

    Returns
    -------
    list of Finding
        By lesion in the order given, then by study, the baseline (study 0, as given) included.

    Raises
    ------
    InputError
        No lesion, a label twice, no follow-up, all lesions outside the baseline, a verified finding of an unknown
        lesion or study.
    UsageError
        Something else than embeddings.
    ModelError
        Embeddings of different models.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> model = s.load_model("lite-ct", "cpu")
    >>> s.write_points(s.PointList((s.Point("L1", (0.0, 10.0, 0.0)),)), "lesions.csv")
    >>> findings = s.track(model.embed(volume), [model.embed(volume)], s.read_lesions("lesions.csv"))
    >>> [(finding.label, finding.study) for finding in findings]
    [('L1', 0), ('L1', 1)]
    """
    if hasattr(emb_follow_ups, "fine"):
        emb_follow_ups = [emb_follow_ups]  # type: ignore[list-item]  # one follow-up is as good as a list of one
    check_labels(lesions)
    if not len(emb_follow_ups):
        raise InputError("There is no follow-up to track the lesions in.", "Give at least one follow-up scan.")
    for emb in emb_follow_ups:
        check_comparable(emb_baseline, emb)
    _check_places(emb_baseline, lesions)
    decisions = _decisions(verified, lesions, len(emb_follow_ups))
    tell = progress or silent
    studies = []
    before: Optional[Tuple[Embedding, Places]] = None
    for number, emb in enumerate(emb_follow_ups, 1):
        n = len(emb_follow_ups)
        mine = part(tell, (number - 1) / n, number / n, f"follow-up {number}: ")
        findings = _in_study(emb_baseline, emb, number, lesions, decisions[number], before, seed, mine)
        before = (emb, {n: f.lps for n, f in enumerate(findings) if f.lps is not None})
        studies.append(findings)
    tell(1.0, "Tracked")
    baseline = [_as_marked(lesion) for lesion in lesions]
    return [finding for rows in zip(baseline, *studies) for finding in rows]


def _in_study(
    emb_baseline: Embedding,
    emb_study: Embedding,
    number: int,
    lesions: Sequence[Lesion],
    decided: Dict[int, Optional[np.ndarray]],
    before: Optional[Tuple[Embedding, Places]],
    seed: int,
    progress: Progress,
) -> List[Finding]:
    placed = place_lesions(emb_baseline, emb_study, lesions, decided, before, seed, progress)
    return [
        _as_decided(lesion, number, decided[n]) if found is None else _as_found(lesion, number, found)
        for n, (lesion, found) in enumerate(zip(lesions, placed))
    ]


def _as_marked(lesion: Lesion) -> Finding:
    """The row of the baseline."""
    center = lesion.center_lps
    return Finding(
        lesion.label, 0, center, 1.0, 0.0, 1.0, MATCHED, "", lesion.diameter_mm, center,
        state=PRESENT, short_mm=lesion.short_mm, ends_lps=lesion.ends_lps,
    )  # fmt: skip


def _as_decided(lesion: Lesion, number: int, lps: Optional[np.ndarray]) -> Finding:
    if lps is None:
        return Finding(lesion.label, number, None, math.nan, math.nan, 1.0, NOT_FOUND, "Confirmed absent.")
    return Finding(lesion.label, number, lps, math.nan, math.nan, 1.0, MATCHED, "", None, lps)


def _as_found(lesion: Lesion, number: int, found: Placed) -> Finding:
    return Finding(
        label=lesion.label,
        study=number,
        lps=None if found.status == NOT_FOUND else found.lps,
        similarity=math.nan if found.evidence is None else found.evidence.similarity,
        cycle_error_mm=math.nan if found.evidence is None else found.evidence.cycle_error_mm,
        confidence=found.confidence,
        status=found.status,
        reason=found.reason,
        candidate_lps=found.lps,
        evidence=found.evidence,
    )


def _check_places(emb_baseline: Embedding, lesions: Sequence[Lesion]) -> None:
    """All lesions outside the baseline: another scan's points, or RAS taken for LPS. A few: reported one by one."""
    centers = np.array([lesion.center_lps for lesion in lesions])
    if not np.any(emb_baseline.volume_grid.contains(centers)):
        raise InputError(
            f"None of the {len(lesions)} lesions lies inside the baseline scan.",
            "Check that they were marked in this scan and that their coordinates are LPS (x to the left).",
        )


def _decisions(
    verified: Iterable[Verified], lesions: Sequence[Lesion], n_follow_ups: int
) -> Dict[int, Dict[int, Optional[np.ndarray]]]:
    """What was decided: study -> number of the lesion -> place or None."""
    number_of = {lesion.label: n for n, lesion in enumerate(lesions)}
    decided: Dict[int, Dict[int, Optional[np.ndarray]]] = {study: {} for study in range(1, n_follow_ups + 1)}
    for item in verified:
        if item.label not in number_of:
            raise InputError(f"A finding was verified of {item.label!r}, which is no lesion here.", "Check its label.")
        if item.study not in decided:
            raise InputError(
                f"A finding of {item.label!r} was verified in study {item.study}, which is no follow-up here.",
                f"Follow-ups are numbered from 1 to {n_follow_ups}.",
            )
        place = None if item.lps is None else np.array(item.lps, dtype=np.float64).reshape(-1)
        if place is not None and (place.shape != (3,) or not np.all(np.isfinite(place))):
            raise InputError(f"The verified place of {item.label!r} is no position.", "Give (l, p, s) in mm.")
        decided[item.study][number_of[item.label]] = place
    return decided
