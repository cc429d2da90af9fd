"""The end of a demo: ``index.html``, one file that needs no network, and ``report.json``."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template
from typing import Any, Dict, Iterable, Sequence, Tuple

from SAMv2Core.demo.cases import Case, RegistrationCase
from SAMv2Core.demo.fetch import WHEELS
from SAMv2Core.demo.table import case_data, case_rows, registration_data, registration_lines, verdict
from SAMv2Core.demo.tour import Tour
from SAMv2Core.io import files

TITLE = "SAMv2 demo: one point, found again in other scans"
LEAD = (
    "Yellow marks the point in the template. Blue marks its match in the query, orange an uncertain one; a "
    "point that was not found gets no mark. A white circle is the true place, where it is known. Positions "
    "are in mm, LPS."
)
LIMITS = (
    "A simulated follow-up is the same patient, rotated, resized, smoothly deformed and scanned differently; "
    "real follow-ups are harder. Places read by eye carry an error of some 3 mm of their own.",
    "For research only; not a medical device. Every match needs a reader's check.",
)
PAGE = Template("""\
<!doctype html>
<html lang='en'>
<head>
<meta charset='utf-8'>
<meta name='viewport' content='width=device-width, initial-scale=1'>
<title>$title</title>
<style>
:root { color-scheme: dark light; --ink: #f0f3f6; --quiet: #9da7b3; --paper: #0d1117; --line: #2b333d; }
@media (prefers-color-scheme: light) {
  :root { --ink: #1b2026; --quiet: #57606a; --paper: #ffffff; --line: #d5dbe1; } }
body { margin: 2rem auto; max-width: 1320px; padding: 0 1.25rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
p.quiet, footer { color: var(--quiet); }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { text-align: left; padding: 0.3rem 1.1rem 0.3rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; color: var(--quiet); }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; border-radius: 4px; }
summary { cursor: pointer; padding: 0.5rem 0; }
</style>
</head>
<body>
<h1>$title</h1>
$lead
$cases
$registrations
<footer><h2>Data, licenses, limits</h2>
$notes
</footer>
</body>
</html>
""")
CASE = Template("""\
<h2>$title</h2>
<p>$verdict</p>
<p class='quiet'>Template $template: $template_seen. Query $query: $query_seen.</p>
<div class='scroll'><table>
$rows
</table></div>
$overview
$cards
""")
CARDS = Template("<details><summary>$n points in three planes, with similarity maps</summary>\n$pictures\n</details>")


def page(
    title: str,
    lead: Sequence[str],
    cases: Iterable[Case],
    registrations: Iterable[RegistrationCase],
    notes: Sequence[str],
) -> str:
    """The whole page.

    :param lead: paragraphs under the title.
    :param notes: paragraphs at the end: data, licenses, limits.
    """
    return PAGE.substitute(
        title=escape(title),
        lead=_paragraphs(lead),
        cases="".join(_case(case) for case in cases),
        registrations="".join(_registration(case) for case in registrations),
        notes=_paragraphs(notes),
    )


def _case(case: Case) -> str:
    head, *rows = case_rows(case)
    cards = [name for name in case.files if name.endswith(".png") and not name.endswith("overview.png")]
    return CASE.substitute(
        title=escape(case.title),
        verdict=escape(verdict(case)),
        template=escape(case.template.name),
        template_seen=escape(case.template.seen),
        query=escape(case.query.name),
        query_seen=escape(case.query.seen),
        rows="\n".join([_row(head, "th"), *(_row(row, "td") for row in rows)]),
        overview=_pictures([name for name in case.files if name.endswith("overview.png")], case.title),
        cards=CARDS.substitute(n=len(cards), pictures=_pictures(cards, case.title)) if cards else "",
    )


def _registration(case: RegistrationCase) -> str:
    lines = _paragraphs([f"{line}." for line in registration_lines(case)])
    pictures = _pictures([name for name in case.files if name.endswith(".png")], case.title)
    return f"<h2>{escape(case.title)}</h2>\n{lines}\n{pictures}\n"


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def _row(cells: Iterable[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _pictures(names: Iterable[str], title: str) -> str:
    return "\n".join(f"<img loading='lazy' src='{escape(name)}' alt='{escape(title)}'>" for name in names)


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
    lead = [LEAD, f"Model {info.name}, method {tour.method}; {tour.seconds['total']:.0f} s in total."]
    terms = [f"{wheel.name} {wheel.version} (wheel on PyPI): {wheel.content}. {wheel.license}." for wheel in WHEELS]
    path = tour.output / "index.html"
    files.write_text(path, page(TITLE, lead, tour.cases, tour.registrations, [*terms, *LIMITS]))
    return path, data
