"""A progress line on a terminal, and nothing anywhere else.

In a log file or a pipe a line that redraws itself is rubbish, so without a terminal (or with ``--quiet``) the bar stays
silent. Everything that prints to stderr clears the line first (:meth:`ProgressBar.clear`) and lets it come back.
"""

from __future__ import annotations

import shutil
import time
from typing import Callable, Optional, TextIO

from SAMv2Core.progress import Progress

# Redrawing faster than the eye reads costs time on slow remote terminals.
_SECONDS_BETWEEN_DRAWS = 0.1
_BAR_WIDTH = 24


class ProgressBar:
    """One line of text on ``stream``: bar, percentage, what is being done, seconds since the start."""

    def __init__(self, stream: TextIO, enabled: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._enabled = enabled and stream.isatty()
        self._clock = clock
        self._start = clock()
        self._last_draw: Optional[float] = None
        self._is_shown = False

    def update(self, fraction: float, text: str) -> None:
        """Show ``fraction`` (0..1) of the whole command and what is being done now."""
        if not self._enabled:
            return
        now = self._clock()
        if self._last_draw is not None and now - self._last_draw < _SECONDS_BETWEEN_DRAWS and fraction < 1:
            return
        self._last_draw = now
        fraction = min(max(fraction, 0.0), 1.0)
        filled = round(fraction * _BAR_WIDTH)
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        line = f"[{bar}] {fraction:4.0%}  {now - self._start:.0f} s  {text}"
        width = shutil.get_terminal_size().columns - 1
        self._write("\r" + line[:width].ljust(width) + "\r")
        self._is_shown = True

    def clear(self) -> None:
        """Wipe the line, so that something else can be printed in its place."""
        if self._is_shown:
            self._write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self._is_shown = False

    def part(self, low: float, high: float, name: str = "") -> Progress:
        """A progress callback for one stage of the command, which fills the bar from ``low`` to ``high``."""

        def progress(fraction: float, text: str) -> None:
            whole = low + (high - low) * min(max(fraction, 0.0), 1.0)
            self.update(whole, ": ".join(part for part in (name, text) if part))

        return progress

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
