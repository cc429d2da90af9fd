"""Every figure of README, model cards and Resources/Benchmarks.md, made of the reports that benchmarks keep.

    python -m Testing.benchmarks.page [--check]

Whatever stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in these documents is written anew: NAME is a
report of ``Testing/benchmarks/reports`` or one of :data:`SUMMARIES`. A benchmark's ``--publish`` does this by itself.
``--check`` writes nothing and fails when a document would change; the tests do the same.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from SAMv2Core.evaluation.tables import table
from SAMv2Core.models.catalogue import model_info
from Testing.benchmarks import report
from Testing.benchmarks.report import ROOT, Report

DOCUMENTS = ("README.md", "Resources/Benchmarks.md", "Resources/Models/lite-ct.md", "Resources/Models/lite-ctmr.md")
OLDER = "Other weights than those bundled now."
MARKED = re.compile(r"(<!-- generated: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _mm(value: Optional[float]) -> str:
    return "–" if value is None else f"{value:.1f} mm"


def _percent(value: Optional[float]) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _median(row: Mapping[str, Any]) -> str:
    """The median with its interval, or the word that there is none."""
    bounds = row.get("median_ci95_mm")
    return _mm(row["median_mm"]) + ("" if bounds is None else f" ({bounds[0]:.1f}–{bounds[1]:.1f})")


def section(kept: Report) -> str:
    """A report as the page shows it: where it comes from, its table, its notes."""
    facts = [kept.date, f"commit {kept.commit}", kept.machine]
    model = f"model `{kept.model}` ({kept.sha256[:8]})" if kept.sha256 else f"model {kept.model}"
    facts += [model] if kept.model != "–" else []
    facts += [kept.data] if kept.data else []
    older = "" if is_current(kept) else f" {OLDER}"
    lost = " From before reports were kept: intervals that are not told here are lost." if kept.transcribed else ""
    origin = f"{_code(kept.command)}: *{'; '.join(facts)}.{lost}{older}*"
    return "\n".join([origin, "", *kept.table, *_paragraphs(kept.notes)])


def _code(command: str) -> str:
    return command if "`" in command or not command.startswith(("python ", "samv2 ")) else f"`{command}`"


def _paragraphs(notes: Sequence[str]) -> List[str]:
    return [line for note in notes for line in ("", note)]


def is_current(kept: Report) -> bool:
    """Whether it was measured with the weights that are bundled now."""
    return not kept.sha256 or kept.sha256 == model_info(kept.model).sha256


class Between(NamedTuple):
    """Where the figures between patients come from: kept aside, or validation where only that has today's weights."""

    kept: Report
    method: str
    scans: str

    def row(self, region: str) -> Mapping[str, Any]:
        """Chest, abdomen, ..."""
        return self.kept.row(experiment=f"another patient's {region}", method=self.method)


def between() -> Between:
    """The best source there is."""
    aside, accuracy = report.load("aside"), report.load("accuracy")
    by_region = any(row["experiment"] == "another patient's chest" for row in accuracy.rows)
    if by_region and is_current(accuracy) and not is_current(aside):
        return Between(accuracy, "default", "validation scans")
    return Between(aside, "match", "patients kept aside")


def _lost(row: Mapping[str, Any]) -> Optional[float]:
    """The share reported as not found."""
    return row.get("not_found", None if row.get("found") is None else 1 - row["found"])


def _promise(name: str, row: Mapping[str, Any], measured: str) -> List[str]:
    places = f"{row['n']} places, " if row.get("n") else ""
    return [name, _median(row), _percent(row.get("within_10mm")), _percent(_lost(row)), places + measured]


def promises() -> str:
    """The README's table: what it does well, and what badly."""
    accuracy = report.load("accuracy")
    follow_up = accuracy.row(experiment="simulated follow-up", method="default")
    source = between()
    together = source.row("torso, all but domes")
    limbs = report.load("aside-ctmr").row(experiment="whole MR")
    measured = f"{follow_up['patients']} CTs, *simulated* follow-ups"
    n_matched = together.get("matched_n", round(together.get("matched", 0) * together["n"]))
    rows = [
        _promise("**well:** a CT and its follow-up", follow_up, measured),
        _promise("fairly: another patient's chest", source.row("chest"), source.scans),
        _promise("fairly: another patient's neck", _neck(source), source.scans),
        _promise("badly: another patient's abdomen", source.row("abdomen"), source.scans),
        [
            "CT and T1 MR of a limb, registered",
            _mm(limbs["ours_mm"]),
            "–",
            f"{limbs['n'] - limbs['registered_n']} of {limbs['n']} not called *registered*",
            f"bone points, {limbs['n']} draws of {limbs['pairs']} pairs kept aside",
        ],
    ]
    header = ("two scans", "median error (95 % interval)", "≤ 10 mm", "not found", "measured on")
    sentence = (
        "All places of another patient's torso together (bones too, the tops of liver and lungs apart): "
        f"{_median(together)}, {_percent(together['within_10mm'])} within 10 mm, {_percent(_lost(together))} not found "
        f"({together['n']} places, {together['patients']} patients). {_matched(n_matched, together)} {_landmarks()}"
    )
    older = "" if all(map(is_current, (source.kept, accuracy, report.load("landmarks")))) else f" {OLDER}"
    return f"{table(header, rows)}\n\n{sentence}{older}"


def _matched(n: int, row: Mapping[str, Any]) -> str:
    if not n:
        return "One exemplar of another patient is never called *matched*."
    right = _percent(row["matched_within_10mm"])
    return f"Of {n} matches between patients that were called *matched*, {right} were within 10 mm."


def _landmarks() -> str:
    row = report.load("landmarks").row(name="val patients")
    median, within = row["median_mm"], row["within"]["value"]
    low, high = median["interval"]
    return (
        f"Named landmarks, by many exemplars instead of a template: {_mm(median['value'])} ({low:.1f}–{high:.1f}), "
        f"{_percent(within)} within 10 mm ({row['n']} places, {row['patients']} patients)."
    )


def _neck(source: Between) -> Mapping[str, Any]:
    if source.method == "match":
        return source.row("neck")
    return source.kept.row(experiment="between patients, neck", method=source.method)


def card_lite_ct() -> str:
    """The figures of lite-ct's card: validation scans, and patients kept aside."""
    accuracy = report.load("accuracy")
    rows = [
        [row["experiment"], str(row["n"]), str(row["patients"]), _median(row), _mm(row["mean_mm"])]
        + [_percent(row[key]) for key in ("within_10mm", "found", "matched", "matched_within_10mm")]
        for row in accuracy.rows
        if row["method"] == "default" and "mean_mm" in row and not row["experiment"].startswith("another patient's")
    ]
    header = ("validation scans", "n", "patients", "median", "mean", "≤ 10 mm", "found", "matched", "of these ≤ 10 mm")
    return f"{table(header, rows)}\n\n{_aside(report.load('aside'))}"


def _aside(kept: Report) -> str:
    rows = [
        [row["experiment"], str(row["n"] or "–"), str(row["patients"] or "–"), _median(row)]
        + [_percent(row[key]) for key in ("within_10mm", "not_found")]
        for row in kept.rows
        if row["method"] == "match" and row["experiment"].split()[-1] in ("domes", "chest", "abdomen", "neck")
    ]
    first = "kept aside" if is_current(kept) else "kept aside, the weights before"
    return table((first, "n", "patients", "median (95 % interval)", "≤ 10 mm", "not found"), rows)


def card_lite_ctmr() -> str:
    """The figures of lite-ctmr's card: errors at bone, of validation pairs and of pairs kept aside."""
    bone, aside = report.load("ctmr-bone").table, report.load("aside-ctmr").table
    shown = re.compile(r"\| MR \||.*---|\| [^|]+ \| (ours|the authors' alignment) \|")
    ours = [line for line in bone if shown.match(line)]
    return "\n\n".join(["\n".join(ours), "\n".join(aside)])


SUMMARIES: Dict[str, Callable[[], str]] = {
    "promises": promises,
    "card-lite-ct": card_lite_ct,
    "card-lite-ctmr": card_lite_ctmr,
}


def block(name: str) -> str:
    """What stands between the marks of this name."""
    return SUMMARIES[name]() if name in SUMMARIES else section(report.load(name))


def fill(text: str) -> str:
    """A document with all its blocks written anew."""
    return MARKED.sub(lambda found: f"{found[1]}{block(found[2])}\n{found[4]}", text)


def write(check: bool = False) -> List[str]:
    """Write all documents anew, or only say which would change."""
    changed = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            changed.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    return changed


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a document would change")
    options = parser.parse_args(argv)
    changed = write(options.check)
    print(f"Changed: {', '.join(changed)}" if changed else "Nothing changed.")
    return 1 if changed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
