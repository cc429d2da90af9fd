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
from typing import Optional, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

import SAMv2Core as s
from SAMv2Core.demo import pictures
from SAMv2Core.demo.cases import Case, Finding
from SAMv2Core.demo.fetch import TEMPLATE_WHEEL
from SAMv2Core.demo.tour import Tour, template_with_landmarks, was_seen

FIELD_OF_VIEW_MM = 150.0


@rc_context(pictures.STYLE)
def hero_picture(path: Path, case: Case, finding: Finding, similarity: pictures.Similarity, credit: str) -> Path:
    """Template on the left, query with similarity on the right; axial large, the other planes small."""
    match = finding.match
    side_mm = min(FIELD_OF_VIEW_MM, pictures.field_of_view_mm(case.template, case.query))
    color = pictures.STATUS_STYLE[match.status][1]
    figure = Figure(figsize=(13.4, 5.7), layout="constrained")
    figure.suptitle(finding.label, x=0.01, ha="left", fontsize=18, fontweight="bold")
    words = f"similarity {match.similarity:.2f}    cycle error {match.cycle_error_mm:.1f} mm    "
    figure.text(0.99, 0.98, words + pictures.status_words(match.status), color=color, fontsize=12, ha="right", va="top")
    figure.supxlabel(credit, x=0.01, ha="left", fontsize=8, color=pictures.QUIET)
    shown = (
        ("Template", case.template, finding.template_lps, pictures.YELLOW, None),
        ("Query", case.query, match.query_lps, color, similarity),
    )
    for half, (role, scan, point, tint, heat) in zip(figure.subfigures(1, 2), shown):
        half.suptitle(f"{role}: {scan.name}, {scan.seen}", x=0.01, ha="left", fontsize=11, color=tint)
        layout = [["axial", "coronal"], ["axial", "sagittal"]]
        axes = half.subplot_mosaic(layout, gridspec_kw={"width_ratios": [2.1, 1]})
        for plane, ax in axes.items():
            pictures.draw_plane(ax, scan, finding.window, plane, point, side_mm, tint, similarity=heat)
    return pictures.save(figure, path, f"SAMv2: {finding.label}, {case.title}")


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
    hero_picture(args.picture, case, finding, pictures.similarity_of(case, finding), credit)


if __name__ == "__main__":
    main()
