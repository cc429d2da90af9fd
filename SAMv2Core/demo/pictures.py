"""The demo's pictures: one card per point, one sheet per pair of scans, one sheet for the registration.

All panels of a card have the same scale and are centered on the point, so that template and query compare as with
linked cursors. A point that was not found gets no mark in the query: the card shows where the similarity was highest
in projection, and says so.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.demo import canvas as c
from SAMv2Core.demo.canvas import STATUS_STYLE, Canvas, rgb
from SAMv2Core.demo.cases import Case, Finding, Scan
from SAMv2Core.demo.slices import PLANES, Slice, cut, project
from SAMv2Core.geometry import Grid

#: Window name -> (width, level) in HU.
WINDOWS: Dict[str, Tuple[float, float]] = {
    "soft tissue": (400.0, 40.0),
    "bone": (1200.0, 250.0),
    "wide": (1400.0, -400.0),
}

PANEL, GAP, MARGIN, SIDE, HEADER = 340, 8, 20, 236, 84
COLUMNS = tuple(MARGIN + SIDE + n * (PANEL + GAP) for n in range(3))
NAMES = ("axial", "coronal", "sagittal")


def window_of(scan: Scan, name: str) -> Tuple[float, float, str]:
    """(low, high, text) of the gray scale: the CT window, or an MR's own 1st to 99th percentile."""
    if scan.modality == "ct":
        width, level = WINDOWS[name]
        return level - width / 2, level + width / 2, f"W {width:.0f}  L {level:.0f}"
    low, high = np.percentile(scan.array[::3, ::3, ::3], [1, 99])
    return float(low), float(max(high, low + 1)), "1-99 %"


def gray(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """(h, w) values to (h, w, 3) uint8; NaN (outside the scan) becomes a flat slate color."""
    scaled = np.clip((np.nan_to_num(pixels, nan=low) - low) / (high - low), 0, 1)
    picture = np.repeat((scaled * 255).astype(np.uint8)[..., None], 3, axis=2)
    picture[~np.isfinite(pixels)] = rgb(c.OUTSIDE)
    return picture


def heat(picture: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Lay a similarity map over a gray picture: nothing below ``low``, most color at ``high``."""
    from matplotlib import colormaps

    strength = np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-6), 0, 1)[..., None]
    color = colormaps["inferno"](0.25 + 0.75 * strength[..., 0])[..., :3] * 255
    alpha = 0.75 * strength**0.8
    return (picture * (1 - alpha) + color * alpha).astype(np.uint8)


def draw_panel(canvas: Canvas, x: int, y: int, view: Slice, picture: np.ndarray, note: str = "") -> None:
    """One slice with edge letters, its position, its window and a scale bar."""
    canvas.image(x, y, picture)
    height, width = picture.shape[:2]
    left, right, top, bottom = view.plane.edges
    for px, py, letter, ha, va in (
        (x + 6, y + height / 2, left, "left", "center"),
        (x + width - 7, y + height / 2, right, "right", "center"),
        (x + width / 2, y + 4, top, "center", "top"),
        (x + width / 2, y + height - 5, bottom, "center", "bottom"),
    ):
        canvas.text(px, py, letter, 13, c.TEXT, bold=True, ha=ha, va=va, halo=True)
    axis = view.plane.depth_axis
    letters = (("L", "R"), ("P", "A"), ("S", "I"))[axis]
    position = view.center_lps[axis]
    where = f"{letters[0] if position >= 0 else letters[1]} {abs(position):.0f} mm"
    canvas.text(x + 7, y + 5, f"{view.plane.name}  {where}", 12, c.TEXT, halo=True)
    if note:
        canvas.text(x + width - 7, y + height - 6, note, 11, c.TEXT, ha="right", va="bottom", halo=True)
    scale_bar(canvas, x + 9, y + height - 10, view.pixel_mm, width)


def scale_bar(canvas: Canvas, x: float, y: float, pixel_mm: float, width_px: int) -> None:
    """A bar of 10, 20, 50 or 100 mm, the longest that takes less than a third of the panel."""
    fits = [mm for mm in (10, 20, 50, 100) if mm / pixel_mm < width_px / 3]
    length_mm = fits[-1] if fits else 10
    end = x + length_mm / pixel_mm
    canvas.line((x, end), (y, y), c.WHITE, 3)
    canvas.text((x + end) / 2, y - 5, f"{length_mm} mm", 11, c.TEXT, ha="center", va="bottom", halo=True)


def draw_scout(
    canvas: Canvas, x: int, y: int, size: Tuple[int, int], scan: Scan, point_lps: Optional[np.ndarray], color: str
) -> None:
    """The whole scan seen from the front with the point in it; fits and centers in ``size``."""
    view = fit(scan.scout("coronal"), size)
    picture = scout_gray(view.pixels)
    height, width = picture.shape[:2]
    x, y = x + (size[0] - width) // 2, y + (size[1] - height) // 2
    canvas.image(x, y, picture)
    if point_lps is not None:
        px, py = view.to_pixel(point_lps)
        canvas.cross(x + px, y + py, color, gap=5, arm=9, width=1.8)


def fit(view: Slice, size: Tuple[int, int]) -> Slice:
    """The same view enlarged or reduced until it just fits in ``size`` (width, height), aspect ratio kept."""
    height, width = view.pixels.shape
    factor = min(size[0] / width, size[1] / height)
    shape = (max(1, int(height * factor)), max(1, int(width * factor)))
    rows = (np.arange(shape[0]) - (shape[0] - 1) / 2) / factor + (height - 1) / 2
    columns = (np.arange(shape[1]) - (shape[1] - 1) / 2) / factor + (width - 1) / 2
    where = np.meshgrid(rows, columns, indexing="ij")
    pixels = ndimage.map_coordinates(view.pixels, where, order=1, mode="nearest")
    return replace(view, pixels=pixels, pixel_mm=view.pixel_mm / factor)


def scout_gray(pixels: np.ndarray) -> np.ndarray:
    """A mean projection as gray values, stretched between its 1st and 99.5th percentile."""
    finite = pixels[np.isfinite(pixels)]
    low, high = np.percentile(finite, [2, 99.7]) if finite.size else (0.0, 1.0)
    return gray(pixels, float(low), float(max(high, low + 1e-3)))


def field_of_view_mm(*scans: Scan) -> float:
    """The side of the square panels: what the smallest scan offers, between 130 and 200 mm."""
    sides = [float(np.median(high - low)) for low, high in (scan.box_lps for scan in scans)]
    return float(np.clip(min(sides), 130.0, 200.0))


class Similarity:
    """A similarity volume of one point: (z, y, x) on its grid, and the range that is colored."""

    def __init__(self, array: np.ndarray, grid: Grid) -> None:
        self.array, self.grid = np.asarray(array, dtype=np.float32), grid
        finite = self.array[np.isfinite(self.array)]
        self.high = float(min(finite.max(), 1.0))
        # The background of a cosine map differs between models; what is colored is what stands out of it.
        self.low = float(min(np.percentile(finite, 97), self.high - 0.02))


def match_card(path: Path, case: Case, finding: Finding, similarity: Optional[Similarity] = None) -> Path:
    """Three rows (template, query, query with similarity) of three planes, with scouts and figures at the side."""
    found = finding.match.query_lps is not None
    rows = 3 if found and similarity is not None else 2
    canvas = Canvas(2 * MARGIN + SIDE + 3 * (PANEL + GAP) - GAP, HEADER + rows * (PANEL + GAP) - GAP + MARGIN)
    _card_header(canvas, case, finding)
    fov = field_of_view_mm(case.template, case.query)
    template, match, y = case.template, finding.match, HEADER
    _row_of_planes(canvas, y, template, finding, match.template_lps, fov, c.YELLOW)
    _side_label(canvas, y, "Template", template, c.YELLOW)
    draw_scout(canvas, MARGIN, y + 72, (SIDE - 16, PANEL - 72), template, match.template_lps, c.YELLOW)
    y += PANEL + GAP
    color = STATUS_STYLE[match.status][2]
    _side_label(canvas, y, "Query", case.query, color)
    if not found:
        _projections_row(canvas, y, case.query, similarity)
        _figures(canvas, y + 84, finding, similarity)
        return canvas.save(path, f"SAMv2 demo: {finding.label}, {case.title}")
    _row_of_planes(canvas, y, case.query, finding, match.query_lps, fov, color)
    draw_scout(canvas, MARGIN, y + 72, (SIDE - 16, PANEL - 72), case.query, match.query_lps, color)
    if similarity is not None:
        y += PANEL + GAP
        _row_of_planes(canvas, y, case.query, finding, match.query_lps, fov, color, similarity)
        canvas.text(MARGIN, y + 2, "Similarity map", 17, c.TEXT, bold=True)
        _figures(canvas, y + 36, finding, similarity)
    return canvas.save(path, f"SAMv2 demo: {finding.label}, {case.title}")


def _card_header(canvas: Canvas, case: Case, finding: Finding) -> None:
    width = canvas.size[0]
    canvas.text(MARGIN, 30, finding.label, 26, bold=True, va="center")
    canvas.chip(width - MARGIN, 30, finding.match.status, 20, ha="right")
    canvas.text(MARGIN, 60, case.title, 13, c.QUIET, va="center")
    error = finding.error_mm
    if error is not None:
        kind = "true error" if finding.truth_kind == "exact" else "distance to the place marked by eye"
        canvas.text(width - MARGIN, 60, f"{kind} {error:.1f} mm", 14, ha="right", va="center")


def _row_of_planes(
    canvas: Canvas,
    y: int,
    scan: Scan,
    finding: Finding,
    point_lps: np.ndarray,
    fov_mm: float,
    color: str,
    similarity: Optional[Similarity] = None,
) -> None:
    """Three planes through a point; with the true place in the query, and the similarity laid over if given."""
    low, high, note = window_of(scan, finding.window)
    truth = finding.truth_lps if point_lps is finding.match.query_lps else None
    for name, x in zip(NAMES, COLUMNS):
        view = cut(scan.array, scan.grid, PLANES[name], point_lps, (PANEL, PANEL), fov_mm / PANEL)
        picture = gray(view.pixels, low, high)
        if similarity is not None:
            over = cut(similarity.array, similarity.grid, view.plane, point_lps, (PANEL, PANEL), fov_mm / PANEL)
            inside = np.where(np.isfinite(view.pixels), over.pixels, np.nan)
            picture = heat(picture, inside, similarity.low, similarity.high)
        draw_panel(canvas, x, y, view, picture, note)
        if truth is not None and view.shows(truth):
            px, py = view.to_pixel(truth)
            canvas.ring(x + px, y + py, c.WHITE, radius=6, width=1.6)
        px, py = view.to_pixel(point_lps)
        canvas.cross(x + px, y + py, color)


def _projections_row(canvas: Canvas, y: int, scan: Scan, similarity: Optional[Similarity]) -> None:
    """The whole query in projection with the similarity; no mark, for there is no position."""
    for name, x in zip(NAMES, COLUMNS):
        view = fit(scan.scout(name), (PANEL, PANEL))
        picture = scout_gray(view.pixels)
        if similarity is not None:
            over = project(similarity.array, similarity.grid, view.plane, scan.box_lps, how="max")
            picture = heat(picture, fit(over, (PANEL, PANEL)).pixels, similarity.low, similarity.high)
        canvas.image(x, y, np.tile(rgb("#000000"), (PANEL, PANEL, 1)))
        height, width = picture.shape[:2]
        canvas.image(x + (PANEL - width) // 2, y + (PANEL - height) // 2, picture)
        canvas.text(x + 7, y + 5, f"{name}, whole scan in projection", 12, halo=True)


def _side_label(canvas: Canvas, y: int, role: str, scan: Scan, color: str) -> None:
    canvas.text(MARGIN, y + 2, role, 17, color, bold=True)
    canvas.text(MARGIN, y + 28, scan.name, 13)
    canvas.text(MARGIN, y + 47, scan.seen, 12, c.QUIET)


def _figures(canvas: Canvas, y: int, finding: Finding, similarity: Optional[Similarity]) -> None:
    """The numbers of a match, the marks explained, and the color bar of the similarity map."""
    match = finding.match
    rows = [("similarity", _number(match.similarity, "{:.2f}"))]
    rows += [("cycle error", _number(match.cycle_error_mm, "{:.1f} mm")), ("fixed points", str(match.fixed_points))]
    rows += [("confidence", _number(match.confidence, "{:.2f}"))]
    for n, (name, value) in enumerate(rows):
        canvas.text(MARGIN, y + 22 * n, name, 13, c.QUIET)
        canvas.text(MARGIN + 108, y + 22 * n, value, 13)
    y += 100
    if finding.truth_lps is not None and match.query_lps is not None:
        canvas.ring(MARGIN + 8, y + 8, c.WHITE, radius=6, width=1.6)
        meaning = "true place" if finding.truth_kind == "exact" else "placed by eye"
        canvas.text(MARGIN + 24, y + 8, meaning, 13, va="center")
        y += 28
    for line in textwrap.wrap(match.reason, 32):
        canvas.text(MARGIN, y, line, 12, c.QUIET)
        y += 17
    if similarity is not None:
        _color_bar(canvas, MARGIN, y + 34, SIDE - 40, similarity)


def _number(value: Optional[float], form: str) -> str:
    return "-" if value is None or not np.isfinite(value) else form.format(value)


def _color_bar(canvas: Canvas, x: int, y: int, width: int, similarity: Similarity) -> None:
    ramp = np.tile(np.linspace(similarity.low, similarity.high, width, dtype=np.float32), (12, 1))
    canvas.image(x, y, heat(np.full((12, width, 3), 60, np.uint8), ramp, similarity.low, similarity.high))
    canvas.text(x, y + 17, f"{similarity.low:.2f}", 12, c.QUIET)
    canvas.text(x + width, y + 17, f"{similarity.high:.2f}", 12, c.QUIET, ha="right")
    canvas.text(x, y - 5, "cosine similarity", 12, c.QUIET, va="bottom")


def sheet_columns(n: int) -> int:
    """Cells side by side in a sheet."""
    return min(3, max(1, n))


def overview_sheet(path: Path, case: Case) -> Path:
    """All points of a pair of scans: axial template and query slices side by side, with the status of each."""
    tile, strip, columns = 200, 46, sheet_columns(len(case.findings))
    cell = 2 * tile + 4
    rows = -(-len(case.findings) // columns)
    canvas = Canvas(2 * MARGIN + columns * cell + (columns - 1) * 24, 92 + rows * (tile + strip + 18) + 6)
    canvas.text(MARGIN, 30, case.title, 21, bold=True, va="center")
    counts = _counts(case.findings)
    canvas.text(MARGIN, 60, f"left: template, {case.template.name}     right: query, {case.query.name}", 13, c.QUIET, va="center")
    x = canvas.size[0] - MARGIN
    canvas.text(x, 60, counts, 14, ha="right", va="center")
    fov = min(160.0, field_of_view_mm(case.template, case.query))
    for n, finding in enumerate(case.findings):
        x = MARGIN + (n % columns) * (cell + 24)
        y = 92 + (n // columns) * (tile + strip + 18)
        _overview_cell(canvas, x, y, tile, case, finding, fov)
    return canvas.save(path, f"SAMv2 demo: {case.title}")


def _counts(findings: Sequence[Finding]) -> str:
    words: List[str] = []
    for status, (_, word, _) in STATUS_STYLE.items():
        n = sum(finding.match.status == status for finding in findings)
        if n:
            words.append(f"{n} {word.lower()}")
    errors = [finding.error_mm for finding in findings if finding.error_mm is not None]
    if errors:
        words.append(f"median error {np.median(errors):.1f} mm")
    return "   ".join(words)


def _overview_cell(canvas: Canvas, x: int, y: int, tile: int, case: Case, finding: Finding, fov_mm: float) -> None:
    match = finding.match
    canvas.text(x, y + 9, finding.label, 14, bold=True, va="center")
    canvas.chip(x + 2 * tile + 4, y + 9, match.status, 13, ha="right")
    canvas.text(x, y + 29, _cell_note(finding), 12, c.QUIET, va="center")
    y += 42
    spots = ((case.template, match.template_lps, c.YELLOW), (case.query, match.query_lps, STATUS_STYLE[match.status][2]))
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
            canvas.text(left + 5, y + tile / 2, "R", 11, bold=True, va="center", halo=True)
            scale_bar(canvas, left + 7, y + tile - 7, view.pixel_mm, tile)


def _cell_note(finding: Finding) -> str:
    match = finding.match
    note = f"similarity {_number(match.similarity, '{:.2f}')}"
    if finding.error_mm is not None:
        note += f"   error {finding.error_mm:.1f} mm"
    elif match.query_lps is not None:
        note += f"   cycle error {_number(match.cycle_error_mm, '{:.1f}')} mm"
    if finding.in_view is not None:
        note += "   (in this scan)" if finding.in_view else "   (not in this scan)"
    return note
