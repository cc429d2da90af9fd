"""The training of one round as a command of its own: it may take days, crash or be stopped, the rounds go on."""

from __future__ import annotations

import logging
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import List, Optional, Sequence

from SAMv2Core.errors import ModelError
from SAMv2Core.io.files import write_json
from SAMv2Core.models.catalogue import find_model
from Training.data.index import index_path

logger = logging.getLogger(__name__)

MODEL, FACTS = "model.safetensors", "facts.json"
TRAIN = "{python} -m Training.train {recipe} --data {data} --out {out} --resume --set network.start={start}"


def train_round(folder: Path, start: str, recipe: str, changes: Sequence[str], command: Optional[str]) -> Path:
    """Train on the index of a round's folder, unless its model is there.

    :param start: name or file of the weights to start from.
    :param recipe: of :mod:`Training.train`, with ``key=value`` changes.
    :param command: instead of :mod:`Training.train`; {data} {out} {start} {model} are filled in.
    :returns: the file of the trained weights, in the folder.
    :raises ModelError: the command failed, was stopped before the end, or left no model.
    :raises KeyboardInterrupt: this process was told to stop; the command was, too.
    """
    model, out = folder / MODEL, folder / "train"
    if model.exists():
        return model
    places = {"recipe": recipe, "data": index_path(folder), "out": out, "start": find_model(start), "model": model}
    filled = {key: shlex.quote(str(value)) for key, value in places.items()}
    words = shlex.split((command or TRAIN).format(python=shlex.quote(sys.executable), **filled))
    if command is None:
        words += [word for change in changes for word in ("--set", change)]
    logger.info("Training: %s", shlex.join(words))
    _run(words)
    last = out / "last.pt"
    if not model.exists() and last.exists():
        _check_finished(last)
        write_json(folder / FACTS, {"modalities": ["ct", "mr"], "title": f"{recipe}, {folder.name}"})
        _run([sys.executable, "-m", "Training.export", str(last), str(model), "--facts", str(folder / FACTS)])
    if not model.exists():
        raise ModelError(f"Training left neither {model} nor {last}.", "Let the command write one of them.")
    return model


def _check_finished(last: Path) -> None:
    """:raises ModelError: the run was stopped before its last step."""
    from Training.engine.checkpoint import read_training

    stored = read_training(last)
    wanted = stored.get("recipe", {}).get("run", {}).get("steps", 0)
    if stored.get("step", wanted) < wanted:
        raise ModelError(f"Training stopped at step {stored['step']} of {wanted}.", "Run the same command to go on.")


def _run(command: List[str]) -> None:
    """Run a command; SIGTERM and Ctrl-C reach it too, and it may save before it ends.

    :raises ModelError: it failed. :raises KeyboardInterrupt: stopped.
    """
    child = subprocess.Popen(command)

    def stop(number: int, frame: Optional[FrameType]) -> None:
        child.terminate()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if code:
        raise ModelError(f"The command failed with exit code {code}: {shlex.join(command)}", "Its message is above.")
