"""A picture built pixel by pixel, with crisp text and marks on top.

Image panels are composed in numpy and drawn without resampling (a CT pixel stays a square of whole screen
pixels); matplotlib, an optional dependency (extra ``demo``), only adds text, lines and the PNG file. The
object interface is used, not pyplot: no global state, no display needed, safe beside Slicer's own Qt.

Coordinates are pixels, (0, 0) is the top left corner.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any, Tuple

import numpy as np

from SAMv2Core.errors import UsageError

DPI = 100

# Dark, as reading rooms are. Marks use the palette of Okabe and Ito, which color-blind readers can tell
# apart; a status is always also a shape and a word.
BACKGROUND = "#0d1117"
OUTSIDE = "#1f2731"
TEXT = "#f0f3f6"
QUIET = "#9da7b3"
YELLOW, BLUE, ORANGE, RED, WHITE = "#F0E442", "#56B4E9", "#E69F00", "#E8704A", "#FFFFFF"
STATUS_STYLE = {
    "matched": ("\u25cf", "Matched", BLUE),
    "uncertain": ("\u25b2", "Uncertain", ORANGE),
    "not_found": ("\u2715", "Not found", RED),
}


def pictures_available() -> bool:
    """Whether matplotlib is installed; found without importing it."""
    return importlib.util.find_spec("matplotlib") is not None


def rgb(color: str) -> np.ndarray:
    """(3,) uint8 of ``#rrggbb``."""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)


class Canvas:
    """An RGB picture of ``width`` x ``height`` pixels."""

    def __init__(self, width: int, height: int) -> None:
        if not pictures_available():
            raise UsageError("Pictures need matplotlib.", "Install it: pip install 'samv2[demo]'.")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.pixels = np.empty((height, width, 3), dtype=np.uint8)
        self.pixels[:] = rgb(BACKGROUND)
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(self._figure)
        self._figure.patch.set_alpha(0)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        # The center of pixel 0 is at 0, as in Slice.to_pixel.
        self._axes.set_xlim(-0.5, width - 0.5)
        self._axes.set_ylim(height - 0.5, -0.5)
        self._axes.axis("off")

    @property
    def size(self) -> Tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    def image(self, x: int, y: int, pixels: np.ndarray) -> None:
        """Put an (h, w, 3) uint8 picture with its top left corner at (x, y)."""
        height, width = pixels.shape[:2]
        self.pixels[y : y + height, x : x + width] = pixels

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        color: str = TEXT,
        bold: bool = False,
        ha: str = "left",
        va: str = "top",
        on_image: bool = False,
    ) -> None:
        """Words of a given pixel size; ``on_image`` puts them on a dark plate, readable on black and on white."""
        plate = {"boxstyle": "square,pad=0.18", "facecolor": "#000000", "alpha": 0.5, "linewidth": 0}
        self._axes.text(
            x,
            y,
            words,
            fontsize=size * 72 / DPI,
            color=color,
            fontweight="bold" if bold else "normal",
            ha=ha,
            va=va,
            bbox=plate if on_image else None,
        )

    def line(self, x: Tuple[float, float], y: Tuple[float, float], color: str, width: float = 1.5) -> None:
        """A straight line with a dark edge."""
        (drawn,) = self._axes.plot(x, y, color=color, linewidth=width * 72 / DPI, solid_capstyle="butt")
        drawn.set_path_effects([_stroke(width * 72 / DPI + 1.6)])

    def cross(self, x: float, y: float, color: str, gap: float = 7, arm: float = 15, width: float = 2.0) -> None:
        """A crosshair that leaves the place itself free."""
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            ends = ((x + dx * gap, x + dx * (gap + arm)), (y + dy * gap, y + dy * (gap + arm)))
            self.line(ends[0], ends[1], color, width)

    def ring(self, x: float, y: float, color: str, radius: float = 9, width: float = 2.0, dashed: bool = False) -> None:
        """A circle, for the true place beside a crosshair."""
        from matplotlib.patches import Circle

        style = (0, (3, 2)) if dashed else "solid"
        drawn = Circle((x, y), radius, fill=False, edgecolor=color, linewidth=width * 72 / DPI, linestyle=style)
        drawn.set_path_effects([_stroke(width * 72 / DPI + 1.6)])
        self._axes.add_patch(drawn)

    def chip(self, x: float, y: float, status: str, size: float = 15, ha: str = "left") -> None:
        """A status: shape, word and color."""
        glyph, word, color = STATUS_STYLE[status]
        self.text(x, y, f"{glyph} {word}", size, color, bold=True, ha=ha, va="center")

    def save(self, path: Path, description: str = "") -> Path:
        """Write the PNG under a temporary name, then rename it."""
        from PIL import Image, PngImagePlugin

        # Composed here and not by matplotlib's figimage, which resamples and takes a second per picture.
        drawn: Any = self._figure.canvas  # an Agg canvas, which the base class's type does not tell
        drawn.draw()
        marks = np.asarray(drawn.buffer_rgba(), dtype=np.float32)
        alpha = marks[..., 3:] / 255
        picture = (self.pixels * (1 - alpha) + marks[..., :3] * alpha + 0.5).astype(np.uint8)
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Description", description)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", pnginfo=notes)
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
        return path


def _stroke(width: float) -> Any:
    from matplotlib.patheffects import withStroke

    return withStroke(linewidth=width, foreground="#000000", alpha=0.75)
