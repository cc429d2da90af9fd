"""The demo's picture of a registration: both scans laid over each other, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np

from SAMv2Core.demo import canvas as c
from SAMv2Core.demo.canvas import Canvas
from SAMv2Core.demo.cases import RegistrationCase, Scan
from SAMv2Core.demo.panels import draw_panel, window_of
from SAMv2Core.demo.pictures import GAP, MARGIN, NAMES, PANEL
from SAMv2Core.demo.slices import PLANES, Slice, cut
from SAMv2Core.demo.table import registration_lines
from SAMv2Core.geometry.grid import Grid

# Orange and blue add up to gray: where the scans agree there is no color, for color-blind readers too.
FIXED_TINT = np.array([1.0, 0.5, 0.0])
MOVING_TINT = np.array([0.0, 0.5, 1.0])
HEADER = 118
AFTER = {
    "registered": "Registered",
    "uncertain": "Registered, uncertain",
    "failed": "Failed, nothing was moved",
}


def moved_grid(grid: Grid, fixed_to_moving: Optional[np.ndarray]) -> Grid:
    """The moving volume's grid as seen in fixed space, which aligns it without resampling."""
    if fixed_to_moving is None:
        return grid
    return Grid(grid.shape_zyx, np.linalg.inv(fixed_to_moving) @ grid.ijk_to_lps)


def fused(fixed: np.ndarray, moving: np.ndarray, fixed_range: Tuple, moving_range: Tuple) -> np.ndarray:
    """(h, w, 3) uint8: the fixed scan in orange, the moving one in blue; outside of a scan is black."""
    a, b = (_unit(pixels, *limits) for pixels, limits in ((fixed, fixed_range), (moving, moving_range)))
    return ((a[..., None] * FIXED_TINT + b[..., None] * MOVING_TINT) * 255).astype(np.uint8)


def _unit(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((np.nan_to_num(pixels, nan=low) - low) / (high - low), 0, 1)


def registration_sheet(path: Path, case: RegistrationCase) -> Path:
    """Two rows of three planes through the middle of the fixed scan: scanner coordinates, then registered."""
    canvas = Canvas(2 * MARGIN + 3 * PANEL + 2 * GAP, HEADER + 2 * (PANEL + GAP) + 2 * 26 + MARGIN - GAP)
    canvas.text(MARGIN, 30, case.title, 21, bold=True, va="center")
    canvas.text(MARGIN, 58, f"fixed: {case.fixed.name}", 14, "#FF9A3D", va="center")
    canvas.text(MARGIN + 300, 58, f"moving: {case.moving.name}", 14, "#4DA6FF", va="center")
    canvas.text(canvas.size[0] - MARGIN, 58, "gray where both agree", 14, c.TEXT, ha="right", va="center")
    for n, line in enumerate(registration_lines(case)):
        canvas.text(MARGIN, 82 + 19 * n, line, 12, c.QUIET, va="center")
    low, high = case.fixed.box_lps
    center, fov = (low + high) / 2, float((high - low).max())
    y = HEADER
    for words, matrix in (("As scanned", None), (AFTER[case.result.status], case.result.matrix)):
        canvas.text(MARGIN, y + 11, words, 15, bold=True, va="center")
        y += 26
        for n, name in enumerate(NAMES):
            view, picture = _fusion(case.fixed, case.moving, matrix, name, center, fov)
            draw_panel(canvas, MARGIN + n * (PANEL + GAP), y, view, picture)
        y += PANEL + GAP
    return canvas.save(path, f"SAMv2 demo: {case.title}")


def _fusion(
    fixed: Scan, moving: Scan, matrix: Optional[np.ndarray], name: str, center: np.ndarray, fov_mm: float
) -> Tuple[Slice, np.ndarray]:
    size, step, plane = (PANEL, PANEL), fov_mm / PANEL, PLANES[name]
    below = cut(fixed.array, fixed.grid, plane, center, size, step)
    above = cut(moving.array, moved_grid(moving.grid, matrix), plane, center, size, step)
    ranges = [window_of(scan, "soft tissue")[:2] for scan in (fixed, moving)]
    return below, fused(below.pixels, above.pixels, ranges[0], ranges[1])
