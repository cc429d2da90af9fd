"""``samv2 track``: lesions of a baseline scan, followed through later scans."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common, dicomweb_files, longiseg, presence, reading, structured_report
from SAMv2Core.errors import OutputError, UnreliableResultError, UsageError
from SAMv2Core.io.files import write_text
from SAMv2Core.io.lesion import Lesion, check_labels
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.io.points import Point, PointList, write_points
from SAMv2Core.io.tables import table_text

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.io.report_reader import LesionReport
    from SAMv2Core.tracking.assignment import Assignment
    from SAMv2Core.tracking.presence import Presence
    from SAMv2Core.tracking.reading import ReaderTable

COLUMNS = (
    "label", "study", "l", "p", "s", "similarity", "cycle_error_mm", "confidence", "status", "diameter_mm",
)  # fmt: skip
NONE = "-"


def add_subparser(subparsers: Any) -> None:
    """Add ``track`` to the parser."""
    parser = subparsers.add_parser("track", help="follow lesions through later scans", description=__doc__)
    common.add_input(parser, "baseline", "the scan in which the lesions are marked (a file, or a folder of DICOM)")
    parser.add_argument(
        "--follow-up", required=True, nargs="+", metavar="VOLUME", help="the later scans, in order of time"
    )
    parser.add_argument(
        "--modality-follow-up", choices=common.MODALITIES, default="auto", help="of all of them; default: decided"
    )
    parser.add_argument(
        "--series-follow-up",
        nargs="+",
        metavar="UID",
        help="which DICOM series, one for each of them, in their order ('-' for a folder of one series)",
    )
    common.add_series_option(parser)
    parser.add_argument(
        "--lesions",
        required=True,
        metavar="L",
        help="lesions of the baseline: points (.mrk.json, .fcsv), a table (.csv with label,l,p,s and, if known, "
        "diameter_mm), a segmentation with one label per lesion (or one label, split into separate parts), or the "
        "baseline's DICOM report (TID 1500)",
    )
    parser.add_argument(
        "--follow-up-lesions",
        nargs="+",
        metavar="SEG",
        help="segmentations of the follow-ups, in their order ('-' for one that has none): their parts are assigned to "
        "the tracks, new and vanished lesions are listed, diameters are measured",
    )
    parser.add_argument(
        "--segment-with",
        metavar="URL",
        help="a running nnInteractive server, to which the follow-ups without a segmentation are sent: one click at "
        "each place found, and the mask gives both axes (package nninteractive-client; key in $NN_INTERACTIVE_API_KEY)",
    )
    parser.add_argument(
        "--refine",
        action="store_true",
        help="move each place found, by some millimeters, to where the scan at its full resolution looks most like the "
        "baseline (scans of one modality)",
    )
    parser.add_argument(
        "--output", required=True, metavar="OUT.csv", type=csv_to_write, help=f"table to write: {','.join(COLUMNS)}"
    )
    parser.add_argument("--markups", metavar="DIR", help="folder for one point list (.mrk.json) per scan")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the body's landmarks; default: 0")
    reading.add_options(parser)
    structured_report.add_option(parser)
    presence.add_option(parser)
    longiseg.add_options(parser)
    dicomweb_files.add_stow_option(parser, "sr")
    common.add_computing_options(parser)
    common.add_server_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def csv_to_write(text: str) -> str:
    """An argparse type: the name of a table to be written."""
    return common.suffixed(text, (".csv",))


@dataclass(frozen=True, eq=False)
class _Given:
    """What was read.

    :param names: of the follow-ups among the inputs; :param scans: baseline first.
    :param segmentations: paths, one per follow-up, None for one without.
    :param reader: what a reader wrote down; :param past: the report that the lesions come from, or None.
    """

    names: List[str]
    lesions: List[Lesion]
    scans: List[s.Volume]
    segmentations: List[Optional[str]]
    reader: ReaderTable
    past: Optional[LesionReport]


@dataclass(frozen=True, eq=False)
class _Found:
    """What tracking found, and what segmentations add to it."""

    embeddings: List[s.Embedding]
    findings: List[s.Finding]
    assignments: List[Assignment]


def run(session: Session) -> None:
    """Read, embed, track, measure, write; unreliable when nothing was found in any follow-up."""
    given = _read(session)
    found = _measured(session, given, _tracked(session, given))
    session.results["findings"] = [as_report(finding) for finding in found.findings]
    if found.assignments:
        session.results["assignments"] = [_assignment_report(assignment) for assignment in found.assignments]
    with session.stage("presence", 0.93, 0.95):
        modalities = [emb.modality for emb in found.embeddings]
        said = presence.of_all(found.findings, given.lesions, given.scans, modalities)
        said.update(presence.of_new(session, found.assignments, found.embeddings, given.scans))
    with session.stage("write", 0.95, 1.0):
        _write(session, given, found, said)
    _tell(session, found.findings, len(given.names), found.assignments)


def _read(session: Session) -> _Given:
    """All inputs; what cannot be written in the end is refused now."""
    from SAMv2Core.tracking import segmenting

    args = session.args
    segmentations = _one_each(args, args.follow_up_lesions, "segmentations")
    inputs = [args.baseline, *args.follow_up, args.lesions, *filter(None, [*segmentations, args.readings])]
    dicomweb_files.check_stow(args, "sr")
    session.declare(inputs, [args.output, args.recist, args.sr, args.presence, args.longiseg])
    names = _name_follow_ups(args)
    with session.stage("read", 0.0, 0.05):
        past = structured_report.read_past(args.lesions, args.baseline)
        lesions = read_lesions(args.lesions, args.baseline)
        check_labels(lesions)
        reader = reading.read(session)
        session.report.add_file("lesions", args.lesions, n_lesions=len(lesions))
        scans = [common.read_input(session, name) for name in ("baseline", *names)]
        structured_report.check_past(session, past, scans[0])
        if args.sr:
            structured_report.check_target(scans[-1])
        if args.segment_with:
            segmenting.connect(args.segment_with).close()
    return _Given(names, lesions, scans, segmentations, reader, past)


def _tracked(session: Session, given: _Given) -> _Found:
    """The lesions' places in all studies."""
    embeddings = common.embed_all(session, dict(zip(("baseline", *given.names), given.scans)), 0.8)
    with session.stage("track", 0.8, 0.93) as progress:
        track = common.functions(session).track
        findings = track(embeddings[0], embeddings[1:], given.lesions, progress=progress, seed=session.args.seed)
    if session.args.refine:
        modalities = [emb.modality for emb in embeddings]
        findings = _refine(session, findings, given.lesions, given.scans, modalities)
    return _Found(embeddings, findings, [])


def _measured(session: Session, given: _Given, found: _Found) -> _Found:
    """With sizes by the follow-ups' segmentations, and by a server's masks where there are none."""
    findings, assignments = found.findings, found.assignments
    if any(given.segmentations):
        findings, assignments = _assign(session, findings, given.lesions, given.segmentations, given.scans[1:])
    if session.args.segment_with:
        findings = _segment(session, findings, given.segmentations, given.scans)
    return _Found(found.embeddings, findings, assignments)


def _write(session: Session, given: _Given, found: _Found, said: Dict[presence.Key, Presence]) -> None:
    """All files that were asked for."""
    from SAMv2Core.tracking.reading import courses_of

    args = session.args
    new = {assignment.study: assignment.new for assignment in found.assignments}
    courses = courses_of(given.lesions, found.findings, new, given.reader, given.past)
    reading.report(session, courses)
    presence.write(session, said)
    if args.longiseg:
        longiseg.write(session, found.findings, given.scans, [args.baseline, *args.follow_up], found.assignments)
    write_text(args.output, table(found.findings), session.inputs)
    if args.markups:
        write_markups(session, found.findings, len(given.names))
    if args.sr:
        regions = structured_report.sites(session, given.lesions, found.embeddings[0])
        last = (given.scans[-1], given.lesions, found.findings, courses, new.get(len(given.names), ()))
        structured_report.write(session, *last, given.reader, given.past, regions)
        dicomweb_files.stow(session, "sr")


def _one_each(args: Any, given: Optional[Sequence[str]], what: str) -> List[Optional[str]]:
    """One entry per follow-up, None for one without."""
    given = given or [NONE] * len(args.follow_up)
    if len(given) != len(args.follow_up):
        raise UsageError(
            f"{len(given)} {what} are given for {len(args.follow_up)} follow-ups.",
            f"Give one for each, in their order, '{NONE}' for a follow-up without.",
        )
    return [None if text == NONE else text for text in given]


def _name_follow_ups(args: Any) -> List[str]:
    """``follow_up_1``, ... as inputs of their own, which all shared functions then know."""
    names = [f"follow_up_{number}" for number in range(1, len(args.follow_up) + 1)]
    modality = args.modality_follow_up
    for name, path, series in zip(names, args.follow_up, _one_each(args, args.series_follow_up, "series")):
        for attribute, value in ((name, path), (f"modality_{name}", modality), (f"series_{name}", series)):
            setattr(args, attribute, value)
    return names


def _refine(
    session: Session,
    findings: List[s.Finding],
    lesions: Sequence[Lesion],
    volumes: Sequence[s.Volume],
    modalities: Sequence[str],
) -> List[s.Finding]:
    """The findings with their places refined by the scans; as they are when these are of two modalities."""
    from SAMv2Core.tracking.refinement import refine_findings

    if len(set(modalities)) > 1:
        session.warn("--refine compares brightness, which says nothing between CT and MR: places stay as tracked.")
        return findings
    with session.stage("refine", 0.93, 0.95):
        refined = refine_findings(findings, lesions, volumes[0], volumes[1:])
    both = [(a.lps, b.lps) for a, b in zip(findings, refined) if a is not b]
    moved = [float(np.linalg.norm(a - b)) for a, b in both if a is not None and b is not None]
    session.results["refined"] = {"moved": len(moved), "median_mm": _number(float(np.median(moved)) if moved else None)}
    return refined


def _assign(
    session: Session,
    findings: List[s.Finding],
    lesions: Sequence[Lesion],
    segmentations: Sequence[Optional[str]],
    volumes: Sequence[s.Volume],
) -> Tuple[List[s.Finding], List[Assignment]]:
    """Bring the follow-ups' segmentations in."""
    from SAMv2Core.tracking.assignment import assign, parts_of, with_parts

    assignments = []
    for study, (path, volume) in enumerate(zip(segmentations, volumes), 1):
        if path is None:
            continue
        parts = parts_of(s.read_volume(path), volume.grid)
        session.report.add_file(f"follow_up_lesions_{study}", path, n_lesions=len(parts))
        assignments.append(assign(findings, study, parts, {lesion.label: lesion for lesion in lesions}))
        findings = with_parts(findings, assignments[-1])
    return findings, assignments


def _segment(
    session: Session, findings: List[s.Finding], segmentations: Sequence[Optional[str]], volumes: Sequence[s.Volume]
) -> List[s.Finding]:
    """The sizes that a server's masks give at the places found; of studies that have no segmentation of their own."""
    from SAMv2Core.tracking import segmenting

    with session.stage("segment", 0.93, 0.94):
        server = segmenting.connect(session.args.segment_with)
        try:
            for study, (path, volume) in enumerate(zip(segmentations, volumes[1:]), 1):
                places = {f.label: f.lps for f in findings if f.study == study and f.lps is not None}
                if path is None and places:
                    found = segmenting.segment(server, volume, places)
                    findings = segmenting.with_segmented(findings, study, found)
                    session.say(f"follow-up {study}: {len(found)} of {len(places)} places segmented")
        finally:
            server.close()
    return findings


def _number(value: Optional[float], digits: int = 4) -> Optional[float]:
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def as_report(finding: s.Finding) -> Dict[str, Any]:
    """One element of the report's ``findings``; what does not exist is null."""
    return {
        "label": finding.label,
        "study": finding.study,
        "lps": None if finding.lps is None else [round(float(value), 4) for value in finding.lps],
        "similarity": _number(finding.similarity),
        "cycle_error_mm": _number(finding.cycle_error_mm),
        "confidence": _number(finding.confidence),
        "status": finding.status,
        "reason": finding.reason,
        "diameter_mm": _number(finding.diameter_mm),
        "short_mm": _number(finding.short_mm),
        "volume_ml": _number(finding.volume_ml),
        "state": finding.state or None,
    }


def _assignment_report(assignment: Assignment) -> Dict[str, Any]:
    def part(lesion: Lesion) -> Dict[str, Any]:
        center = [round(float(value), 4) for value in lesion.center_lps]
        names = ("diameter_mm", "short_mm", "volume_ml")
        sizes = {name: _number(getattr(lesion, name)) for name in names}
        return {"label": lesion.label, "lps": center, **sizes}

    return {
        "study": assignment.study,
        "assigned": {label: part(lesion) for label, lesion in assignment.parts.items()},
        "new": [part(lesion) for lesion in assignment.new],
        "vanished": list(assignment.vanished),
        "merged": assignment.merged,
        "split": {label: [part(piece) for piece in pieces] for label, pieces in assignment.split.items()},
    }


def table(findings: Sequence[s.Finding]) -> str:
    """The CSV text: one row per lesion and study, the baseline included; cells without a value are empty."""
    rows = []
    for row in map(as_report, findings):
        lps = row["lps"] or [None, None, None]
        rows.append([row["label"], row["study"], *lps, *(row[name] for name in COLUMNS[5:])])
    return table_text(COLUMNS, rows)


def write_markups(session: Session, findings: Sequence[s.Finding], n_follow_ups: int) -> None:
    """``study_0.mrk.json`` (the baseline) and so on; a lesion that was not found has no position."""
    folder = Path(session.args.markups)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", "Choose another place.") from error
    for study in range(n_follow_ups + 1):
        points = [_as_point(finding) for finding in findings if finding.study == study]
        name = "baseline" if study == 0 else f"follow-up {study}"
        write_points(PointList(tuple(points), f"lesions, {name}"), folder / f"study_{study}.mrk.json", session.inputs)


def _as_point(finding: s.Finding) -> Point:
    facts = [f"status={finding.status}", f"confidence={finding.confidence:.2f}"]
    if finding.diameter_mm is not None:
        facts.append(f"diameter_mm={finding.diameter_mm:.1f}")
    return Point(finding.label, None if finding.lps is None else common.triple(finding.lps), "; ".join(facts))


def _tell(
    session: Session, findings: Sequence[s.Finding], n_follow_ups: int, assignments: Sequence[Assignment]
) -> None:
    """A line per follow-up on stdout, warnings for what needs a look; an error when nothing was found at all."""
    later = [finding for finding in findings if finding.study > 0]
    for study in range(1, n_follow_ups + 1):
        here = [finding for finding in later if finding.study == study]
        count = Counter(finding.status for finding in here)
        session.say(
            f"follow-up {study}: {count['matched']} matched, {count['uncertain']} uncertain, "
            f"{count['not_found']} not found, of {len(here)} lesions"
        )
        unsure = [finding.label for finding in here if finding.status == "uncertain"]
        if unsure:
            session.warn(f"follow-up {study}: check by eye: {', '.join(unsure[:10])}{', ...' * (len(unsure) > 10)}")
    for found in assignments:
        session.say(
            f"follow-up {found.study}, segmentation: {len(found.parts)} lesions assigned, {len(found.new)} new, "
            f"{len(found.vanished)} vanished, {len(found.merged)} merged"
        )
    if all(finding.status == "not_found" for finding in later):
        first = next((finding.reason for finding in later if finding.reason), "").rstrip(".")
        raise UnreliableResultError(
            f"None of the lesions was found in any follow-up (first one: {first}).",
            "Check that the scans show the same part of the same patient and that the lesions lie in the baseline.",
        )
