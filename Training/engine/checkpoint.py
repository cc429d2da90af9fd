"""Checkpoints that are whole or not there: a kill or a full disk at any moment leaves the previous one.

A checkpoint holds everything the next step depends on: weights, running statistics, optimizer, gradient scaler,
moving average and the number of steps done. There are no random states in it, because a step's random numbers are a
function of the seed and its number alone. It also holds the recipe: resuming with another one is an error that names
the differences.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import torch

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.files import PathLike, write_bytes
from Training.engine.recipe import Recipe, as_mapping, differences
from Training.engine.typed import merged

FORMAT = "samv2-training-checkpoint"
VERSION = 1
LAST = "last.pt"

#: What may change between two parts of a run without making it another run.
FREE = ("run.steps", "run.log_every", "run.validate_every", "run.checkpoint_every", "run.keep", "run.workers",
        "run.ahead", "validation.", "about", "name")  # fmt: skip


def write_checkpoint(path: PathLike, state: Mapping[str, Any]) -> None:
    """Write a training state; the file of that name is replaced only by a whole one.

    :raises OutputError: no such folder, not writable, disk full.
    """
    # By way of memory: torch's own writer turns a full disk into an error without a cause.
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    write_bytes(path, buffer.getbuffer())  # type: ignore[arg-type]


def read_training(path: PathLike) -> Dict[str, Any]:
    """What :func:`write_checkpoint` wrote, tensors on the CPU.

    :raises InputError: missing, damaged, or not a checkpoint of this program and version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        text = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} cannot be read as a training checkpoint ({text}).", "Start afresh (--fresh)."
        ) from error
    if not isinstance(state, dict) or (state.get("format"), state.get("version")) != (FORMAT, VERSION):
        raise InputError(f"{path} is not a training checkpoint of this version.", "Start afresh (--fresh).")
    return state


def check_same_run(state: Mapping[str, Any], recipe: Mapping[str, Any], seed: int, groups_per_step: int) -> None:
    """An option that is younger than the checkpoint had its default then.

    :raises UsageError: the checkpoint is of another recipe, seed or number of groups per step.
    """
    before = merged(as_mapping(Recipe()), state["recipe"])
    found: Tuple[str, ...] = tuple(
        text for text in differences(before, recipe) if not text.startswith(FREE) and "run.accumulate" not in text
    )
    if state["seed"] != seed:
        found += (f"seed: {state['seed']} -> {seed}",)
    if state["groups_per_step"] != groups_per_step:
        found += (f"accumulate x processes: {state['groups_per_step']} -> {groups_per_step}",)
    if found:
        shown = "; ".join(found[:4]) + ("; ..." if len(found) > 4 else "")
        raise UsageError(f"The checkpoint belongs to another run ({shown}).", "Use the same options, or --fresh.")


def last_checkpoint(folder: PathLike) -> Path:
    """Where the newest checkpoint of a run lies."""
    return Path(folder) / LAST
