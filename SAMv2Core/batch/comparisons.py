"""The newest study of every patient against earlier ones: an archive becomes the table of a batch.

To *register*, the newest study is the fixed one and each of the last few before it a moving one. To *track*, the
baseline is the latest earlier study that has a report of lesions (TID 1500), and the scan that this report speaks of is
its series, whatever the rules say, since the lesions lie in its frame of reference; all studies since then are its
follow-ups. Rows are named by the Study Instance UID of the newest study: no name and no number of a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from SAMv2Core.batch.rules import Rule, Rules, choose
from SAMv2Core.io.archive import ArchivedReport, ArchivedSeries, Contents

COLUMNS = {
    "track": ("name", "baseline", "series_baseline", "follow_up", "series_follow_up", "lesions", "sr"),
    "register": ("name", "fixed", "series_fixed", "moving", "series_moving", "sro"),
}
SR, SRO = "lesions.dcm", "registration.dcm"


class Skipped(NamedTuple):
    """A patient without a comparison, by the newest study, and why."""

    study_uid: str
    reason: str


@dataclass(frozen=True)
class _Study:
    uid: str
    when: Tuple[str, str]
    series: Tuple[ArchivedSeries, ...]


def comparisons(
    contents: Contents, what: str, rules: Rules, n_priors: int = 1, newest: Optional[Collection[str]] = None
) -> List[Union[Dict[str, str], Skipped]]:
    """A row of the table for every comparison, or why there is none.

    :param what: ``track`` or ``register``.
    :param n_priors: so many earlier studies are registered, each to the newest.
    :param newest: Study Instance UIDs that are to be taken for newest, later ones of the patient set aside; None: the
        newest of every patient.
    """
    found: List[Union[Dict[str, str], Skipped]] = []
    for series in _patients(contents.series):
        studies = _studies(series)
        for at in [len(studies) - 1] if newest is None else [n for n, s in enumerate(studies) if s.uid in newest]:
            known = studies[: at + 1]
            found += (
                _tracks(known, contents.reports, rules) if what == "track" else _registrations(known, rules, n_priors)
            )
    return found


def _patients(series: Sequence[ArchivedSeries]) -> List[List[ArchivedSeries]]:
    """Series of one patient each; those without a PatientID or date belong to nobody."""
    groups: List[List[ArchivedSeries]] = []
    of_id: Dict[str, List[List[ArchivedSeries]]] = {}
    for one in series:
        if not one.patient_id or not one.date:
            continue
        mine = next((g for g in of_id.get(one.patient_id, ()) if all(one.is_of_patient(other) for other in g)), None)
        if mine is None:
            mine = []
            groups.append(mine)
            of_id.setdefault(one.patient_id, []).append(mine)
        mine.append(one)
    return groups


def _studies(series: Sequence[ArchivedSeries]) -> List[_Study]:
    """The studies of a patient, the oldest first."""
    of_uid: Dict[str, List[ArchivedSeries]] = {}
    for one in series:
        of_uid.setdefault(one.study_uid, []).append(one)
    found = [_Study(uid, max(one.when for one in mine), tuple(mine)) for uid, mine in of_uid.items()]
    return sorted(found, key=lambda study: (study.when, study.uid))


def _registrations(studies: Sequence[_Study], rules: Rules, n_priors: int) -> List[Union[Dict[str, str], Skipped]]:
    newest = studies[-1]
    fixed = choose(newest.series, rules.newest)
    if fixed is None:
        return [Skipped(newest.uid, "no series fits the rules")]
    rows: List[Union[Dict[str, str], Skipped]] = []
    for study in reversed(studies[:-1]):
        moving = choose(_alike(study, fixed, rules), rules.prior)
        if moving is None:
            continue
        row = {
            "name": newest.uid if n_priors == 1 else f"{newest.uid}_{len(rows) + 1}",
            **_volume("fixed", fixed),
            **_volume("moving", moving),
        }
        # Between series of one frame of reference there is nothing for the object to say.
        if fixed.frame_of_reference_uid != moving.frame_of_reference_uid:
            row["sro"] = SRO
        rows.append(row)
        if len(rows) == n_priors:
            break
    return rows or [Skipped(newest.uid, "no earlier study has a series that fits the rules")]


def _alike(study: _Study, fixed: ArchivedSeries, rules: Rules) -> List[ArchivedSeries]:
    """Series of the newest one's modality, unless the rules speak of both sides."""
    return [one for one in study.series if rules.are_apart or one.modality == fixed.modality]


def _tracks(
    studies: Sequence[_Study], reports: Sequence[ArchivedReport], rules: Rules
) -> List[Union[Dict[str, str], Skipped]]:
    newest = studies[-1]
    last = choose(newest.series, rules.newest)
    if last is None:
        return [Skipped(newest.uid, "no series fits the rules")]
    if len(studies) == 1:
        return [Skipped(newest.uid, "no earlier study")]
    for at in range(len(studies) - 2, -1, -1):
        found = _reported(studies[at], reports, rules)
        if found is not None:
            break
    else:
        return [Skipped(newest.uid, "no earlier study has a report of lesions on one of its series")]
    report, baseline = found
    between = [choose(_alike(study, last, rules), rules.newest) for study in studies[at + 1 : -1]]
    follow_ups = [one for one in (*between, last) if one is not None]
    row = {"name": newest.uid, **_volume("baseline", baseline), "lesions": report.place, "sr": SR}
    row["follow_up"] = ";".join(one.place for one in follow_ups)
    row["series_follow_up"] = ";".join(one.series_uid for one in follow_ups)
    return [row]


def _reported(
    study: _Study, reports: Sequence[ArchivedReport], rules: Rules
) -> Optional[Tuple[ArchivedReport, ArchivedSeries]]:
    """The last report of a study and the series that it speaks of; the rules decide where it names none."""
    mine = [report for report in reports if report.study_uid == study.uid]
    for report in sorted(mine, key=lambda report: report.written, reverse=True):
        named = [one for one in study.series if one.series_uid in report.series_uids]
        series = choose(named, (Rule(),)) if report.series_uids else choose(study.series, rules.prior)
        if series is not None:
            return report, series
    return None


def _volume(option: str, series: ArchivedSeries) -> Dict[str, str]:
    return {option: series.place, f"series_{option}": series.series_uid}
