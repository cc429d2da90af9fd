"""The parts that the demo's pictures are made of: gray slices, similarity over them, scale bars, scouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.demo import canvas as c
from SAMv2Core.demo.canvas import Canvas, rgb
from SAMv2Core.demo.cases import Scan
from SAMv2Core.demo.slices import Slice
from SAMv2Core.geometry.grid import Grid

#: Window name -> (width, level) in HU.
WINDOWS: Dict[str, Tuple[float, float]] = {
    "soft tissue": (400.0, 40.0),
    "bone": (1200.0, 250.0),
    "wide": (1400.0, -400.0),
}


ROOM_FOR_POSITION = 300  # pixels; in smaller panels the words would run into the edge letter


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
    """One slice with edge letters, its plane, a note and a scale bar; with its position where there is room."""
    canvas.image(x, y, picture)
    height, width = picture.shape[:2]
    left, right, top, bottom = view.plane.edges
    for px, py, letter, ha, va in (
        (x + 6, y + height / 2, left, "left", "center"),
        (x + width - 7, y + height / 2, right, "right", "center"),
        (x + width / 2, y + 4, top, "center", "top"),
        (x + width / 2, y + height - 5, bottom, "center", "bottom"),
    ):
        canvas.text(px, py, letter, 13, c.TEXT, bold=True, ha=ha, va=va, on_image=True)
    words = f"{view.plane.name}  {depth_words(view)}" if width >= ROOM_FOR_POSITION else view.plane.name
    canvas.text(x + 7, y + 5, words, 12, c.TEXT, on_image=True)
    if note:
        canvas.text(x + width - 7, y + height - 6, note, 11, c.TEXT, ha="right", va="bottom", on_image=True)
    scale_bar(canvas, x + 9, y + height - 10, view.pixel_mm, width)


def depth_words(view: Slice) -> str:
    """Where a plane lies, as radiologists write it: ``S 120 mm`` is 120 mm toward the head."""
    position = view.center_lps[view.plane.depth_axis]
    toward = (("L", "R"), ("P", "A"), ("S", "I"))[view.plane.depth_axis]
    return f"{toward[0] if position >= 0 else toward[1]} {abs(position):.0f} mm"


def scale_bar(canvas: Canvas, x: float, y: float, pixel_mm: float, width_px: int) -> None:
    """A bar of 10, 20, 50 or 100 mm, the longest that takes less than a third of the panel."""
    fits = [mm for mm in (10, 20, 50, 100) if mm / pixel_mm < width_px / 3]
    length_mm = fits[-1] if fits else 10
    end = x + length_mm / pixel_mm
    canvas.line((x, end), (y, y), c.WHITE, 3)
    canvas.text((x + end) / 2, y - 5, f"{length_mm} mm", 11, c.TEXT, ha="center", va="bottom", on_image=True)


def draw_scout(
    canvas: Canvas,
    x: int,
    y: int,
    size: Tuple[int, int],
    scan: Scan,
    point_lps: np.ndarray,
    color: str,
) -> None:
    """The whole scan seen from the front with the point in it; fits and centers in ``size``."""
    view = fit(scan.scout("coronal"), size)
    picture = scout_gray(view.pixels)
    height, width = picture.shape[:2]
    x, y = x + (size[0] - width) // 2, y + (size[1] - height) // 2
    canvas.image(x, y, picture)
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
        self.low = min(float(np.percentile(finite, 97)), self.high - 0.02)
