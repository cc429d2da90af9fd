"""What the accuracy benchmarks share: where the scans are, the options, and how a table leaves."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from SAMv2Core.embed import Model


def find_data(argument: Optional[str]) -> Path:
    """The data folder: the argument, $SAMV2_SHARED/data, or ../shared/data beside the checkout."""
    if argument:
        return Path(argument)
    shared = os.environ.get("SAMV2_SHARED") or Path(__file__).resolve().parents[3] / "shared"
    return Path(shared) / "data"


def parse_options(
    argv: Optional[List[str]], description: Optional[str], quick: str, mind: bool = False
) -> argparse.Namespace:
    """``--model``, ``--data``, ``--report`` and ``--quick``, which is explained by ``quick``; ``--mind`` on request."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data")
    parser.add_argument("--report", help="JSON with the table and every trial")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--heads", help="other weights of the heads, as fine=1,coarse=2,semantic=0 (ablation)")
    if mind:
        parser.add_argument("--mind", action="store_true", help="rows of MIND-SSC too, without training (convexAdam)")
    return parser.parse_args(argv)


def publish(
    options: argparse.Namespace, model: Model, table: str, rows: Sequence[Dict[str, Any]], trials: Sequence[Any]
) -> None:
    """Print the Markdown table, and write everything to ``--report`` when that is wanted."""
    print(f"Model {options.model} ({model.info.sha256})\n")
    print(table)
    if options.report:
        facts = {"model": options.model, "sha256": model.info.sha256, "rows": rows}
        Path(options.report).write_text(json.dumps({**facts, "trials": [t._asdict() for t in trials]}, indent=1))
