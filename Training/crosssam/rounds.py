"""What the rounds of AdaReg and training reach, as a table in the form of the paper's Table 5.

One row per model (initial position, the model to start from, CrossSAM_0, CrossSAM_1 ...), rigid and with the deformable
refinement. Where the truth is known (:mod:`Training.crosssam.displaced`) the error is the distance between where the
transform and the truth put points of the body of the second scan, averaged over the body, in millimeters; the paper
gives Dice of organs instead, which need labels in both modalities.
"""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from SAMv2Core.geometry.grid import transform_points
from Training.crosssam.adareg import PairResult, body_points
from Training.data.index import Index, field_at

NEAR_MM = 10.0
COLUMNS = (
    "round", "pairs", "registered", "uncertain", "failed", "explained", "change_mm",
    "rigid_median_mm", "rigid_mean_mm", "rigid_near", "deformable_median_mm", "deformable_mean_mm", "deformable_near",
    "used_median_mm", "used_near",
)  # fmt: skip


class Errors(NamedTuple):
    """Mean distance to the truth over the body, mm; deformable is None without a field."""

    rigid_mm: float
    deformable_mm: Optional[float]


def errors(index: Index, result: PairResult, truth: np.ndarray, field: Optional[np.ndarray] = None) -> Errors:
    """How far a result is from the truth, over the body of the second scan that the first one shows.

    :param index: in which the pair was registered.
    :param truth: (4, 4), first to second.
    :param field: of the result, on the lattice of the first scan in ``index``.
    """
    first, second = index[result.first], index[result.second]
    points = transform_points(np.linalg.inv(truth), body_points(index, second))
    inside = first.grid.contains(points)
    points = points[inside] if inside.any() else points
    expected, found = transform_points(truth, points), transform_points(result.to_second, points)
    rigid = float(np.linalg.norm(found - expected, axis=1).mean())
    if field is None:
        return Errors(rigid, None)
    bent = found + field_at(field, first.grid, points)
    return Errors(rigid, float(np.linalg.norm(bent - expected, axis=1).mean()))


def initial_errors(index: Index, truths: Mapping[str, np.ndarray]) -> List[Errors]:
    """Of the scans as their headers place them."""
    same = tuple(np.eye(4).ravel().tolist())
    found = []
    for name, truth in truths.items():
        second = index[name].partner
        assert second is not None
        found.append(errors(index, PairResult(name, second, same, "failed", 0.0), truth))
    return found


def row(name: str, results: Sequence[PairResult], found: Optional[Sequence[Errors]] = None) -> Dict[str, Any]:
    """One row of the table; what is not known is None. ``used`` counts the pairs with a weight above 0 alone."""
    out: Dict[str, Any] = dict.fromkeys(COLUMNS)
    out.update(round=name, pairs=len(results) or len(found or ()))
    if results:
        for status in ("registered", "uncertain", "failed"):
            out[status] = sum(result.status == status for result in results)
        out["explained"] = float(np.median([r.inliers / max(r.consistent, 1) for r in results]))
        changes = [r.change_mm for r in results if r.change_mm is not None]
        out["change_mm"] = float(np.mean(changes)) if changes else None
    if found:
        out.update(_summary("rigid", [e.rigid_mm for e in found]))
        # A pair whose field was dropped keeps its rigid transform, and counts with it.
        if any(e.deformable_mm is not None for e in found):
            bent = [e.rigid_mm if e.deformable_mm is None else e.deformable_mm for e in found]
            out.update(_summary("deformable", bent))
        used = [e.rigid_mm for e, r in zip(found, results) if r.weight > 0]
        if used:
            out["used_median_mm"], out["used_near"] = float(np.median(used)), float(np.mean(np.array(used) < NEAR_MM))
    return out


def _summary(kind: str, values: Sequence[float]) -> Dict[str, float]:
    return {
        f"{kind}_median_mm": float(np.median(values)),
        f"{kind}_mean_mm": float(np.mean(values)),
        f"{kind}_near": float(np.mean(np.array(values) < NEAR_MM)),
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """All columns, with empty cells for what is not known."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in one.items()} for one in rows)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None else (f"{value:.4g}" if isinstance(value, float) else value)


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for people: errors as median (mean) mm and the share of pairs below 10 mm."""
    lines = [
        "| round | pairs | registered / uncertain / failed | matches explained | change | error, rigid | < 10 mm "
        "| error, + deformable | < 10 mm | error of used pairs | < 10 mm |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        verdicts = "–" if one["registered"] is None else " / ".join(
            str(one[key]) for key in ("registered", "uncertain", "failed")
        )  # fmt: skip
        cells = [one["round"], str(one["pairs"]), verdicts, _percent(one["explained"]), _mm(one["change_mm"])]
        for kind in ("rigid", "deformable"):
            cells += [_pair(one, kind), _percent(one[f"{kind}_near"])]
        cells += [_mm(one["used_median_mm"]), _percent(one["used_near"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mm(value: Optional[float]) -> str:
    return "–" if value is None else f"{value:.1f} mm"


def _percent(value: Optional[float]) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _pair(one: Mapping[str, Any], kind: str) -> str:
    median, mean = one[f"{kind}_median_mm"], one[f"{kind}_mean_mm"]
    return "–" if median is None else f"{median:.1f} ({mean:.1f}) mm"
