"""The files of a demo's stops: pictures and points, all under one folder.

A stop of the tour has a folder of its own: ``overview.png``, one card per point, and the points as
``template.mrk.json`` and ``query.mrk.json`` for 3D Slicer.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from SAMv2Core.demo.cases import Case, Finding, RegistrationCase, slug
from SAMv2Core.errors import OutputError
from SAMv2Core.io import files
from SAMv2Core.io.points import Point, PointList, write_points


def open_folder(path: Path) -> Path:
    """Make the output folder; existing files of the same names are replaced, others are left alone."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The folder {path} cannot be made: {error.strerror or error}.", "Choose another folder."
        ) from error
    files.check_output(path / "index.html")
    return path


def write_case(output: Path, case: Case, with_pictures: bool) -> Tuple[str, ...]:
    """Points and pictures of a stop; their names relative to ``output``."""
    folder = open_folder(output / case.folder)
    written = _write_points(folder, case)
    if with_pictures:
        written += _write_pictures(folder, case)
    return tuple(path.relative_to(output).as_posix() for path in written)


def write_registration(output: Path, case: RegistrationCase, with_pictures: bool) -> Tuple[str, ...]:
    """The transform and the picture of a registration; their names relative to ``output``."""
    from SAMv2Core.io.transforms import write_transform

    folder = open_folder(output / case.folder)
    written = []
    if case.result.status != "failed":
        written.append(folder / "fixed-to-moving.h5")
        write_transform(case.result.matrix, written[0])
    if with_pictures:
        from SAMv2Core.demo.pictures import registration_sheet

        written.append(registration_sheet(folder / "overview.png", case))
    return tuple(path.relative_to(output).as_posix() for path in written)


def _write_points(folder: Path, case: Case) -> List[Path]:
    """The template's points and the query's; a point that was not found keeps its row, without a position."""
    asked = [Point(f.label, tuple(f.template_lps)) for f in case.findings]
    answers = [Point(f.label, _tuple(f.match.query_lps), _description(f)) for f in case.findings]
    written = [folder / "template.mrk.json", folder / "query.mrk.json"]
    for path, points in zip(written, (asked, answers)):
        write_points(PointList(tuple(points), f"{case.folder} {path.name.split('.')[0]}"), path)
    return written


def _tuple(point: Optional[np.ndarray]) -> Optional[Tuple[float, float, float]]:
    return None if point is None else (float(point[0]), float(point[1]), float(point[2]))


def _description(finding: Finding) -> str:
    match = finding.match
    return f"status={match.status}; similarity={match.similarity:.2f}; confidence={match.confidence:.2f}"


def _write_pictures(folder: Path, case: Case) -> List[Path]:
    """The overview, and a card for each point with a position; with nothing to judge by, also for the others.

    A point that could not even be asked for (it lies outside the template) has no similarity to show.
    """
    from SAMv2Core.demo.pictures import match_card, overview_sheet, similarity_of

    written = [overview_sheet(folder / "overview.png", case)]
    judged = any(finding.truth_kind for finding in case.findings)
    searched = [f for f in case.findings if np.isfinite(f.match.similarity)]
    shown = [f for f in searched if f.match.query_lps is not None or not judged]
    for finding in shown:
        path = folder / f"{slug(finding.label)}.png"
        written.append(match_card(path, case, finding, similarity_of(case, finding)))
    return written
