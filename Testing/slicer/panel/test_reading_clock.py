"""Actions and seconds per lesion: of the lesion that is worked on, without the reader's pauses."""

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

from SAMv2SlicerLib.panel.reading_clock import IDLE_SECONDS, ReadingClock


def test_what_comes_before_a_lesion_counts_for_it():
    times = iter([0.0, 3.0, 5.0, 9.0, 10.0, 10.0 + IDLE_SECONDS + 1, 133.0])
    clock = ReadingClock(lambda: next(times))
    clock.count("")  # Add lesion
    clock.count("")  # Track
    clock.count("a", 2)  # both ends
    clock.count("b")
    clock.count("a")  # after a long pause
    clock.count("a")
    assert (clock.effortOf("a").actions, clock.effortOf("a").seconds) == (6, pytest.approx(9.0 + 2.0))
    assert (clock.effortOf("b").actions, clock.effortOf("b").seconds) == (1, pytest.approx(1.0))
    assert clock.lines({"b": "L2", "a": "L1", "c": "L3"}) == [
        "L2: 1 actions, 1 s", "L1: 6 actions, 11 s", "L3: 0 actions, 0 s", "In all: 7 actions, 12 s",
    ]  # fmt: skip
