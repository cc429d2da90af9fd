"""The demo in words: tables for a terminal, and the same figures as plain data for the report."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from SAMv2Core.demo.cases import Case, Finding, RegistrationCase

#: Kind of truth -> what the distance is measured from.
PLACES = {"exact": "the true place", "by eye": "the place read by eye"}
WORDS = {"matched": "matched", "uncertain": "uncertain", "not_found": "not found"}
#: A match of a place read by eye counts as right within this distance: the reading itself is repeatable to
# some 3 mm.
RIGHT_WITHIN_MM = 10.0


def number(value: Optional[float], form: str = "{:.1f}", missing: str = "-") -> str:
    """A figure, or a dash when there is none."""
    return missing if value is None or not np.isfinite(value) else form.format(value)


def position(point_lps: Optional[np.ndarray]) -> str:
    """``L P S`` in whole mm."""
    return "-" if point_lps is None else " ".join(f"{value:6.0f}" for value in point_lps)


def case_rows(case: Case) -> List[List[str]]:
    """Header and one row per point."""
    truths = {finding.truth_kind for finding in case.findings if finding.truth_lps is not None}
    view = any(finding.in_view is not None for finding in case.findings)
    header = ["point", "status", "query L P S (mm)", "similarity", "cycle error", "confidence"]
    header += ["true error" if truths == {"exact"} else "from place by eye"] if truths else []
    header += ["in this scan"] if view else []
    rows = [header]
    for finding in case.findings:
        match = finding.match
        row = [
            finding.label,
            WORDS[match.status],
            position(match.query_lps),
            number(match.similarity, "{:.2f}"),
        ]
        row += [number(match.cycle_error_mm, "{:.1f} mm"), number(match.confidence, "{:.2f}")]
        row += [number(finding.error_mm, "{:.1f} mm")] if truths else []
        row += [{True: "yes", False: "no", None: "?"}[finding.in_view]] if view else []
        rows.append(row)
    return rows


def format_rows(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the header underlined; the first two columns to the left, figures to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for n, row in enumerate(rows):
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
        if n == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def verdict(case: Case) -> str:
    """One line that sums a case up, in counts; never better than the rows say."""
    findings = case.findings
    counts = [f"{_count(findings, status)} {word}" for status, word in WORDS.items() if _count(findings, status)]
    parts = [", ".join(counts) + f" of {len(findings)}"]
    exact = [f.error_mm for f in findings if f.truth_kind == "exact" and f.error_mm is not None]
    if exact:
        parts.append(f"true error median {np.median(exact):.1f} mm, largest {max(exact):.1f} mm")
    parts += _judged(findings)
    return "; ".join(parts) + "."


def _count(findings: Sequence[Finding], status: str) -> int:
    return sum(finding.match.status == status for finding in findings)


def _judged(findings: Sequence[Finding]) -> List[str]:
    """Counts against what a reader sees in the scan."""
    parts = []
    placed = [f for f in findings if f.truth_kind == "by eye"]
    if placed:
        right = sum(f.error_mm is not None and f.error_mm <= RIGHT_WITHIN_MM for f in placed)
        parts.append(f"{right} of {len(placed)} places read by eye found within {RIGHT_WITHIN_MM:.0f} mm")
    outside = [f for f in findings if f.in_view is False]
    if outside:
        refused = sum(f.match.query_lps is None for f in outside)
        parts.append(f"{refused} of {len(outside)} landmarks outside of the scan rightly not found")
    return parts


def registration_lines(case: RegistrationCase) -> List[str]:
    """What the registration gave, in three lines."""
    result = case.result
    residual = result.residual_mm or {}
    lines = [
        f"status {result.status}, {result.inliers} of {result.points_sampled} sampled points agree, "
        f"residual median {number(residual.get('median'))} mm, 95 % below {number(residual.get('p95'))} mm, "
        f"overlap {number(100 * result.overlap, '{:.0f}')} %"
    ]
    if case.before_mm is not None and case.after_mm is not None:
        lines.append(
            f"landmarks to their true places: median {np.median(case.before_mm):.1f} mm before, "
            f"{np.median(case.after_mm):.1f} mm after ({result.transform}; the deformation remains)"
        )
    return lines


def finding_data(finding: Finding) -> Dict[str, Any]:
    """A point as the report stores it: the fields of CLI.md and the demo's own truth."""
    match = finding.match
    return {
        "label": finding.label,
        "template": _plain(finding.template_lps),
        "query": _plain(match.query_lps),
        "similarity": _finite(match.similarity),
        "cycle_error_mm": _finite(match.cycle_error_mm),
        "fixed_points": int(match.fixed_points),
        "confidence": _finite(match.confidence),
        "status": match.status,
        "reason": match.reason,
        "truth": _plain(finding.truth_lps),
        "truth_kind": finding.truth_kind or None,
        "error_mm": _finite(finding.error_mm),
        "in_view": finding.in_view,
    }


def case_data(case: Case) -> Dict[str, Any]:
    """A pair of scans as plain data."""
    return {
        "title": case.title,
        "template": {
            "name": case.template.name,
            "seen": case.template.seen,
            "source": case.template.volume.source,
        },
        "query": {"name": case.query.name, "seen": case.query.seen, "source": case.query.volume.source},
        "summary": verdict(case),
        "seconds": round(case.seconds, 2),
        "points": [finding_data(finding) for finding in case.findings],
        "files": list(case.files),
    }


def registration_data(case: RegistrationCase) -> Dict[str, Any]:
    """The registration as plain data, fields as in CLI.md."""
    return {
        "title": case.title,
        **case.result.to_report(),
        "landmarks_before_mm": None if case.before_mm is None else [_finite(v) for v in case.before_mm],
        "landmarks_after_mm": None if case.after_mm is None else [_finite(v) for v in case.after_mm],
        "seconds": round(case.seconds, 2),
        "files": list(case.files),
    }


def _plain(point: Optional[np.ndarray]) -> Optional[List[float]]:
    return None if point is None else [round(float(value), 3) for value in point]


def _finite(value: Optional[float]) -> Optional[float]:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
