"""The demo's pictures: one card per point, one sheet per pair of scans, one sheet for a registration.

Planes are cut in the patient's space (LPS mm), never along array axes, so oblique, left-handed and anisotropic
volumes come out upright and undistorted, as a radiologist expects them: axial seen from the feet, coronal from the
front, sagittal from the patient's left. All panels of a card have the same scale and are centered on the point, so
that template and query compare as with linked cursors. A point that was not found gets no mark in the query: its card
shows where the similarity was highest in projection.

Needs matplotlib (extra ``demo``). Figures are made without pyplot: no global state, no display.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

from SAMv2Core.demo.cases import Case, Finding, RegistrationCase, Scan
from SAMv2Core.demo.table import PLACES, WORDS, number, registration_lines, verdict
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io import files
from SAMv2Core.io.itk import resampled, transform_of
from SAMv2Core.io.resample import resample_to

# Dark, as reading rooms are. Marks use the palette of Okabe and Ito, which color-blind readers can tell apart; a status
# is always also a shape and a word.
BACKGROUND, OUTSIDE, TEXT, QUIET = "#0d1117", "#1f2731", "#f0f3f6", "#9da7b3"
YELLOW, BLUE, ORANGE, RED, WHITE = "#F0E442", "#56B4E9", "#E69F00", "#E8704A", "#FFFFFF"
STATUS_STYLE = {"matched": ("\u25cf", BLUE), "uncertain": ("\u25b2", ORANGE), "not_found": ("\u2715", RED)}
STYLE: Dict[Any, Any] = {
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": OUTSIDE,
    "text.color": TEXT,
    "font.size": 9.0,
}
STYLE.update({"xtick.color": QUIET, "axes.labelcolor": QUIET, "figure.dpi": 100, "savefig.dpi": 100})
#: A crosshair that leaves the place itself free.
CROSS = Outline([(-1, 0), (-0.35, 0), (0.35, 0), (1, 0), (0, -1), (0, -0.35), (0, 0.35), (0, 1)], [1, 2] * 4)
EDGE: List[Any] = [withStroke(linewidth=3.5, foreground="black", alpha=0.75)]
PLATE = {"boxstyle": "square,pad=0.15", "facecolor": "black", "alpha": 0.5, "linewidth": 0}
PIXELS = 340  # of a panel's side
RING_MM = 3.0  # around the true place; about what a reader repeats

#: Name -> LPS unit vectors to the picture's right and down, letters at its left, right, top and bottom.
PLANES: Dict[str, Tuple[np.ndarray, np.ndarray, str]] = {
    "axial": (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), "RLAP"),
    "coronal": (np.array([1.0, 0, 0]), np.array([0, 0, -1.0]), "RLSI"),
    "sagittal": (np.array([0, 1.0, 0]), np.array([0, 0, -1.0]), "APSI"),
}
DEPTH = {"axial": (2, "SI"), "coronal": (1, "PA"), "sagittal": (0, "LR")}  # the LPS axis, letters at + and -
#: Window name -> (width, level) in HU.
WINDOWS = {"soft tissue": (400.0, 40.0), "bone": (1200.0, 250.0), "wide": (1400.0, -400.0)}
SCOUT_STEP_MM, AIR_HU = 3.0, -1000.0

# Orange and blue add up to gray: where two scans agree there is no color, for color-blind readers too.
FIXED_TINT, MOVING_TINT = np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0])
AFTER = {"registered": "Registered", "uncertain": "Registered, uncertain", "failed": "Failed, nothing was moved"}


@dataclass(frozen=True, eq=False)
class Similarity:
    """How similar each place of a query is to one point: (z, y, x) on its grid, NaN outside the body."""

    array: np.ndarray
    grid: Grid

    @property
    def limits(self) -> Tuple[float, float]:
        """What is colored: what stands out of the background, which differs between models."""
        finite = self.array[np.isfinite(self.array)]
        high = float(min(finite.max(), 1.0))
        return min(float(np.percentile(finite, 97)), high - 0.02), high


def similarity_of(case: Case, finding: Finding) -> Similarity:
    """The similarity of a template point to every place of the query's body."""
    from SAMv2Core.matching.match import similarity_map

    values, grid = similarity_map(case.template.embedding, case.query.embedding, finding.template_lps.tolist())
    return Similarity(np.where(values > -1.0, values, np.nan).astype(np.float32), grid)


def frame(plane: str, center_lps: np.ndarray, size_mm: Sequence[float], steps_mm: Sequence[float]) -> Grid:
    """The grid of a picture, or of a stack of them: right, down and into the depth around a point."""
    right, down, _ = PLANES[plane]
    axes = np.stack([right, down, np.eye(3)[DEPTH[plane][0]]], axis=1)
    size = np.maximum(1, np.round(np.divide(size_mm, steps_mm))).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * steps_mm
    matrix[:3, 3] = center_lps - matrix[:3, :3] @ ((size - 1) / 2)
    return Grid((size[2], size[1], size[0]), matrix)


def cut(array: np.ndarray, grid: Grid, plane: str, center_lps: np.ndarray, side_mm: float) -> np.ndarray:
    """The square of a plane around a point: (PIXELS, PIXELS) float, NaN outside of the scan."""
    step = side_mm / PIXELS
    return _sampled(array, grid, frame(plane, center_lps, (side_mm, side_mm, 1), (step, step, 1)))[0]


def _sampled(array: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    """The values on another grid, NaN outside; only the part that is needed is handed to ITK, which copies it."""
    reach = grid.to_ijk(target.corners_lps())
    last = grid.size_ijk - 1
    i0, j0, k0 = low = np.clip(np.floor(reach.min(axis=0)) - 1, 0, last).astype(int)
    i1, j1, k1 = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, last).astype(int) + 1
    across = grid.lps_to_ijk @ target.ijk_to_lps
    across[:3, 3] -= low
    return resampled(array[k0:k1, j0:j1, i0:i1], transform_of(across), target.shape_zyx, np.nan)


def body_box(*scans: Scan) -> Tuple[np.ndarray, np.ndarray]:
    """(low, high) corners, LPS mm, of the box around the body of each scan; (n, 3) each."""
    bodies = [(scan.embedding.fine.grid, np.argwhere(scan.embedding.body)) for scan in scans]
    points = [grid.to_lps(places[:, ::-1]) if len(places) else grid.corners_lps() for grid, places in bodies]
    return np.array([p.min(axis=0) for p in points]), np.array([p.max(axis=0) for p in points])


def field_of_view_mm(*scans: Scan) -> float:
    """The side of the square panels: what the smallest body offers, between 130 and 200 mm."""
    low, high = body_box(*scans)
    return float(np.clip(np.median(high - low, axis=1).min(), 130.0, 200.0))


def window_of(scan: Scan, name: str) -> Tuple[float, float, str]:
    """(low, high, text) of the gray scale: the CT window, or an MR's own 1st to 99th percentile."""
    if scan.modality == "ct":
        width, level = WINDOWS[name]
        return level - width / 2, level + width / 2, f"W {width:.0f}  L {level:.0f}"
    low, high = np.percentile(scan.array[::3, ::3, ::3], [1, 99])
    return float(low), float(max(high, low + 1)), "1-99 %"


def draw_plane(
    ax: Any,
    scan: Scan,
    window: str,
    plane: str,
    point_lps: np.ndarray,
    side_mm: float,
    color: str,
    truth_lps: Optional[np.ndarray] = None,
    similarity: Optional[Similarity] = None,
) -> None:
    """A plane through a point with its mark, the true place and the similarity if given."""
    low, high, words = window_of(scan, window)
    pixels = cut(scan.array, scan.grid, plane, point_lps, side_mm)
    _image(ax, pixels, (side_mm, side_mm), cmap="gray", vmin=low, vmax=high)
    if similarity is not None:
        over = cut(similarity.array, similarity.grid, plane, point_lps, side_mm)
        _heat(ax, np.where(np.isfinite(pixels), over, np.nan), (side_mm, side_mm), similarity)
    _letters(ax, plane, point_lps)
    ax.set_title(words, loc="right", fontsize=8, color=QUIET)
    if truth_lps is not None:
        ring = Circle(_place(plane, point_lps, truth_lps), RING_MM, fill=False, edgecolor=WHITE, linewidth=1.6)
        ring.set_path_effects(EDGE)
        ax.add_patch(ring)
    _mark(ax, plane, point_lps, point_lps, color)


def _image(ax: Any, pixels: np.ndarray, size_mm: Sequence[float], **options: Any) -> None:
    """A picture whose axes are mm from its middle."""
    width, height = np.asarray(size_mm[:2]) / 2
    ax.imshow(pixels, extent=(-width, width, height, -height), **options)
    ax.set(xticks=[], yticks=[], xlim=(-width, width), ylim=(height, -height))


def _heat(ax: Any, values: np.ndarray, size_mm: Sequence[float], similarity: Similarity) -> None:
    """A similarity map laid over a picture: nothing below what is colored, most color at the highest."""
    low, high = similarity.limits
    strength = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
    _image(ax, np.nan_to_num(values, nan=low), size_mm, cmap="inferno", vmin=low, vmax=high, alpha=0.7 * strength**0.8)


def _letters(ax: Any, plane: str, center_lps: np.ndarray) -> None:
    """Edge letters, a bar of 20 mm, and where the plane lies: ``S 120 mm`` is 120 mm toward the head."""
    for letter, x, y in zip(PLANES[plane][2], (0.03, 0.97, 0.5, 0.5), (0.5, 0.5, 0.97, 0.03)):
        ax.text(x, y, letter, transform=ax.transAxes, ha="center", va="center", fontweight="bold", bbox=PLATE)
    axis, ends = DEPTH[plane]
    position = center_lps[axis]
    ax.set_title(f"{plane}  {ends[int(position < 0)]} {abs(position):.0f} mm", loc="left", fontsize=9)
    bar = AnchoredSizeBar(ax.transData, 20, "20 mm", "lower left", color="white", sep=2, pad=0.2)
    bar.patch.set(facecolor="black", alpha=0.5, linewidth=0)
    bar.size_bar.get_children()[0].set_linewidth(2)
    ax.add_artist(bar)


def _place(plane: str, center_lps: np.ndarray, point_lps: np.ndarray) -> Tuple[float, float]:
    """Where a point lies in a picture: mm to the right of its middle, and down."""
    right, down, _ = PLANES[plane]
    offset = np.asarray(point_lps) - center_lps
    return float(right @ offset), float(down @ offset)


def _mark(ax: Any, plane: str, center_lps: np.ndarray, point_lps: np.ndarray, color: str, size: float = 26) -> None:
    x, y = _place(plane, center_lps, point_lps)
    ax.plot(x, y, "", marker=CROSS, markersize=size, markeredgewidth=1.6, color=color, path_effects=EDGE)


def _projection(ax: Any, scan: Scan, plane: str, similarity: Optional[Similarity] = None) -> np.ndarray:
    """The whole body seen through, with the highest similarity on the way; returns the middle, LPS mm."""
    (low,), (high,) = body_box(scan)
    right, down, _ = PLANES[plane]
    across = np.abs(np.stack([right, down, np.eye(3)[DEPTH[plane][0]]])) @ (high - low)
    view = frame(plane, (low + high) / 2, across, [SCOUT_STEP_MM] * 3)
    pixels = np.maximum(resample_to(view, scan.volume).array, AIR_HU).mean(axis=0, dtype=np.float32)
    dark, bright = np.percentile(pixels, [2, 99.7])
    _image(ax, pixels, across, cmap="gray", vmin=dark, vmax=max(bright, dark + 1e-3), interpolation="bilinear")
    if similarity is not None:
        _heat(ax, np.fmax.reduce(_sampled(similarity.array, similarity.grid, view)), across, similarity)
    return (low + high) / 2


def status_words(status: str) -> str:
    """A status as shape and word."""
    return f"{STATUS_STYLE[status][0]} {WORDS[status].capitalize()}"


def save(figure: Figure, path: Path, title: str) -> Path:
    """Write a figure: whole, or not at all."""
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Description": title})
    return path


@rc_context(STYLE)
def match_card(path: Path, case: Case, finding: Finding, similarity: Similarity) -> Path:
    """Template, query, and query with similarity in three planes; scouts and figures at the side."""
    match = finding.match
    color = STATUS_STYLE[match.status][1]
    rows = 2 if match.query_lps is None else 3
    figure = Figure(figsize=(13, 0.7 + 3.6 * rows), layout="constrained")
    figure.suptitle(f"{finding.label}\n{case.title}", x=0.01, ha="left", fontsize=12)
    axes = figure.subplots(rows, 4, gridspec_kw={"width_ratios": [0.68, 1, 1, 1]})
    words = status_words(match.status)
    if finding.error_mm is not None:
        words += f"   {finding.error_mm:.1f} mm from {PLACES[finding.truth_kind]}"
    figure.text(0.99, 0.99, words, color=color, fontsize=14, ha="right", va="top")
    side_mm = field_of_view_mm(case.template, case.query)
    _side(axes[0, 0], "Template", case.template, finding.template_lps, YELLOW)
    _side(axes[1, 0], "Query", case.query, match.query_lps, color)
    for column, plane in enumerate(PLANES, start=1):
        draw_plane(axes[0, column], case.template, finding.window, plane, finding.template_lps, side_mm, YELLOW)
        if match.query_lps is None:
            _projection(axes[1, column], case.query, plane, similarity)
            axes[1, column].set_title(f"{plane}, whole scan in projection", loc="left", fontsize=9)
            continue
        view = (case.query, finding.window, plane, match.query_lps, side_mm, color, finding.truth_lps)
        draw_plane(axes[1, column], *view)
        draw_plane(axes[2, column], *view, similarity)
    _figures(axes[-1, 0], finding, similarity)
    return save(figure, path, f"SAMv2 demo: {finding.label}, {case.title}")


def _side(ax: Any, role: str, scan: Scan, point_lps: Optional[np.ndarray], color: str) -> None:
    """Which scan a row shows, and where in it; no scout without a position."""
    ax.axis("off")
    ax.text(0, 1, role, color=color, fontsize=13, fontweight="bold", va="top", transform=ax.transAxes)
    ax.text(0, 0.92, f"{scan.name}\n{scan.seen}", va="top", transform=ax.transAxes)
    if point_lps is not None:
        scout = ax.inset_axes([0, 0, 1, 0.8])
        _mark(scout, "coronal", _projection(scout, scan, "coronal"), point_lps, color, size=16)


def _figures(ax: Any, finding: Finding, similarity: Similarity) -> None:
    """The numbers of a match, the marks explained, and the color bar of the similarity map."""
    match = finding.match
    lines = [f"similarity  {number(match.similarity, '{:.2f}')}"]
    lines += [f"cycle error  {number(match.cycle_error_mm, '{:.1f} mm')}", f"fixed points  {match.fixed_points}"]
    lines += [f"confidence  {number(match.confidence, '{:.2f}')}", ""]
    if finding.truth_lps is not None and match.query_lps is not None:
        lines += [f"white circle: {PLACES[finding.truth_kind]}"]
    top = 0.76
    if match.query_lps is not None:
        ax.axis("off")
        ax.text(0, 1, "Similarity map", fontsize=13, fontweight="bold", va="top", transform=ax.transAxes)
        top = 0.9
    ax.text(0, top, "\n".join([*lines, *textwrap.wrap(match.reason, 34)]), va="top", transform=ax.transAxes)
    bar = ax.inset_axes([0.05, 0.12, 0.85, 0.04])
    colors = ScalarMappable(Normalize(*similarity.limits), "inferno")
    ax.figure.colorbar(colors, cax=bar, orientation="horizontal", label="cosine similarity")


def sheet_columns(n: int) -> int:
    """Cells side by side in a sheet: three, or fewer where that leaves no gap."""
    return 2 if n == 4 else min(3, max(1, n))


@rc_context(STYLE)
def overview_sheet(path: Path, case: Case) -> Path:
    """All points of a pair of scans: axial template and query slices side by side, with their status."""
    columns = sheet_columns(len(case.findings))
    rows = -(-len(case.findings) // columns)
    width = max(4.3 * columns, 8)
    figure = Figure(figsize=(width, 0.8 + 2.7 * rows), layout="constrained")
    names = f"left: template, {case.template.name}     right: query, {case.query.name}"
    words = textwrap.fill(verdict(case), int(12 * width))
    figure.suptitle(f"{case.title}\n{names}\n{words}", x=0.01, ha="left", fontsize=11)
    side_mm = min(160.0, field_of_view_mm(case.template, case.query))
    cells = figure.subfigures(rows, columns, squeeze=False)
    for cell, finding in zip(cells.flat, case.findings):
        _cell(cell, case, finding, side_mm)
    return save(figure, path, f"SAMv2 demo: {case.title}")


def _cell(cell: Any, case: Case, finding: Finding, side_mm: float) -> None:
    match, color = finding.match, STATUS_STYLE[finding.match.status][1]
    cell.suptitle(f"{finding.label}\n{_cell_note(finding)}", x=0.02, ha="left", fontsize=9)
    cell.text(0.98, 0.98, status_words(match.status), color=color, fontweight="bold", ha="right", va="top")
    left, right = cell.subplots(1, 2)
    draw_plane(left, case.template, finding.window, "axial", finding.template_lps, side_mm, YELLOW)
    if match.query_lps is not None:
        draw_plane(right, case.query, finding.window, "axial", match.query_lps, side_mm, color, finding.truth_lps)
    else:
        right.set(xticks=[], yticks=[], aspect="equal")
        right.text(0.5, 0.5, "no position\ngiven", color=QUIET, ha="center", va="center")


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


@rc_context(STYLE)
def registration_sheet(path: Path, case: RegistrationCase) -> Path:
    """Two rows of three planes through the middle of the fixed scan: scanner coordinates, then registered."""
    figure = Figure(figsize=(11.5, 8.9), layout="constrained")
    lines = [
        case.title,
        f"fixed: {case.fixed.name} (orange)     moving: {case.moving.name} (blue)     gray: both agree",
    ]
    figure.suptitle("\n".join([*lines, *registration_lines(case)]), x=0.01, ha="left", fontsize=10)
    (low,), (high,) = body_box(case.fixed)
    center, side_mm = (low + high) / 2, float((high - low).max())
    axes = figure.subplots(2, 3)
    stages = (("As scanned", np.eye(4)), (AFTER[case.result.status], case.result.matrix))
    for row, (words, matrix) in zip(axes, stages):
        row[0].set_ylabel(words, fontsize=12, color=TEXT)
        for ax, plane in zip(row, PLANES):
            # the moving scan's grid as seen in fixed space aligns it without resampling
            matrix = np.eye(4) if matrix is None else matrix
            moved = Grid(case.moving.grid.shape_zyx, np.linalg.inv(matrix) @ case.moving.grid.ijk_to_lps)
            pair = ((case.fixed, case.fixed.grid), (case.moving, moved))
            grays = [_unit(scan, cut(scan.array, grid, plane, center, side_mm)) for scan, grid in pair]
            _image(ax, fused(*grays), (side_mm, side_mm))
            _letters(ax, plane, center)
    return save(figure, path, f"SAMv2 demo: {case.title}")


def fused(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(h, w, 3) of 0..1: the fixed scan in orange, the moving one in blue, both (h, w) of 0..1."""
    return fixed[..., None] * FIXED_TINT + moving[..., None] * MOVING_TINT


def _unit(scan: Scan, pixels: np.ndarray) -> np.ndarray:
    low, high, _ = window_of(scan, "soft tissue")
    return np.clip((np.nan_to_num(pixels, nan=low) - low) / (high - low), 0, 1)
