"""Trains a network by a recipe (arXiv 2311.15111, sec. 3 and 4): SAM, SAM++, AggSAM, CrossSAM, or the light ones.

    python -m Training.train RECIPE --data INDEX --out DIR [--set section.key=value ...]
    torchrun --nproc-per-node 4 -m Training.train RECIPE --data INDEX --out DIR

RECIPE is a name (see --list) or a YAML file; INDEX is what Training.prepare wrote. OUT receives last.pt (the state to
resume from), log.csv, recipe.yaml and TensorBoard's files. SIGTERM saves and exits with 0; --resume continues as if
nothing had happened. Then: python -m Training.export DIR/last.pt MODEL.safetensors.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any, List, Optional

import yaml

from SAMv2Core.errors import OutputError, UsageError
from SAMv2Core.io.files import write_text
from Training.data.index import Index, read_index
from Training.engine.checkpoint import last_checkpoint
from Training.engine.command import finish
from Training.engine.recipe import Recipe, as_mapping, load_recipe, recipe_names

logger = logging.getLogger("Training")


def main(argv: Optional[List[str]] = None) -> int:
    """Train; the exit codes are those of the command line ``samv2`` (0, 2 usage, 3 data, 4 model, 6 not finite)."""
    options = _parse(argv)
    return finish(lambda: _train(options), options.out)


def _parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help=f"{', '.join(recipe_names())}, or a YAML file")
    parser.add_argument("--data", required=True, help="index of prepared scans, or its folder")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=int, help="the same as --set run.steps=N")
    parser.add_argument("--accumulate", type=int, help="groups per step and process: --set run.accumulate=N")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue the run in OUT")
    again.add_argument("--fresh", action="store_true", help="start anew, overwriting the run in OUT")
    return parser.parse_args(argv)


def _train(options: argparse.Namespace) -> None:
    changes = list(options.set)
    changes += [f"run.{name}={getattr(options, name)}" for name in ("steps", "accumulate") if getattr(options, name)]
    recipe = load_recipe(options.recipe, changes)
    index = read_index(options.data)
    resume = _prepare_folder(options.out, options.resume, options.fresh)
    # Late, so that --help and errors of the recipe need no torch and no Fabric.
    Run = _import_run()
    task = make_task(recipe, index, options.seed, options.precision)
    run = Run(task, recipe, options.out, options.seed, options.device, options.precision, resume)
    if run.fabric.is_global_zero:
        write_text(options.out / "recipe.yaml", yaml.safe_dump(as_mapping(recipe), sort_keys=False))
    finished = run.train()
    logger.info("%s at step %d", "stopped" if finished.stopped else "done", finished.step)


def make_task(recipe: Recipe, index: Index, seed: int, precision: str = "fp32") -> Any:
    """The task that a recipe names.

    :raises InputError: the index lacks what it needs.
    """
    if recipe.task == "lite":
        from Training.tasks.lite import LiteTask

        return LiteTask(recipe, index, seed, precision)
    from Training.tasks.paper import PaperTask

    return PaperTask(recipe, index, seed)


def _import_run() -> Any:
    try:
        from Training.engine.loop import Run
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("lightning"):
            raise
        raise UsageError(
            "Training needs Lightning Fabric.", "pip install lightning-fabric tensorboard pyyaml"
        ) from error
    return Run


def _prepare_folder(out: Path, resume: bool, fresh: bool) -> bool:
    """Make the folder of the run; True when there is a checkpoint to resume from."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {out} cannot be made ({error.strerror}).", "Choose another one.") from error
    has_run = last_checkpoint(out).exists()
    if resume and not has_run:
        # A run that was killed before its first checkpoint starts again from its beginning.
        logger.info("nothing to resume in %s; starting at step 0", out)
    # Under torchrun the other processes arrive when the first may have saved already; its verdict counts.
    if has_run and not (resume or fresh) and os.environ.get("RANK", "0") == "0":
        raise UsageError(f"{out} holds a run already.", "Say --resume or --fresh, or choose another folder.")
    return has_run and not fresh


if __name__ == "__main__":
    sys.exit(main())
