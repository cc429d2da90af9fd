"""Plots of evaluations as PNG, by matplotlib where it is installed; without a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from SAMv2Core.evaluation.baselines import require
from SAMv2Core.io.files import PathLike, atomic_path

if TYPE_CHECKING:
    from SAMv2Core.evaluation.dls_metrics import Outcome

_BLUE, _ORANGE, _GRAY = "#0072b2", "#d55e00", "#777777"


def check_matplotlib() -> None:
    """:raises UsageError: matplotlib is not installed; asked before the work, not after."""
    require("matplotlib", "matplotlib")


def _figure(size: Tuple[float, float], panels: int) -> Tuple[Any, Sequence[Any]]:
    figure_module = require("matplotlib.figure", "matplotlib")
    figure = figure_module.Figure(figsize=size, layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, panels)).tolist()


def _save(figure: Any, path: PathLike, inputs: Iterable[PathLike]) -> None:
    with atomic_path(path, inputs) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def plot_dls(outcome: Outcome, path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Share of lesions within a distance, and the distance of each lesion against its diameter.

    :raises UsageError: matplotlib is not installed.
    :raises OutputError: the file cannot be written.
    """
    figure, (left, right) = _figure((10, 4), 2)
    distance = outcome.distance_mm
    limits = np.linspace(0, 40, 201)
    left.plot(limits, [100 * np.mean(distance <= limit) for limit in limits], color=_BLUE, label="d ≤ limit (plain)")
    strict = [100 * np.mean(distance <= np.minimum(limit, outcome.diameter_mm / 2)) for limit in limits]
    left.plot(limits, strict, color=_ORANGE, label="d ≤ min(limit, radius) (DLT's rule)")
    left.axvline(10, color=_GRAY, linewidth=0.8, linestyle=":")
    left.set(xlabel="limit, mm", ylabel="lesions, %", ylim=(0, 101), xlim=(0, 40))
    left.legend(loc="lower right")
    right.scatter(outcome.diameter_mm, np.maximum(distance, 0.1), s=9, alpha=0.6, color=_BLUE)
    sizes = np.array([2.0, 200.0])
    right.plot(sizes, sizes / 2, color=_ORANGE, label="radius")
    right.axhline(10, color=_GRAY, linewidth=0.8, linestyle=":")
    right.set(xlabel="long RECIST diameter, mm", ylabel="distance, mm", xscale="log", yscale="log")
    right.legend(loc="upper left")
    _save(figure, path, inputs)


def plot_errors(
    groups: Mapping[str, Sequence[float]], path: PathLike, ylabel: str, inputs: Iterable[PathLike] = ()
) -> None:
    """Box plots of errors, one per group, in the order given.

    :raises UsageError: matplotlib is not installed.
    :raises OutputError: the file cannot be written.
    """
    shown: List[Tuple[str, np.ndarray]] = [(name, np.asarray(errors)) for name, errors in groups.items() if len(errors)]
    figure, (axes,) = _figure((2 + 0.7 * max(len(shown), 2), 5), 1)
    if shown:
        axes.boxplot([errors for _, errors in shown], widths=0.6)
        names = [f"{name} (n {len(errors)})" for name, errors in shown]
        axes.set_xticks(range(1, len(shown) + 1), names, rotation=40, ha="right", fontsize=8)
        if max(float(errors.max()) for _, errors in shown) > 50:
            axes.set_yscale("symlog", linthresh=10)
            axes.yaxis.set_major_formatter("{x:g}")
    axes.set(ylabel=ylabel)
    axes.set_ylim(bottom=0)
    _save(figure, path, inputs)
