"""How a long function tells how far it is, and hands on a part of that to what it calls.

A progress is called with (fraction of the whole, 0..1; what is being done) and may raise
:class:`SAMv2Core.errors.Cancelled`, which ends the work.
"""

from __future__ import annotations

from typing import Callable, Optional

Progress = Callable[[float, str], None]


def silent(fraction: float, text: str) -> None:
    """For whoever does not ask."""


def part(progress: Optional[Progress], low: float, high: float, prefix: str = "") -> Progress:
    """A progress of its own, 0..1, for what takes ``low`` to ``high`` of the whole.

    :param prefix: comes before every text.
    """
    if progress is None:
        return silent
    tell = progress
    return lambda fraction, text: tell(low + (high - low) * fraction, prefix + text)
