"""How fast this machine embeds, per device, remembered in Slicer's settings: estimates rest on the last run, not on
constants, also after a restart."""

from __future__ import annotations

import slicer

PREFIX = "SAMv2/VoxelsPerSecond/"
DEVICES = ("auto", "cpu", "cuda", "mps")


def restore(engine) -> None:
    """Give an engine the rates of earlier sessions where it has none of its own."""
    settings = slicer.app.userSettings()
    for device in DEVICES:
        try:
            rate = float(settings.value(PREFIX + device, "0") or 0)
        except (TypeError, ValueError):
            continue
        if rate > 0:
            engine.voxelsPerSecond.setdefault(device, rate)


def store(engine) -> None:
    """Remember an engine's rates."""
    settings = slicer.app.userSettings()
    for device, rate in engine.voxelsPerSecond.items():
        settings.setValue(PREFIX + device, f"{rate:.0f}")
