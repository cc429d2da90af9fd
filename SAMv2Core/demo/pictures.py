"""The demo's pictures: one card per point, one sheet per pair of scans, one sheet for the registration.

All panels of a card have the same scale and are centered on the point, so that template and query compare as
with linked cursors. A point that was not found gets no mark in the query: the card shows where the similarity
was highest in projection, and says so.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Optional

import numpy as np

from SAMv2Core.demo import canvas as c
from SAMv2Core.demo.canvas import STATUS_STYLE, Canvas, rgb
from SAMv2Core.demo.cases import Case, Finding, Scan
from SAMv2Core.demo.panels import (
    Similarity,
    draw_panel,
    draw_scout,
    field_of_view_mm,
    fit,
    gray,
    heat,
    scale_bar,
    scout_gray,
    window_of,
)
from SAMv2Core.demo.slices import PLANES, cut, project
from SAMv2Core.demo.table import PLACES, number, verdict

PANEL, GAP, MARGIN, SIDE, HEADER = 340, 8, 20, 236, 84
OVERVIEW_HEADER = 108
COLUMNS = tuple(MARGIN + SIDE + n * (PANEL + GAP) for n in range(3))
NAMES = ("axial", "coronal", "sagittal")


def match_card(path: Path, case: Case, finding: Finding, similarity: Similarity) -> Path:
    """Template, query, and query with similarity in three planes; scouts and figures at the side."""
    match = finding.match
    rows = 2 if match.query_lps is None else 3
    canvas = Canvas(2 * MARGIN + SIDE + 3 * (PANEL + GAP) - GAP, HEADER + rows * (PANEL + GAP) - GAP + MARGIN)
    _card_header(canvas, case, finding)
    tops = [HEADER + n * (PANEL + GAP) for n in range(rows)]
    fov = field_of_view_mm(case.template, case.query)
    _side_label(canvas, tops[0], "Template", case.template, finding.template_lps, c.YELLOW)
    _row_of_planes(canvas, tops[0], case.template, finding.window, finding.template_lps, fov, c.YELLOW)
    color = STATUS_STYLE[match.status][2]
    _side_label(canvas, tops[1], "Query", case.query, match.query_lps, color)
    if match.query_lps is None:
        _projections_row(canvas, tops[1], case.query, similarity)
        _figures(canvas, tops[1] + 84, finding, similarity)
    else:
        view = (case.query, finding.window, match.query_lps, fov, color, finding.truth_lps)
        _row_of_planes(canvas, tops[1], *view)
        _row_of_planes(canvas, tops[2], *view, similarity)
        canvas.text(MARGIN, tops[2] + 2, "Similarity map", 17, c.TEXT, bold=True)
        _figures(canvas, tops[2] + 36, finding, similarity)
    return canvas.save(path, f"SAMv2 demo: {finding.label}, {case.title}")


def _card_header(canvas: Canvas, case: Case, finding: Finding) -> None:
    width = canvas.size[0]
    canvas.text(MARGIN, 30, finding.label, 26, bold=True, va="center")
    canvas.chip(width - MARGIN, 30, finding.match.status, 20, ha="right")
    canvas.text(MARGIN, 60, case.title, 13, c.QUIET, va="center")
    error = finding.error_mm
    if error is not None:
        words = f"{error:.1f} mm from {PLACES[finding.truth_kind]}"
        canvas.text(width - MARGIN, 60, words, 14, ha="right", va="center")


def _row_of_planes(
    canvas: Canvas,
    y: int,
    scan: Scan,
    window: str,
    point_lps: np.ndarray,
    fov_mm: float,
    color: str,
    truth_lps: Optional[np.ndarray] = None,
    similarity: Optional[Similarity] = None,
) -> None:
    """Three planes through a point, with the true place and the similarity if given."""
    low, high, note = window_of(scan, window)
    for name, x in zip(NAMES, COLUMNS):
        view = cut(scan.array, scan.grid, PLANES[name], point_lps, (PANEL, PANEL), fov_mm / PANEL)
        picture = gray(view.pixels, low, high)
        if similarity is not None:
            over = cut(similarity.array, similarity.grid, view.plane, point_lps, (PANEL, PANEL), fov_mm / PANEL)
            inside = np.where(np.isfinite(view.pixels), over.pixels, np.nan)
            picture = heat(picture, inside, similarity.low, similarity.high)
        draw_panel(canvas, x, y, view, picture, note)
        if truth_lps is not None and view.shows(truth_lps):
            px, py = view.to_pixel(truth_lps)
            canvas.ring(x + px, y + py, c.WHITE, radius=6, width=1.6)
        px, py = view.to_pixel(point_lps)
        canvas.cross(x + px, y + py, color)


def _projections_row(canvas: Canvas, y: int, scan: Scan, similarity: Similarity) -> None:
    """The whole query in projection with the similarity; no mark, for there is no position."""
    for name, x in zip(NAMES, COLUMNS):
        view = fit(scan.scout(name), (PANEL, PANEL))
        over = project(similarity.array, similarity.grid, view.plane, scan.box_lps, how="max")
        over = fit(over, (PANEL, PANEL))
        picture = heat(scout_gray(view.pixels), over.pixels, similarity.low, similarity.high)
        canvas.image(x, y, np.tile(rgb("#000000"), (PANEL, PANEL, 1)))
        height, width = picture.shape[:2]
        canvas.image(x + (PANEL - width) // 2, y + (PANEL - height) // 2, picture)
        canvas.text(x + 7, y + 5, f"{name}, whole scan in projection", 12, on_image=True)


def _side_label(canvas: Canvas, y: int, role: str, scan: Scan, point_lps: Optional[np.ndarray], color: str) -> None:
    """Which scan a row shows, and where in it; no scout without a position."""
    canvas.text(MARGIN, y + 2, role, 17, color, bold=True)
    canvas.text(MARGIN, y + 28, scan.name, 13)
    canvas.text(MARGIN, y + 47, scan.seen, 12, c.QUIET)
    if point_lps is not None:
        draw_scout(canvas, MARGIN, y + 72, (SIDE - 16, PANEL - 72), scan, point_lps, color)


def _figures(canvas: Canvas, y: int, finding: Finding, similarity: Similarity) -> None:
    """The numbers of a match, the marks explained, and the color bar of the similarity map."""
    match = finding.match
    rows = [("similarity", number(match.similarity, "{:.2f}"))]
    rows += [
        ("cycle error", number(match.cycle_error_mm, "{:.1f} mm")),
        ("fixed points", str(match.fixed_points)),
    ]
    rows += [("confidence", number(match.confidence, "{:.2f}"))]
    for n, (name, value) in enumerate(rows):
        canvas.text(MARGIN, y + 22 * n, name, 13, c.QUIET)
        canvas.text(MARGIN + 108, y + 22 * n, value, 13)
    y += 100
    if finding.truth_lps is not None and match.query_lps is not None:
        canvas.ring(MARGIN + 8, y + 8, c.WHITE, radius=6, width=1.6)
        canvas.text(MARGIN + 24, y + 8, PLACES[finding.truth_kind], 13, va="center")
        y += 28
    for line in textwrap.wrap(match.reason, 32):
        canvas.text(MARGIN, y, line, 12, c.QUIET)
        y += 17
    _color_bar(canvas, MARGIN, y + 34, SIDE - 40, similarity)


def _color_bar(canvas: Canvas, x: int, y: int, width: int, similarity: Similarity) -> None:
    ramp = np.tile(np.linspace(similarity.low, similarity.high, width, dtype=np.float32), (12, 1))
    canvas.image(x, y, heat(np.full((12, width, 3), 60, np.uint8), ramp, similarity.low, similarity.high))
    canvas.text(x, y + 17, f"{similarity.low:.2f}", 12, c.QUIET)
    canvas.text(x + width, y + 17, f"{similarity.high:.2f}", 12, c.QUIET, ha="right")
    canvas.text(x, y - 5, "cosine similarity", 12, c.QUIET, va="bottom")


def sheet_columns(n: int) -> int:
    """Cells side by side in a sheet: three, or fewer where that leaves no gap."""
    return 2 if n == 4 else min(3, max(1, n))


def overview_sheet(path: Path, case: Case) -> Path:
    """All points of a pair of scans: axial template and query slices side by side, with their status."""
    tile, strip, columns = 200, 46, sheet_columns(len(case.findings))
    cell = 2 * tile + 4
    rows = -(-len(case.findings) // columns)
    canvas = Canvas(2 * MARGIN + columns * cell + (columns - 1) * 24, OVERVIEW_HEADER + rows * (tile + strip + 18) + 6)
    canvas.text(MARGIN, 30, case.title, 21, bold=True, va="center")
    names = f"left: template, {case.template.name}     right: query, {case.query.name}"
    canvas.text(MARGIN, 58, names, 13, c.QUIET, va="center")
    canvas.text(MARGIN, 80, verdict(case), 13, va="center")
    fov = min(160.0, field_of_view_mm(case.template, case.query))
    for n, finding in enumerate(case.findings):
        x = MARGIN + (n % columns) * (cell + 24)
        y = OVERVIEW_HEADER + (n // columns) * (tile + strip + 18)
        _overview_cell(canvas, x, y, tile, case, finding, fov)
    return canvas.save(path, f"SAMv2 demo: {case.title}")


def _overview_cell(canvas: Canvas, x: int, y: int, tile: int, case: Case, finding: Finding, fov_mm: float) -> None:
    match = finding.match
    canvas.text(x, y + 9, finding.label, 14, bold=True, va="center")
    canvas.chip(x + 2 * tile + 4, y + 9, match.status, 13, ha="right")
    canvas.text(x, y + 29, _cell_note(finding), 12, c.QUIET, va="center")
    y += 42
    spots = (
        (case.template, finding.template_lps, c.YELLOW),
        (case.query, match.query_lps, STATUS_STYLE[match.status][2]),
    )
    for n, (scan, point, color) in enumerate(spots):
        left = x + n * (tile + 4)
        if point is None:
            canvas.image(left, y, np.tile(rgb(c.OUTSIDE), (tile, tile, 1)))
            canvas.text(left + tile / 2, y + tile / 2, "no position\ngiven", 13, c.QUIET, ha="center", va="center")
            continue
        low, high, _ = window_of(scan, finding.window)
        view = cut(scan.array, scan.grid, PLANES["axial"], point, (tile, tile), fov_mm / tile)
        canvas.image(left, y, gray(view.pixels, low, high))
        if n == 1 and finding.truth_lps is not None and view.shows(finding.truth_lps):
            px, py = view.to_pixel(finding.truth_lps)
            canvas.ring(left + px, y + py, c.WHITE, radius=5, width=1.4)
        canvas.cross(left + (tile - 1) / 2, y + (tile - 1) / 2, color, gap=5, arm=9, width=1.7)
        if n == 0:
            canvas.text(left + 5, y + tile / 2, "R", 11, bold=True, va="center", on_image=True)
            scale_bar(canvas, left + 7, y + tile - 7, view.pixel_mm, tile)


def _cell_note(finding: Finding) -> str:
    match = finding.match
    if not np.isfinite(match.similarity):
        return textwrap.shorten(match.reason, 64, placeholder=" ...")
    note = f"similarity {number(match.similarity, '{:.2f}')}"
    if finding.error_mm is not None:
        note += f"   {finding.error_mm:.1f} mm from {PLACES[finding.truth_kind]}"
    elif match.query_lps is not None:
        note += f"   cycle error {number(match.cycle_error_mm, '{:.1f}')} mm"
    if finding.in_view is False:
        note += "   (not in this scan)"
    elif finding.in_view and match.query_lps is None:
        note += "   (is in this scan)"
    return note
