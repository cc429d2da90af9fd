"""AdaReg after random rigid displacement of the MR, one row per model, in the form of the paper's Table 5.

    python -m Testing.benchmarks.adareg MODEL [MODEL ...] [--data ../shared/data] [--split train] [--ways off auto]
        [--deformable METHOD] [--report FOLDER] [--pairs N]

The models are those of successive rounds (AggSAM, CrossSAM_0, CrossSAM_1). The MR of every pair of ``ctmr`` is turned
by up to 20 degrees about each axis and moved by up to 60 mm; the truth is the alignment of the data's authors, good to
a few millimeters, so errors below that mean nothing. Two blocks: matches alone, which is the paper's AdaReg and shows
what the embeddings give, and with the intensities of :mod:`SAMv2Core.registration.poses`, which is what this project
uses.

Note which pairs a model was trained on: on ``train`` pairs whose alignment was used in training, the numbers flatter.
Finished pairs are kept in ``--report`` and not registered again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from Testing.benchmarks.common import find_data
from Training.crosssam.adareg import AdaRegOptions, PairResult, embed_pair, register_pair
from Training.crosssam.deformable import METHODS, check_method
from Training.crosssam.displaced import TRUTH, displace, read_truth
from Training.crosssam.rounds import Errors, errors, initial_errors, row, to_csv, to_markdown
from Training.data.index import Entry, Index, read_index
from Training.prepare import prepare

SEED = 0
WAYS = {"off": "points alone", "auto": "with intensities"}


def displaced_pairs(data: Path, split: str, folder: Path) -> Index:
    """The index of displaced pairs in a folder; prepared there when it is not yet."""
    if not (folder / "moved" / TRUTH).exists():
        prepare([data / "ctmr" / split], folder / "prepared", "folder", 1)
        index = read_index(folder / "prepared")
        same = tuple(np.eye(4).ravel().tolist())
        pairs = [pair for first, second in index.pairs(split=None) for pair in (first, second)]
        aligned = tuple(dataclasses.replace(entry, partner_matrix=same) for entry in pairs)
        displace(Index(index.folder, aligned), folder / "moved", SEED)
    return read_index(folder / "moved")


def results_of(
    index: Index, pair: Tuple[Entry, Entry], model: Model, ways: Sequence[str], deformable: str, folder: Path
) -> Dict[str, PairResult]:
    """One result per way; the embeddings are computed once, and finished results are read."""
    paths = {way: folder / f"{pair[0].name}.{way}.{deformable}.json" for way in ways}
    found = {way: PairResult.from_json(json.loads(p.read_text())) for way, p in paths.items() if p.exists()}
    missing = [way for way in ways if way not in found]
    embeddings = embed_pair(index, pair, model) if missing else None
    for way in missing:
        options = AdaRegOptions(way, deformable)
        found[way] = register_pair(index, pair, model, options, folder / way, embeddings=embeddings)
        paths[way].write_text(json.dumps(dataclasses.asdict(found[way])))
    return found


def measured(index: Index, result: PairResult, truth: np.ndarray, folder: Path) -> Errors:
    """The error of a result with its field, if it has one."""
    return errors(index, result, truth, None if result.field is None else np.load(folder / result.field))


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names or files, in the order of the rounds")
    parser.add_argument("--data")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS), help="off: points alone")
    parser.add_argument("--deformable", choices=METHODS, default="none")
    parser.add_argument(
        "--report", type=Path, default=Path("adareg-report"), help="folder of prepared pairs and results"
    )
    parser.add_argument("--pairs", type=int, help="use the first so many only")
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse(argv)
    check_method(args.deformable)
    args.report.mkdir(parents=True, exist_ok=True)
    index = displaced_pairs(find_data(args.data), args.split, args.report)
    pairs = index.pairs(split=None)[: args.pairs]
    known = read_truth(index.folder / TRUTH)
    truths = {first.name: known[first.name] for first, _ in pairs}
    initial = row("initial", [], initial_errors(index, truths))
    tables: Dict[str, List[Dict[str, Any]]] = {way: [initial] for way in args.ways}
    for name in args.models:
        model = load_model(name, "cpu")
        folder = args.report / f"{Path(name).stem}-{model.info.sha256[:8]}"
        folder.mkdir(exist_ok=True)
        found = [results_of(index, pair, model, args.ways, args.deformable, folder) for pair in pairs]
        for way in args.ways:
            chosen = [results[way] for results in found]
            measures = [measured(index, r, truths[r.first], folder / way) for r in chosen]
            tables[way].append(row(Path(name).stem, chosen, measures))
    for way, rows in tables.items():
        print(f"\n{WAYS[way]}\n\n{to_markdown(rows)}")
        (args.report / f"adareg_{way}_{args.deformable}.csv").write_text(to_csv(rows))


if __name__ == "__main__":
    main()
