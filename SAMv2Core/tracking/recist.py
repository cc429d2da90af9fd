"""Sums of diameters and the response category they suggest, by RECIST 1.1, each with the rule that gave it.

Source: Eisenhauer et al., New response evaluation criteria in solid tumours: revised RECIST guideline (version 1.1),
Eur J Cancer 2009, 45:228-247; for lesions that could not be evaluated, Schwartz et al., RECIST 1.1 - Update and
clarification, Eur J Cancer 2016, 62:132-137. What is *not* decided here: whether a lesion is malignant, whether a
non-target lesion has progressed unequivocally, whether a new one is certain. A person says so; this module counts.

A lesion counts by its longest diameter, a lymph node by its short axis; one that has vanished counts 0 mm, one that is
too small to be measured 5 mm, one that has merged with another counts there. The sum of a study is that of all targets
of the baseline or it does not exist; the change is told against the baseline and against the nadir, the smallest sum
*before* that study, the baseline included.

Conventions: mm; study 0 is the baseline; shares are fractions (-0.3 is 30 % less).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from SAMv2Core.errors import InputError

STANDARD = "RECIST 1.1"

TARGET, NON_TARGET, NEW = "target", "non_target", "new"
ROLES = (TARGET, NON_TARGET, NEW)

PRESENT, VANISHED, TOO_SMALL, MERGED = "present", "vanished", "too_small", "merged"
PROGRESSED, NOT_EVALUABLE, ABSENT = "progressed", "not_evaluable", "absent"
STATES = (PRESENT, VANISHED, TOO_SMALL, MERGED, PROGRESSED, NOT_EVALUABLE, ABSENT)

CR, PR, SD, PD, NE = "CR", "PR", "SD", "PD", "NE"
NON_CR_NON_PD = "non-CR/non-PD"

TOO_SMALL_MM = 5.0
"""What a lesion counts that is there and too small to be measured (page 232)."""

NORMAL_NODE_MM, TARGET_NODE_MM, TARGET_MM = 10.0, 15.0, 10.0
"""Short axis below which a node is normal; from which it may be a target; longest diameter from which others may."""

MOST_TARGETS, MOST_PER_ORGAN = 5, 2

DECREASE, INCREASE, INCREASE_MM = 0.30, 0.20, 5.0
"""Partial response against the baseline; progression against the nadir: this share and so many millimeters."""

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Reading:
    """What is known of a lesion in one study.

    :param state: one of :data:`STATES`; ``absent`` before a new lesion has appeared, ``progressed`` when a reader calls
        a non-target lesion's growth unequivocal.
    :param long_mm: longest diameter in a slice, None when nobody measured it.
    :param short_mm: short axis in the same slice.
    """

    state: str = PRESENT
    long_mm: Optional[float] = None
    short_mm: Optional[float] = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise InputError(f"There is no state {self.state!r} of a lesion.", f"Use one of {', '.join(STATES)}.")
        for value in (self.long_mm, self.short_mm):
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"A diameter of {value:g} mm makes no sense.", "Correct it.")


@dataclass(frozen=True)
class Course:
    """One lesion through all studies.

    :param role: ``target``, ``non_target`` or ``new``.
    :param organ: name of the organ, "" when not known.
    :param is_node: a lymph node: its short axis counts.
    :param readings: one per study, baseline first.
    """

    label: str
    role: str
    readings: Tuple[Reading, ...]
    organ: str = ""
    is_node: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InputError(f"{self.label!r}: there is no role {self.role!r}.", f"Use one of {', '.join(ROLES)}.")
        if not self.readings:
            raise InputError(f"{self.label!r} has no readings.", "Give one per study.")

    def size_mm(self, study: int) -> Optional[float]:
        """What the lesion counts in a study; None when that is not known."""
        reading = self.readings[study]
        if reading.state in (VANISHED, MERGED, ABSENT):
            return 0.0
        if reading.state == NOT_EVALUABLE:
            return None
        measured = reading.short_mm if self.is_node else reading.long_mm
        return TOO_SMALL_MM if measured is None and reading.state == TOO_SMALL else measured

    def is_gone(self, study: int) -> bool:
        """Vanished, or a lymph node of normal size."""
        size = self.size_mm(study)
        if self.readings[study].state in (VANISHED, MERGED):
            return True
        return self.is_node and size is not None and size < NORMAL_NODE_MM

    def is_there(self, study: int) -> bool:
        """Known to be there, measured or not."""
        return self.readings[study].state in (PRESENT, TOO_SMALL, PROGRESSED)


@dataclass(frozen=True)
class TimePoint:
    """One study in sums and in words.

    :param sum_mm: of all targets; None when the size of one of them is not known.
    :param missing: labels of the targets without a size.
    :param nadir_mm: smallest sum before this study, :param nadir_study: where; None in the baseline.
    :param target: category by the targets; "" in the baseline and without targets.
    :param non_target: ``CR``, ``non-CR/non-PD``, ``PD``, ``NE``, or "" without non-targets.
    :param new: labels of new lesions seen in this study or before.
    :param overall: the suggested category; "" in the baseline.
    :param rule: which rule gave it, a sentence for people.
    """

    study: int
    n_targets: int
    sum_mm: Optional[float]
    missing: Tuple[str, ...] = ()
    change_from_baseline: Optional[float] = None
    nadir_mm: Optional[float] = None
    nadir_study: Optional[int] = None
    change_from_nadir: Optional[float] = None
    target: str = ""
    non_target: str = ""
    new: Tuple[str, ...] = ()
    overall: str = ""
    rule: str = ""


def time_points(courses: Sequence[Course]) -> List[TimePoint]:
    """Sums, changes and suggested categories of all studies, baseline first.

    A target without a size in the baseline counts as a non-target (see :func:`hints`).

    :raises InputError: lesions with different numbers of studies.
    """
    if len({len(course.readings) for course in courses}) > 1:
        raise InputError("The lesions have different numbers of readings.", "Give one per lesion and study.")
    n_studies = len(courses[0].readings) if courses else 0
    found: List[TimePoint] = []
    for study in range(n_studies):
        found.append(_time_point(courses, study, found))
    return found


def targets_of(courses: Sequence[Course]) -> List[Course]:
    """The lesions that make the sum: targets with a size in the baseline."""
    return [c for c in courses if c.role == TARGET and c.size_mm(0)]


def hints(courses: Sequence[Course]) -> List[str]:
    """What RECIST 1.1 would have otherwise about the choice of targets; sentences for people."""
    targets, found = targets_of(courses), []
    if len(targets) > MOST_TARGETS:
        found.append(f"{len(targets)} targets; RECIST 1.1 takes at most {MOST_TARGETS}.")
    for organ, count in Counter(c.organ.strip().lower() for c in targets if c.organ.strip()).items():
        if count > MOST_PER_ORGAN:
            found.append(f"{count} targets in {organ}; RECIST 1.1 takes at most {MOST_PER_ORGAN} of an organ.")
    for course in courses:
        if course.role == TARGET and course not in targets:
            found.append(f"{course.label} has no size in the baseline: it counts as non-target.")
    for course in targets:
        size, least = course.size_mm(0) or 0.0, TARGET_NODE_MM if course.is_node else TARGET_MM
        if size < least:
            what = "short axis of a lymph node" if course.is_node else "lesion"
            found.append(f"{course.label}: a {what} of {size:.1f} mm is below the {least:.0f} mm of a target.")
    return found


def _time_point(courses: Sequence[Course], study: int, before: Sequence[TimePoint]) -> TimePoint:
    targets = targets_of(courses)
    others = [c for c in courses if c.role == NON_TARGET or (c.role == TARGET and c not in targets)]
    sizes = [(c.label, c.size_mm(study)) for c in targets]
    missing = tuple(label for label, size in sizes if size is None)
    known = sum(size for _, size in sizes if size is not None)
    total = None if missing or not targets else known
    if study == 0:
        rule = "Baseline." if targets else "Baseline without targets."
        return TimePoint(0, len(targets), total, missing, rule=rule)
    nadir_study, nadir = _nadir(before)
    target, rule = _of_targets(targets, study, known, missing, before) if targets else ("", "")
    non_target = _of_non_targets(others, study)
    new = tuple(c.label for c in courses if c.role == NEW and any(c.is_there(n) for n in range(1, study + 1)))
    overall, rule = _overall(target, non_target, new, rule, len(others))
    first = before[0].sum_mm
    return TimePoint(
        study, len(targets), total, missing,
        change_from_baseline=_change(total, first), nadir_mm=nadir, nadir_study=nadir_study,
        change_from_nadir=_change(total, nadir), target=target, non_target=non_target, new=new, overall=overall,
        rule=rule,
    )  # fmt: skip


def _nadir(before: Sequence[TimePoint]) -> Tuple[Optional[int], Optional[float]]:
    """(study, smallest sum) so far; the earliest of equal ones."""
    sums = [(point.sum_mm, point.study) for point in before if point.sum_mm is not None]
    if not sums:
        return None, None
    smallest, study = min(sums)
    return study, smallest


def _change(total: Optional[float], reference: Optional[float]) -> Optional[float]:
    return None if total is None or not reference else total / reference - 1


def _of_targets(
    targets: Sequence[Course], study: int, known: float, missing: Tuple[str, ...], before: Sequence[TimePoint]
) -> Tuple[str, str]:
    """(category, rule) by the targets alone.

    :param known: sum of the sizes that are known: what the sum is at least.
    """
    nadir_study, nadir = _nadir(before)
    first = before[0].sum_mm
    assert nadir is not None and first is not None  # targets have a size in the baseline
    if not missing and all(c.is_gone(study) for c in targets):
        nodes = f"; lymph nodes are below {NORMAL_NODE_MM:.0f} mm" if any(c.is_node for c in targets) else ""
        return CR, f"All targets have vanished{nodes}."
    back = [c.label for c in targets if not c.is_node and c.is_there(study)]
    if back and any(point.target == CR for point in before):
        return PD, f"After complete response {', '.join(back)} is there again."
    growth = known - nadir
    share = math.inf if nadir == 0 else growth / nadir
    at = f"the nadir of {nadir:.1f} mm ({'baseline' if nadir_study == 0 else f'follow-up {nadir_study}'})"
    if share >= INCREASE - _ROUNDING and growth >= INCREASE_MM - _ROUNDING:
        least = " at least" if missing else ""
        return PD, f"The sum is{least} {_percent(share)} and {growth:.1f} mm above {at}."
    if missing:
        return NE, f"No size of {', '.join(missing)}."
    decrease = 1 - known / first
    if decrease >= DECREASE - _ROUNDING:
        return PR, f"The sum is {_percent(decrease)} below the baseline's {first:.1f} mm."
    almost = ""
    if share >= INCREASE - _ROUNDING:
        almost = f" ({_percent(share)}, but only {growth:.1f} mm: progression takes {INCREASE_MM:.0f} mm)"
    return SD, f"Neither 30 % below the baseline nor 20 % and 5 mm above {at}{almost}."


def _percent(share: float) -> str:
    return "without bounds" if math.isinf(share) else f"{100 * share:.0f} %"


def _of_non_targets(others: Sequence[Course], study: int) -> str:
    if not others:
        return ""
    if any(c.readings[study].state == PROGRESSED for c in others):
        return PD
    open_ones = [c for c in others if not c.is_gone(study)]
    if any(c.is_there(study) for c in open_ones):
        return NON_CR_NON_PD
    return NE if open_ones else CR


def _overall(target: str, non_target: str, new: Tuple[str, ...], rule: str, n_others: int) -> Tuple[str, str]:
    """Tables 1 to 3 of RECIST 1.1: (category, rule)."""
    if new:
        return PD, f"New: {', '.join(new)}."
    if target == PD:
        return PD, rule
    if non_target == PD:
        return PD, "A non-target lesion has progressed unequivocally."
    if not target:
        words = {CR: "All non-targets have vanished.", NON_CR_NON_PD: "Non-targets are there.",
                 NE: "Not all non-targets could be evaluated."}  # fmt: skip
        return (non_target, words[non_target]) if non_target else (NE, "There is nothing to evaluate.")
    if target == CR and non_target in (NON_CR_NON_PD, NE):
        why = "are still there" if non_target == NON_CR_NON_PD else "could not all be evaluated"
        return PR, f"{rule.rstrip('.')}, but non-targets {why}."
    return target, rule


def as_table(courses: Sequence[Course], names: Sequence[str]) -> Tuple[List[str], List[List[str]]]:
    """The reading as radiologists lay it out: (header, rows), a row per lesion, a column per study, then the sums.

    :param names: of the studies, baseline first.
    """
    points = time_points(courses)
    header = ["lesion", "role", "organ", "axis", *names]
    rows = [
        [c.label, c.role, c.organ, "short" if c.is_node else "long", *(_cell(c, n) for n in range(len(names)))]
        for c in sorted(courses, key=lambda c: ROLES.index(c.role))
    ]
    lines: Dict[str, List[str]] = {
        "sum of targets (mm)": [_number(p.sum_mm) for p in points],
        "change from baseline (%)": [_number(p.change_from_baseline, 100) for p in points],
        "nadir (mm)": [_number(p.nadir_mm) for p in points],
        "change from nadir (%)": [_number(p.change_from_nadir, 100) for p in points],
        "targets": [p.target for p in points],
        "non-targets": [p.non_target for p in points],
        "new lesions": [", ".join(p.new) for p in points],
        f"suggested category ({STANDARD})": [p.overall for p in points],
        "rule": [p.rule for p in points],
    }
    return header, rows + [[name, "", "", "", *cells] for name, cells in lines.items()]


def _number(value: Optional[float], factor: float = 1.0) -> str:
    return "" if value is None else f"{factor * value:.1f}"


def _cell(course: Course, study: int) -> str:
    """Size in mm, or the state where it says more."""
    state, size = course.readings[study].state, course.size_mm(study)
    if state in (ABSENT, MERGED, NOT_EVALUABLE, PROGRESSED):
        return {ABSENT: "", MERGED: "merged", NOT_EVALUABLE: NE, PROGRESSED: "progressed"}[state]
    return state if size is None else f"{size:.1f}"
