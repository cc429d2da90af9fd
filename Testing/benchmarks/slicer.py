"""What a user of the Slicer module waits for, by the module itself: its panel with two real CT scans, embedded before.

    python -m Testing.benchmarks.slicer [--template A.nii.gz --query B.nii.gz] [--points N] [--places N] [--publish]

Needs the packages that Testing/slicer/conftest.py names and a scan with landmarks beside it. It computes in a process
of its own, as in Slicer; there are MRML and Qt but no views, what these take :mod:`Testing.benchmarks.tours` tells.
All is done twice, while nothing else is computed and while another scan is embedded. *Click*: from a point placed on
the template to its first match in the scene; the first click, which embeds, is left out. *Places*: the crosshair moves
60 times a second, how many of its places are answered. *Pause*: of a timer of 10 ms in all that, and how much of it is
work of the window's thread: on a busy computer a timer comes late for others' sake. *Shown by the cursor*: of all
landmarks that both scans have, for how many it shows a place, and how far these are from the truth.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[1] / "slicer"
sys.path[:0] = [
    str(HARNESS),
    str(HARNESS / "in_application"),
    str(HARNESS.parents[1] / "SAMv2Slicer"),
    str(HARNESS.parents[1]),
]

# The name of the Qt bindings must not stand anywhere in this file: their feature for PythonQt's property style is
# switched off while a module runs whose source names them without asking for it.
try:
    from standins.install import install

    install()
except ImportError as error:
    print(f"Skipped: {error}; the first lines of Testing/slicer/conftest.py say what to install.")
    sys.exit(0)

import driving  # noqa: E402
import numpy as np  # noqa: E402
import slicer  # noqa: E402
import tour  # noqa: E402
from panel_tools import close, settle  # noqa: E402

from SAMv2SlicerLib.scene import node_geometry  # noqa: E402
from Testing.benchmarks import page, report  # noqa: E402

COLUMNS = ("what", "nothing else to do", "another scan is embedded", "wanted")
WANTED_MS, WANTED_PER_S, WANTED_PAUSE_MS = 150, 15, 50
MOVE_MS = 16


def clicked(widget, points, places):
    """Seconds from each of some points (world RAS), placed one after the other, to its first match in the scene."""
    seconds = []
    with driving.matchMoments(widget.logic) as written:
        for place in places:
            del written[:]
            started = time.monotonic()
            points.AddControlPointWorld(*place)
            driving.waitUntil(lambda: len(written) > 1, 900, "no match that is refined, too")
            seconds.append(written[0] - started)
            driving.wait(200)
    return seconds


def answered_per_s(widget, path):
    """Places per second that are answered while the crosshair goes along a path (N, 3) of world RAS positions."""
    scene, follower, shown = slicer.mrmlScene, widget.panel.matchTab.follower, []
    name = "vtkMRMLCrosshairNode"
    crosshair = scene.GetFirstNodeByClass(name) or scene.AddNewNodeByClass(name)
    show = follower._show
    follower._show = lambda computed: shown.append(1) or show(computed)
    widget.ui.followCursorButton.checked = True
    started = time.monotonic()
    for place in path:
        crosshair.SetCursorPositionRAS(place)
        driving.wait(MOVE_MS)
    elapsed = time.monotonic() - started
    driving.wait(300)
    widget.ui.followCursorButton.checked = False
    del follower._show
    return len(shown) / elapsed


def phase(widget, gaps, points, places, path):
    """The figures of one column."""
    gaps.taken()
    seconds = clicked(widget, points, places)
    rate = answered_per_s(widget, path)
    return {"click_s": seconds, "places_per_s": rate, "window": gaps.taken()}


def rows_of(idle, busy, opening, shown, n_landmarks):
    """The rows of the table."""
    window = [one["window"] for one in (idle, busy)]
    rows = [
        ("click to first match, median (worst), ms", *map(_click, (idle, busy)), WANTED_MS),
        ("places of a moving cursor per second", *(f"{one['places_per_s']:.0f}" for one in (idle, busy)), WANTED_PER_S),
        ("longest pause, ms", *(one["longest_ms"] for one in window), WANTED_PAUSE_MS),
        ("most work of the window's thread in a pause, ms", *(one["longest_work_ms"] for one in window), ""),
        ("work of that thread to build the panel, once, ms", opening["longest_work_ms"], "", ""),
    ]
    if shown:
        near = sum(error <= 20 for error in shown)
        text = f"{len(shown)} of {n_landmarks}, {near} within 20 mm, median {statistics.median(shown):.1f} mm"
        rows.append(("landmarks shown by the cursor", text, "", ""))
    return [dict(zip(COLUMNS, map(str, row))) for row in rows]


def _click(one):
    return f"{1000 * statistics.median(one['click_s']):.0f} ({1000 * max(one['click_s']):.0f})"


def followed(widget, landmarks, truth):
    """[mm or None] per landmark of both scans: how far the place that the cursor shows is from the truth."""
    follower, found = widget.panel.matchTab.follower, []
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    widget.ui.followCursorButton.checked = True
    for name, lps in landmarks.items():
        if name not in truth:
            continue
        crosshair.SetCursorPositionRAS(lps * [-1, -1, 1])
        settle(widget)
        glyph = follower.glyph()
        isShown = glyph is not None and glyph.GetDisplayVisibility()
        place = node_geometry.flipRASAndLPS(node_geometry.pointWorld(glyph, 0)) if isShown else None
        found.append(float(np.linalg.norm(place - truth[name])) if isShown else None)
    widget.ui.followCursorButton.checked = False
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--template", type=Path, default=tour.TEMPLATE)
    parser.add_argument("--query", type=Path, default=tour.QUERY)
    parser.add_argument("--points", type=int, default=12, help="clicks in each of the two columns")
    parser.add_argument("--places", type=int, default=150, help="of the moving cursor")
    parser.add_argument("--publish", action="store_true", help="keep the table and write it into the documents")
    options = parser.parse_args()
    if not options.template.is_file():
        print(f"Skipped: {options.template} is not here.")
        return
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLInteractionNode")
    tour.addScan(options.template, "Template")
    tour.addScan(options.query, "Query")
    noise = np.random.default_rng(0).integers(-1000, 1000, (600, 200, 200), dtype=np.int16)
    noise = slicer.util.addVolumeFromArray(noise, np.diag([2.0, 2.0, 2.0, 1.0]), "Noise")
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    gaps = driving.Gaps()
    widget = tour.openPanel()
    driving.wait(500)
    opening = gaps.taken()
    widget.panel.parameters.points = points
    landmarks, truth = tour.landmarksLPS(options.template), tour.landmarksLPS(options.query)
    first, *places = [lps * [-1, -1, 1] for lps in landmarks.values()][: 1 + 2 * options.points]
    clicked(widget, points, [first])  # embeds, or reads from the cache
    settle(widget, 600)
    path = [first + (places[0] - first) * t for t in np.linspace(0, 1, options.places)]
    half = len(places) // 2
    idle = phase(widget, gaps, points, places[:half], path)
    errors = followed(widget, landmarks, truth)
    job = widget.logic.startEmbedding(noise, modality="ct")
    driving.waitUntil(lambda: job.fraction > 0.05, 300, "the embedding does not begin")
    busy = phase(widget, gaps, points, places[half:], path)
    assert not job.isFinished(), "the embedding ended too early to say anything"
    widget.panel.cancel()
    settle(widget)
    close(widget)
    shown = [error for error in errors if error is not None]
    rows = rows_of(idle, busy, opening, shown, len(errors))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    table = "\n".join([*lines, *("| " + " | ".join(row[name] for name in COLUMNS) + " |" for row in rows)])
    print(table)
    if options.publish:
        names = (path.name.partition(".")[0] for path in (options.template, options.query))
        data = (
            f"{' in '.join(names)}; {half} and {len(places) - half} clicks, {options.places} places; MRML, Qt, no views"
        )
        report.save("slicer", table, rows, data=data)
        page.main([])


if __name__ == "__main__":
    main()
