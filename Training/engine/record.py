"""What a run leaves to look at: ``log.csv`` (step, name, value) and TensorBoard's files."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any, Dict, List, Mapping

import numpy as np

from SAMv2Core.io.files import write_text

logger = logging.getLogger(__name__)

LOG = "log.csv"
_HEAD = ["step", "name", "value"]


class Record:
    """Writes figures and pictures of a run; rows beyond ``start`` (of a part that was lost) are removed.

    :param folder: of the run.
    :param start: steps done so far.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self._path = folder / LOG
        rows = [row for row in read_log(self._path) if int(row[0]) <= start] if start else []
        write_text(self._path, "\n".join(",".join(map(str, row)) for row in [_HEAD, *rows]) + "\n")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        except ImportError:
            logger.warning("TensorBoard is not installed (pip install tensorboard): figures go to %s alone.", LOG)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row per figure."""
        with open(self._path, "a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([step, name, f"{value:.6g}"] for name, value in values.items())
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Add (h, w, 3) uint8 pictures to TensorBoard."""
        if self._board is not None:
            for name, picture in pictures.items():
                self._board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> List[List[str]]:
    """The rows of a log without its head; empty when there is none. A row cut short by a kill is left out."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == len(_HEAD)]
    return [row for row in rows if row[0].isdigit()]


def series(path: Path, name: str) -> Dict[int, float]:
    """One figure of a log by step."""
    return {int(step): float(value) for step, found, value in read_log(path) if found == name}
