r"""The picture at the head of the README: one landmark of the template, found in another patient.

The template is the demo's, the query a CT that is free to show (LIDC-IDRI-0314, TCIA, CC BY 3.0; the demo's other
patients may not be used commercially) and was not trained on::

    PYTHONPATH=. python Resources/Screenshots/make_match.py Resources/Screenshots/match.png \
        --query ../shared/data/ct/val/LIDC-IDRI-0314.nii.gz --credit "LIDC-IDRI (TCIA), CC BY 3.0"

Both sides have the same scale and are centered on the point; nothing is retouched.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.demo import canvas as c
from SAMv2Core.demo.canvas import STATUS_STYLE, Canvas
from SAMv2Core.demo.cases import Case, Finding, Scan
from SAMv2Core.demo.fetch import TEMPLATE_WHEEL
from SAMv2Core.demo.outputs import similarity_of
from SAMv2Core.demo.panels import Similarity, draw_panel, field_of_view_mm, gray, heat, window_of
from SAMv2Core.demo.slices import PLANES, cut
from SAMv2Core.demo.tour import Tour, template_with_landmarks, was_seen

LARGE, SMALL, GAP, MARGIN, HEADER, MIDDLE, FOOTER = 420, 206, 8, 18, 112, 40, 34
FIELD_OF_VIEW_MM = 150.0
SIDE = LARGE + GAP + SMALL


def hero_picture(path: Path, case: Case, finding: Finding, similarity: Similarity, credit: str) -> Path:
    """Template on the left, query with similarity on the right; axial large, the other planes small."""
    canvas = Canvas(2 * MARGIN + 2 * SIDE + MIDDLE, HEADER + LARGE + FOOTER)
    fov = min(FIELD_OF_VIEW_MM, field_of_view_mm(case.template, case.query))
    match, right = finding.match, MARGIN + SIDE + MIDDLE
    glyph, word, color = STATUS_STYLE[match.status]
    canvas.text(MARGIN, 30, finding.label, 27, bold=True, va="center")
    canvas.text(canvas.size[0] - MARGIN, 30, f"{glyph} {word}", 21, color, bold=True, ha="right", va="center")
    for x, role, scan, tint in (
        (MARGIN, "Template", case.template, c.YELLOW),
        (right, "Query", case.query, color),
    ):
        canvas.text(x, 68, role, 17, tint, bold=True, va="center")
        canvas.text(x, 92, f"{scan.name}, {scan.seen}", 13, c.QUIET, va="center")
    figures = f"similarity {match.similarity:.2f}    cycle error {match.cycle_error_mm:.1f} mm"
    canvas.text(canvas.size[0] - MARGIN, 68, figures, 14, ha="right", va="center")
    _side(canvas, MARGIN, case.template, finding.window, finding.template_lps, fov, c.YELLOW)
    _side(canvas, right, case.query, finding.window, match.query_lps, fov, color, similarity)
    canvas.text(MARGIN + SIDE + MIDDLE / 2, HEADER + LARGE / 2, "\u2192", 34, c.QUIET, ha="center", va="center")
    canvas.text(MARGIN, HEADER + LARGE + FOOTER / 2 + 2, credit, 11, c.QUIET, va="center")
    return canvas.save(path, f"SAMv2: {finding.label}, {case.title}")


def _side(
    canvas: Canvas,
    x: int,
    scan: Scan,
    window: str,
    point_lps: np.ndarray,
    fov_mm: float,
    color: str,
    similarity: Optional[Similarity] = None,
) -> None:
    low, high, note = window_of(scan, window)
    places: Tuple[Tuple[str, int, int, int], ...] = (
        ("axial", x, HEADER, LARGE),
        ("coronal", x + LARGE + GAP, HEADER, SMALL),
        ("sagittal", x + LARGE + GAP, HEADER + SMALL + GAP, SMALL),
    )
    for name, left, top, size in places:
        step = fov_mm / LARGE if size == LARGE else fov_mm / SMALL
        view = cut(scan.array, scan.grid, PLANES[name], point_lps, (size, size), step)
        picture = gray(view.pixels, low, high)
        if similarity is not None:
            over = cut(similarity.array, similarity.grid, view.plane, point_lps, (size, size), step)
            inside = np.where(np.isfinite(view.pixels), over.pixels, np.nan)
            picture = heat(picture, inside, similarity.low, similarity.high)
        draw_panel(canvas, left, top, view, picture, note if size == LARGE else "")
        middle = (size - 1) / 2
        canvas.cross(left + middle, top + middle, color, arm=15 if size == LARGE else 10)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Match the template's landmarks on one patient and draw one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--query", type=Path, required=True, help="a CT that was not trained on")
    parser.add_argument("--credit", required=True, help="source and license of the query")
    parser.add_argument("--landmark", default="Aortic arch, top")
    parser.add_argument("--model", default="lite-ct")
    args = parser.parse_args(argv)
    tour = Tour(args.picture.parent, s.load_model(args.model), with_pictures=False, say=lambda line: None)
    template, points = template_with_landmarks(tour, None)
    name = args.query.name.split(".")[0]
    query = tour.embed(name, s.read_volume(args.query), was_seen(tour.model, False))
    case = tour.find("match", f"{template.name} to {name}", template, query, points)
    finding = next(found for found in case.findings if found.label == args.landmark)
    credit = f"CT, left: {TEMPLATE_WHEEL.credit}.  Right: {args.credit}.  For research only."
    hero_picture(args.picture, case, finding, similarity_of(case, finding), credit)


if __name__ == "__main__":
    main()
