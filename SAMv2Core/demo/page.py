"""The demo's page: tables and pictures of one run in a single HTML file that needs no network."""

from __future__ import annotations

from html import escape
from typing import Iterable, List, Sequence

from SAMv2Core.demo.cases import Case, RegistrationCase
from SAMv2Core.demo.table import case_rows, registration_lines, verdict

STYLE = """
:root { color-scheme: dark light; --ink: #f0f3f6; --quiet: #9da7b3; --paper: #0d1117; --line: #2b333d; }
@media (prefers-color-scheme: light) {
  :root { --ink: #1b2026; --quiet: #57606a; --paper: #ffffff; --line: #d5dbe1; } }
body { margin: 2rem auto; max-width: 1320px; padding: 0 1.25rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
p.quiet, td.quiet, footer { color: var(--quiet); }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { text-align: left; padding: 0.3rem 1.1rem 0.3rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; color: var(--quiet); }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; border-radius: 4px; }
summary { cursor: pointer; padding: 0.5rem 0; }
"""


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
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(text)}</p>" for text in lead)]
    for case in cases:
        body += _case(case)
    for registration in registrations:
        body += _registration(registration)
    body.append("<footer><h2>Data, licenses, limits</h2>")
    body += [f"<p>{escape(text)}</p>" for text in notes]
    body.append("</footer>")
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _case(case: Case) -> List[str]:
    seen = f"Template {case.template.name}: {case.template.seen}. Query {case.query.name}: {case.query.seen}."
    parts = [
        f"<h2>{escape(case.title)}</h2>",
        f"<p>{escape(verdict(case))}</p>",
        f"<p class='quiet'>{escape(seen)}</p>",
    ]
    parts += _table(case_rows(case))
    pictures = [name for name in case.files if name.endswith(".png")]
    parts += [_picture(name, case.title) for name in pictures if name.endswith("overview.png")]
    cards = [name for name in pictures if not name.endswith("overview.png")]
    if cards:
        parts.append(f"<details><summary>{len(cards)} points in three planes, with similarity maps</summary>")
        parts += [_picture(name, case.title) for name in cards]
        parts.append("</details>")
    return parts


def _registration(case: RegistrationCase) -> List[str]:
    parts = [f"<h2>{escape(case.title)}</h2>"]
    parts += [f"<p>{escape(line)}.</p>" for line in registration_lines(case)]
    parts += [_picture(name, case.title) for name in case.files if name.endswith(".png")]
    return parts


def _table(rows: Sequence[Sequence[str]]) -> List[str]:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    lines = ["<div class='scroll'><table>", f"<tr>{head}</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:]]
    return [*lines, "</table></div>"]


def _picture(name: str, title: str) -> str:
    return f"<img loading='lazy' src='{escape(name, quote=True)}' alt='{escape(title, quote=True)}'>"
