"""The evaluations' results as Markdown tables, for reports and READMEs."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence

from SAMv2Core.evaluation.dls_metrics import SHARES

_DLS_NAMES = {
    ("dlt", "cpm_10mm"): "dlt CPM@10mm", ("dlt", "cpm_radius"): "dlt CPM@Radius", ("tlt", "cpm_10mm"): "tlt CPM@10mm",
    ("tlt", "cpm_radius"): "tlt CPM@Radius", ("plain", "cpm_10mm"): "plain ≤ 10 mm", ("plain", "in_box"): "in box",
}  # fmt: skip


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: Optional[float], unit: str = "", digits: int = 1) -> str:
    """A figure, or a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def mean_std(spread: Optional[Mapping[str, Any]], suffix: str = "") -> str:
    """``mean ± std`` of a spread, or a dash."""
    if not spread or spread.get(f"mean{suffix}") is None:
        return "–"
    return f"{spread[f'mean{suffix}']:.1f} ± {spread[f'std{suffix}']:.1f}"


def dls_tables(results: Mapping[str, Any]) -> str:
    """All figures, with their intervals, then per size and region."""
    rows = []
    for evaluator, figure in SHARES:
        share = number(results[evaluator][figure], " %", 2)
        rows.append([_DLS_NAMES[evaluator, figure], share, _ci(results, evaluator, figure, " %")])
    dlt = results["dlt"]
    med = "–" if dlt["med_mm"] is None else f"{dlt['med_mm']:.2f} ± {dlt['med_std_mm']:.2f} mm"
    rows.append(["MED", med, _ci(results, "dlt", "med_mm", " mm")])
    for axis, mean, std, interval in zip(
        "XYZ", dlt["med_xyz_mm"], dlt["med_xyz_std_mm"], results["ci95"]["dlt"]["med_xyz_mm"]
    ):
        shown = "–" if mean is None else f"{mean:.2f} ± {std:.2f} mm"
        rows.append([f"MED {axis}", shown, _interval(interval, " mm")])
    parts = [f"{results['n']} lesion pairs, {results['n_predicted']} predicted", table(["figure", "", "95 %"], rows)]
    for key, title in (("by_size", "diameter"), ("by_region", "region")):
        if results.get(key):
            parts.append(_dls_groups(results[key], title))
    return "\n\n".join(parts)


def _dls_groups(groups: Sequence[Mapping[str, Any]], title: str) -> str:
    header = [title, "n", *_DLS_NAMES.values(), "MED"]
    rows = []
    for group in groups:
        shares = [number(group[evaluator][figure], " %") for evaluator, figure in SHARES]
        med = number(group["dlt"]["med_mm"], " mm")
        rows.append([group[title], str(group["n"]), *shares, med])
    return table(header, rows)


def _ci(results: Mapping[str, Any], evaluator: str, figure: str, unit: str) -> str:
    return _interval(results["ci95"][evaluator][figure], unit)


def _interval(interval: Optional[Sequence[float]], unit: str) -> str:
    return "–" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}{unit}"


def landmark_tables(lines: Sequence[Mapping[str, Any]]) -> str:
    """One row per features, method and relation of the scans (of several ones); then mean errors per landmark."""
    rows = []
    for line in lines:
        for relation, found in line["relations"].items():
            if relation != "all" and found["n"] == line["relations"]["all"]["n"]:
                continue  # every pair is of this kind: the same figures again
            statuses = found["statuses"]
            counts = [str(statuses[name]) for name in ("matched", "uncertain", "not_found")]
            everything = found["all"]
            rows.append(
                [
                    line["features"], line["method"], relation, str(found["n"]), mean_std(everything, "_mm"),
                    number(everything["median_mm"]), number(everything["max_mm"]),
                    number(found["within_10mm"], " %", 0), *counts,
                    mean_std(found["found"], "_mm"), number(found["found"]["max_mm"]),
                ]
            )  # fmt: skip
    header = [
        "features", "method", "pairs", "n", "error, mm", "median", "max", "≤ 10 mm", "matched", "uncertain",
        "not found", "error of those found", "max",
    ]  # fmt: skip
    labels = list(dict.fromkeys(entry["label"] for line in lines for entry in line["landmarks"]))
    per_label = []
    for label in labels:
        cells = [label]
        for line in lines:
            own = [entry for entry in line["landmarks"] if entry["label"] == label]
            cells.append(f"{mean_std(own[0]['all'], '_mm')} (n {own[0]['n']})" if own else "–")
        per_label.append(cells)
    names = [f"{line['features']}, {line['method']}" for line in lines]
    return table(header, rows) + "\n\n" + table(["landmark, mean ± std mm", *names], per_label)


def registration_tables(lines: Sequence[Mapping[str, Any]]) -> str:
    """One row per method; then mean errors per landmark."""
    rows = []
    for line in lines:
        tre = line["tre_mm"] or {}
        shares = [number(share, " %", 0) for share in line["pairs_within"].values()]
        rows.append(
            [
                line["method"], f"{line['finished']} of {line['pairs']}", mean_std(tre), number(tre.get("median")),
                number(tre.get("max")), *shares, number(line["dice"], digits=3), number(line["seconds"], " s"),
                number(line["peak_memory_mib"], " MiB", 0), "; ".join(line["errors"]) or "",
            ]
        )  # fmt: skip
    limits = list(lines[0]["pairs_within"]) if lines else []
    header = [
        "method", "finished", "TRE, mm", "median", "max", *(f"pairs ≤ {limit}" for limit in limits), "Dice", "time",
        "memory", "failed because",
    ]  # fmt: skip
    labels = list(dict.fromkeys(label for line in lines for label in line["landmarks"]))
    per_label: List[List[str]] = [
        [label, *(number(line["landmarks"].get(label)) for line in lines)] for label in labels
    ]
    names = [line["method"] for line in lines]
    return table(header, rows) + "\n\n" + table(["landmark, mean mm", *names], per_label)
