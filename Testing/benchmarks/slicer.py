"""What a user of the Slicer module waits for, on two real CT scans with cached embeddings.

    python -m Testing.benchmarks.slicer [--template A.nii.gz --query B.nii.gz] [--points N] [--followed N]

Needs the packages that Testing/slicer/conftest.py names and a scan with landmarks beside it. *Click to match*:
from a point placed on the template to its match in the scene, panel, tables and views included; the first click, which
embeds, is left out. *Follow cursor*: places per second that are looked for while the crosshair moves. *Shown*: of all
landmarks that both scans have, for how many the cursor shows a place, and how far these are from the truth.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[1] / "slicer"
sys.path[:0] = [str(HARNESS), str(HARNESS.parents[1] / "SAMv2Slicer"), str(HARNESS.parents[1])]

# The name of the Qt bindings must not stand anywhere in this file: their feature for PythonQt's property style is
# switched off while a module runs whose source names them without asking for it.
try:
    from standins.install import install

    install()
except ImportError as error:
    print(f"Skipped: {error}; the first lines of Testing/slicer/conftest.py say what to install.")
    sys.exit(0)

import numpy as np  # noqa: E402
import slicer  # noqa: E402
import tour  # noqa: E402
from panel_tools import close, settle  # noqa: E402

from SAMv2SlicerLib.scene import node_geometry  # noqa: E402


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
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--followed", type=int, default=60)
    options = parser.parse_args()
    if not options.template.is_file():
        print(f"Skipped: {options.template} is not here.")
        return
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLInteractionNode")
    tour.addScan(options.template, "Template")
    tour.addScan(options.query, "Query")
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    widget = tour.openPanel()
    widget.panel.parameters.points = points
    landmarks, truth = tour.landmarksLPS(options.template), tour.landmarksLPS(options.query)
    clicked = dict(list(landmarks.items())[: options.points])
    milliseconds = tour.placeLandmarks(widget, points, clicked)
    start, end = node_geometry.pointWorld(points, 0), node_geometry.pointWorld(points, 1)
    began = time.process_time()
    rate = tour.followCursor(widget, [start + (end - start) * t for t in np.linspace(0, 1, options.followed)])
    seconds = time.process_time() - began
    errors = followed(widget, landmarks, truth)
    shown = [error for error in errors if error is not None]
    close(widget)
    print("| what | figure |\n|---|---|")
    print(f"| first click, embedding both scans (or reading them from the cache) | {milliseconds[0] / 1000:.1f} s |")
    median, worst = statistics.median(milliseconds[1:]), max(milliseconds[1:])
    print(f"| click to match, {len(clicked) - 1} clicks | median {median:.0f} ms, worst {worst:.0f} ms |")
    print(f"| follow cursor | {rate:.1f} places/s; {1000 * seconds / options.followed:.0f} CPU-ms each |")
    if shown:
        near = sum(error <= 20 for error in shown)
        text = f"{len(shown)} of {len(errors)}, {near} of these within 20 mm, median {statistics.median(shown):.1f} mm"
        print(f"| landmarks shown by the cursor | {text} |")


if __name__ == "__main__":
    main()
