"""What the accuracy benchmarks share: where the scans are, the options, and how a table leaves."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.embedding.model import Model
from SAMv2Core.models.catalogue import ModelInfo
from Testing.benchmarks import page, report


def find_data(argument: Optional[str]) -> Path:
    """The data folder: the argument, $SAMV2_SHARED/data, or ../shared/data beside the checkout."""
    if argument:
        return Path(argument)
    shared = os.environ.get("SAMV2_SHARED") or Path(__file__).resolve().parents[3] / "shared"
    return Path(shared) / "data"


def scan_paths(folder: Path) -> List[Path]:
    """The scans of a folder, without the label maps beside them."""
    return [path for path in sorted(folder.glob("*.nii.gz")) if "_labels" not in path.name]


def parse_options(
    argv: Optional[List[str]], description: Optional[str], quick: str, accuracy: bool = False
) -> argparse.Namespace:
    """``--model``, ``--data``, ``--report``, ``--quick`` (``quick`` explains it); the accuracy table's on request."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data")
    parser.add_argument("--report", help="JSON with the table and every trial")
    parser.add_argument("--quick", action="store_true", help=quick)
    add_publish_option(parser)
    if accuracy:
        parser.add_argument("--against", help="other weights, compared point by point")
        parser.add_argument("--queries", choices=("val", "train", "both"), default="val", help="torsos searched in")
        parser.add_argument(
            "--templates", choices=("val", "train", "both"), default="both", help="torsos searched from"
        )
        usual = ["nearest", "fixed-point", "default", "sparse-sampling"]
        parser.add_argument("--methods", nargs="+", default=usual, help="also: paper (eq. 4-5, slow)")
        parser.add_argument("--only", nargs="+", help="some of torso, simulated, follow-up, neck, mr")
        parser.add_argument("--heads", help="other weights of the heads, as fine=1,coarse=2,semantic=0")
        parser.add_argument(
            "--ablation", action="store_true", help="without each stage of the default, and paired with it"
        )
        parser.add_argument("--mind", action="store_true", help="rows of MIND-SSC too (convexAdam)")
        parser.add_argument("--oracle", action="store_true", help="what limits the matches between patients")
        parser.add_argument("--labels", action="store_true", help="a table of the errors by landmark, too")
    options = parser.parse_args(argv)
    check_publish(parser, options)
    return options


def add_publish_option(parser: argparse.ArgumentParser) -> None:
    """``--publish``, for every benchmark whose table stands in Resources/Benchmarks.md."""
    parser.add_argument(
        "--publish",
        action="store_true",
        help="keep the table in Testing/benchmarks/reports and write README, cards and Resources/Benchmarks.md anew",
    )


def check_publish(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse ``--publish`` before hours were spent: of changed code, and of ``--quick``."""
    if options.publish and report.is_dirty():
        parser.error("--publish: commit your changes first, so that the figures belong to a commit")
    if options.publish and getattr(options, "quick", False):
        parser.error("--publish: not with --quick")


def keep(name: str, table: str, rows: Sequence[Dict[str, Any]], info: Optional[ModelInfo], data: str) -> None:
    """What ``--publish`` does: keep the report, write the documents.

    :param info: the model that was measured, None where none took part.
    :param data: in words, how many scans of which folders.
    """
    model, sha256 = ("–", "") if info is None else (info.name, info.sha256)
    report.save(name, table, rows, model, sha256, data)
    changed = page.write()
    print(f"\nKept as {name}; {', '.join(changed) or 'no document'} changed.")


def publish(
    options: argparse.Namespace,
    model: Model,
    name: str,
    table: str,
    rows: Sequence[Dict[str, Any]],
    trials: Sequence[Any],
    data: str,
) -> None:
    """Print the Markdown table, write everything to ``--report`` and keep it by ``--publish`` when that is wanted.

    :param name: of the report that ``--publish`` keeps.
    :param data: in words, how many scans of which folders.
    """
    print(f"Model {options.model} ({model.info.sha256})\n")
    print(table)
    if options.report:
        facts = {"model": options.model, "sha256": model.info.sha256, "rows": rows}
        Path(options.report).write_text(json.dumps({**facts, "trials": [t._asdict() for t in trials]}, indent=1))
    if options.publish:
        keep(name, table, rows, model.info, data)


N_BINS = 10


def expected_calibration_error(confidence: Any, is_right: Any) -> float:
    """Mean of |share right - mean confidence| over ten bins of confidence, weighted by their sizes."""
    sure, right = np.asarray(confidence, dtype=float), np.asarray(is_right, dtype=float)
    bins = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    gaps = [np.mean(bins == n) * abs(right[bins == n].mean() - sure[bins == n].mean()) for n in np.unique(bins)]
    return float(sum(gaps))


def reliability_plot(lines: Mapping[str, Sequence[Tuple[float, bool]]], path: str, title: str) -> None:
    """Share of right results against confidence, dots as large as they are many; perfect ones lie on the diagonal.

    :param lines: name -> (confidence, whether it was right) of every result.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(6, 7), height_ratios=(3, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for name, results in lines.items():
        if not results:
            continue
        sure, right = (np.array(column, dtype=float) for column in zip(*results))
        bins = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
        used = [n for n in range(N_BINS) if np.any(bins == n)]
        label = f"{name}: n {len(sure)}, ECE {expected_calibration_error(sure, right):.3f}"
        at, share = [sure[bins == n].mean() for n in used], [right[bins == n].mean() for n in used]
        (line,) = above.plot(at, share, linewidth=1)
        # Area by number: what three results say is chance.
        sizes = [1 + 400 * np.mean(bins == n) for n in used]
        above.scatter(at, share, sizes, color=line.get_color(), alpha=0.7, label=label)
        below.hist(sure, bins=N_BINS, range=(0, 1), histtype="step")
    above.set(ylabel="share within 10 mm", title=title)
    legend = above.legend(fontsize=8)
    for handle in legend.legend_handles:
        handle.set_sizes([30])
    below.set(xlabel="confidence", ylabel="results")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
