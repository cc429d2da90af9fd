"""CrossSAM's rounds: register the CT-MR pairs, train on them, register again (arXiv 2311.15111, sec. 3.3, Table 5).

    python -m Training.crosssam_iterate --data INDEX --out DIR --model START [--rounds 2] [--recipe crosssam]
        [--set run.steps=N ...] [--train-command "CMD {data} {out} {start} {model}"]

Round 0 registers every unregistered pair with the model to start from (AggSAM in the paper) and trains CrossSAM_0 on
what passed; round 1 registers again with CrossSAM_0, with a smaller margin, and so on, until the transforms change by
less than ``--converged-mm`` on average or the rounds are used up; the last model registers once more, for the table and
as the final transforms. ``DIR/table.md`` and ``table.csv`` grow with every round; ``DIR/round_N/index.jsonl`` holds the
transforms, ``DIR/round_N/model.safetensors`` the weights trained on them.

Everything may be interrupted at any time: the same command goes on where it was, pair by pair; training resumes from
its last checkpoint. With ``--displace SEED`` the aligned pairs of an index are displaced first
(:mod:`Training.crosssam.displaced`), so that the table can tell errors; ``--truth`` names the truth of an earlier
displacement.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from SAMv2Core.embedding.load import load_model
from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.files import output_error, write_json, write_text
from Training.crosssam.adareg import AdaRegOptions, PairResult, apply_results, register_pair
from Training.crosssam.deformable import METHODS, check_method
from Training.crosssam.displaced import TRUTH, displace, read_truth
from Training.crosssam.round_training import train_round
from Training.crosssam.rounds import Errors, errors, initial_errors, row, to_csv, to_markdown
from Training.data.index import Entry, Index, read_index, write_index
from Training.engine.command import finish

logger = logging.getLogger(__name__)

STATE, PAIRS = "state.json", "pairs.jsonl"
LEAST_MARGIN_MM = 10.0


@dataclass(frozen=True)
class Plan:
    """What a run does; a restarted run must have the same plan.

    :param changes: ``key=value`` of the recipe.
    :param margins_mm: margin of round 0, factor per round, smallest.
    :param truth: file of true transforms, or None.
    :param split: pairs of this split alone (and those without one); None takes all.
    """

    data: str
    model: str
    rounds: int
    recipe: str
    changes: Tuple[str, ...]
    train_command: Optional[str]
    intensities: str
    deformable: str
    margins_mm: Tuple[float, float, float]
    converged_mm: float
    truth: Optional[str]
    split: Optional[str]

    def options(self, number: int) -> AdaRegOptions:
        """Of AdaReg in a round: the margin shrinks."""
        first, factor, least = self.margins_mm
        return AdaRegOptions(self.intensities, self.deformable, max(least, first * factor**number))


def iterate(plan: Plan, out: Path) -> List[Dict[str, Any]]:
    """Run or continue all rounds.

    :returns: the rows of the table.
    :raises InputError: no unregistered pair, or none that passed. :raises ModelError: training failed.
    """
    index = read_index(plan.data)
    pairs = [pair for pair in index.pairs(plan.split) if pair[0].partner_matrix is None]
    if not pairs:
        raise InputError(
            f"{plan.data}: every CT-MR pair is registered already.", "Displace them to measure: --displace."
        )
    check_method(plan.deformable)
    _remember(plan, out)
    truths = read_truth(Path(plan.truth)) if plan.truth else {}
    truths = {first.name: truths[first.name] for first, _ in pairs} if truths else {}
    rows = [row("initial", [], initial_errors(index, truths))] if truths else []
    start = plan.model
    previous: Dict[str, PairResult] = {}
    for number in range(plan.rounds + 1):
        folder = _made(out / f"round_{number}")
        results = _register_all(plan, index, pairs, start, previous, folder, number)
        name = "start" if number == 0 else f"CrossSAM_{number - 1}"
        rows.append(row(name, results, _errors_of(index, results, truths, folder)))
        _publish(rows, out)
        _write_round(plan, index, results, folder, number)
        if number == plan.rounds or _has_converged(plan, results):
            break
        start = str(train_round(folder, start, plan.recipe, plan.changes, plan.train_command))
        previous = {result.first: result for result in results}
    return rows


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    return folder


def _remember(plan: Plan, out: Path) -> None:
    """Write the plan, or compare it with the one that the folder was started with.

    :raises UsageError: another plan.
    """
    path = _made(out) / STATE
    now = json.loads(json.dumps(dataclasses.asdict(plan)))
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is damaged.", "Choose another --out, or say --fresh.") from error
        # More rounds may be added to a finished run.
        changed = sorted(key for key in now if key != "rounds" and now[key] != before.get(key))
        if changed:
            raise UsageError(
                f"{out} was started with another {', '.join(changed)}.", "Choose another --out, or --fresh."
            )
    write_json(path, now)


def _register_all(
    plan: Plan,
    index: Index,
    pairs: List[Tuple[Entry, Entry]],
    start: str,
    previous: Dict[str, PairResult],
    folder: Path,
    number: int,
) -> List[PairResult]:
    """One result per pair; those in ``pairs.jsonl`` are not registered again."""
    done = _finished_pairs(folder)
    todo = [pair for pair in pairs if pair[0].name not in done]
    logger.info("Round %d: %d pairs to register with %s.", number, len(todo), start)
    model = load_model(start) if todo else None
    with open(folder / PAIRS, "a", encoding="utf-8") as journal:
        for n, pair in enumerate(todo, start=1):
            assert model is not None
            result = register_pair(index, pair, model, plan.options(number), folder, previous.get(pair[0].name))
            done[result.first] = result
            try:
                journal.write(json.dumps(dataclasses.asdict(result)) + "\n")
                journal.flush()
            except OSError as error:
                raise output_error(folder / PAIRS, error) from error
            logger.info("%d/%d %s: %s %s", n, len(todo), result.first, result.status, "; ".join(result.reasons))
    return [done[first.name] for first, _ in pairs]


def _finished_pairs(folder: Path) -> Dict[str, PairResult]:
    """Of an interrupted round; a torn last line is dropped, and cut off so that the next one starts a line."""
    path = folder / PAIRS
    if not path.exists():
        return {}
    done: Dict[str, PairResult] = {}
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            result = PairResult.from_json(json.loads(line))
        except (ValueError, TypeError, AttributeError):
            continue
        done[result.first] = result
        lines.append(line + "\n")
    write_text(path, "".join(lines))
    return done


def _errors_of(
    index: Index, results: List[PairResult], truths: Dict[str, np.ndarray], folder: Path
) -> Optional[List[Errors]]:
    if not truths:
        return None
    found = []
    for result in results:
        field = None if result.field is None else np.load(folder / result.field)
        found.append(errors(index, result, truths[result.first], field))
    return found


def _publish(rows: List[Dict[str, Any]], out: Path) -> None:
    write_text(out / "table.csv", to_csv(rows))
    write_text(out / "table.md", to_markdown(rows))
    logger.info("\n%s", to_markdown(rows))


def _write_round(plan: Plan, index: Index, results: List[PairResult], folder: Path, number: int) -> None:
    """The index to train on; pairs of weight 0 stay in it and are not drawn.

    :raises InputError: no pair passed.
    """
    passed = sum(result.weight > 0 for result in results)
    write_index(folder, apply_results(index, results, folder, plan.options(number)))
    logger.info("Round %d: %d of %d pairs are trained on.", number, passed, len(results))
    if not passed:
        raise InputError(
            "No pair could be registered: there is nothing to train on.",
            f"Look at the reasons in {folder / PAIRS}; start from a model trained on both modalities (aggsam).",
        )


def _has_converged(plan: Plan, results: List[PairResult]) -> bool:
    changes = [result.change_mm for result in results if result.change_mm is not None and result.weight > 0]
    mean = float(np.mean(changes)) if changes else np.inf
    if mean < plan.converged_mm:
        logger.info("Converged: the transforms changed by %.1f mm on average.", mean)
    return mean < plan.converged_mm


def _parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="index of Training.prepare, or its folder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--model", required=True, help="name or file of the model to start from")
    parser.add_argument("--rounds", type=int, default=2, help="of training; default 2, as in the paper")
    parser.add_argument("--recipe", default="crosssam")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--train-command", help="instead of Training.train; {data} {out} {start} {model} are filled in")
    parser.add_argument(
        "--intensities", choices=("auto", "on", "off"), default="auto", help="off: points alone (paper)"
    )
    parser.add_argument("--deformable", choices=METHODS, default="none")
    parser.add_argument("--margin-mm", type=float, default=40.0, help="around the smaller body in round 0")
    parser.add_argument("--margin-factor", type=float, default=0.5, help="per round")
    parser.add_argument("--converged-mm", type=float, default=1.0)
    parser.add_argument("--displace", type=int, metavar="SEED", help="displace the aligned pairs first, to measure")
    parser.add_argument("--truth", type=Path, help="true transforms of a displaced index")
    parser.add_argument("--split", choices=("train", "val"), help="register and train on these pairs alone")
    parser.add_argument("--fresh", action="store_true", help="throw away what is in OUT")
    return parser.parse_args(argv)


def _plan(args: argparse.Namespace) -> Plan:
    if args.rounds < 0 or not 0 < args.margin_factor <= 1 or args.margin_mm <= 0:
        raise UsageError("Rounds, margin or factor make no sense.", "Rounds 0 or more, margin above 0, factor 0..1.")
    data, truth = args.data, args.truth
    if args.displace is not None:
        data = _made(args.out) / "displaced"
        truth = data / TRUTH
        if not truth.exists():
            displace(read_index(args.data), data, args.displace)
    return Plan(
        data=str(data),
        model=str(args.model),
        rounds=args.rounds,
        recipe=args.recipe,
        changes=tuple(args.set),
        train_command=args.train_command,
        intensities=args.intensities,
        deformable=args.deformable,
        margins_mm=(args.margin_mm, args.margin_factor, LEAST_MARGIN_MM),
        converged_mm=args.converged_mm,
        truth=None if truth is None else str(truth),
        split=args.split,
    )


def main(argv: Optional[List[str]] = None) -> int:
    """Exit codes as those of the command line ``samv2``; 130 when interrupted."""
    args = _parse(argv)

    def work() -> None:
        if args.fresh and (args.out / STATE).exists():
            shutil.rmtree(args.out)
        iterate(_plan(args), args.out)

    return finish(work, args.out)


if __name__ == "__main__":
    sys.exit(main())
