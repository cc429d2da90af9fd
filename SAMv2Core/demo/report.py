"""The end of a demo: ``index.html`` and ``report.json``, made of everything that the tour found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Tuple

from SAMv2Core.demo.fetch import WHEELS
from SAMv2Core.demo.page import page
from SAMv2Core.demo.table import case_data, registration_data
from SAMv2Core.demo.tour import Tour
from SAMv2Core.io import files

TITLE = "SAMv2 demo: one point, found again in other scans"
LEAD = (
    "Yellow marks the point in the template. Blue marks its match in the query, orange an uncertain one; a "
    "point that was not found gets no mark. A white circle is the true place, where it is known. Positions "
    "are in mm, LPS.",
)
LIMITS = (
    "A simulated follow-up is the same patient, rotated, resized, smoothly deformed and scanned differently; "
    "real follow-ups are harder. Places read by eye carry an error of some 3 mm of their own.",
    "For research only; not a medical device. Every match needs a reader's check.",
)


def write_page(tour: Tour) -> Tuple[Path, Dict[str, Any]]:
    """``index.html`` and ``report.json``; returns the page's path and the report's content."""
    info = tour.model.info
    data = {
        "model": {"name": str(info.name), "sha256": str(info.sha256)},
        "method": tour.method,
        "seconds": {stage: round(value, 2) for stage, value in tour.seconds.items()},
        "cases": [case_data(case) for case in tour.cases],
        "registrations": [registration_data(case) for case in tour.registrations],
    }
    files.write_json(tour.output / "report.json", data)
    lead = [*LEAD, f"Model {info.name}, method {tour.method}; {tour.seconds['total']:.0f} s in total."]
    terms = [f"{wheel.name} {wheel.version} (wheel on PyPI): {wheel.content}. {wheel.license}." for wheel in WHEELS]
    path = tour.output / "index.html"
    files.write_text(path, page(TITLE, lead, tour.cases, tour.registrations, [*terms, *LIMITS]))
    return path, data
