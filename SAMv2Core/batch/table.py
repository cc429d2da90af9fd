"""The table of a batch: a column per option of the command, a row per run.

Rows are made while they are asked for: a table of 200,000 studies is gone through in seconds, as often as wanted, and
takes the memory of its text. Paths are relative to the table, names of outputs to the folder of the row, which lies in
one of 256 folders (the first two digits of the SHA-256 of its name), because file systems and people's tools suffer
from folders of 200,000 entries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from SAMv2Core.errors import InputError, SAMv2Error, UsageError
from SAMv2Core.io import tables
from SAMv2Core.io.dicomweb import is_address

ABSENT = "-"  # a follow-up without a segmentation


@dataclass(frozen=True)
class Command:
    """What the table must know of a command: its columns by kind, and the file of its result."""

    name: str
    needed: Tuple[str, ...]
    volumes: Tuple[str, ...]
    points: Tuple[str, ...]
    outputs: Tuple[str, ...]
    result: str
    other_files: Tuple[str, ...] = ()
    several: Tuple[str, ...] = ()


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "match",
            needed=("template", "query", "points"),
            volumes=("template", "query"),
            points=("points",),
            outputs=("similarity_map",),
            result="points.mrk.json",
        ),
        Command(
            "track",
            needed=("baseline", "follow_up", "lesions"),
            volumes=("baseline", "follow_up", "follow_up_lesions"),
            points=("lesions",),
            outputs=("markups", "recist", "sr", "presence", "longiseg"),
            result="tracks.csv",
            other_files=("readings",),
            several=("follow_up", "follow_up_lesions", "series_follow_up"),
        ),
        Command(
            "register",
            needed=("fixed", "moving"),
            volumes=("fixed", "moving"),
            points=(),
            outputs=("resampled", "crop", "inverse", "matched_points", "deformable", "sro"),
            result="transform.h5",
            other_files=("initial_transform",),
        ),
    )
}


class Row(NamedTuple):
    """One line of the table.

    name: of its folder; unique. where: for messages. arguments: those of the command but its outputs. inputs: (column,
    path) of every file it reads. outputs: arguments for what it writes beside the result.
    """

    name: str
    where: str
    arguments: List[str]
    inputs: List[Tuple[str, str]]
    outputs: List[str]


class Studies:
    """The rows of a table, checked when it is opened; iterate as often as wanted.

    :param check: is given the arguments of a row and raises what the command would; asked once for every combination
        of options that are no files.
    :raises InputError: not readable, no rows, a needed column missing or empty, a name twice, an option without sense.
    :raises UsageError: a column that is not for the table.
    """

    def __init__(self, path: Path, command: Command, folder: Path, check: Callable[[List[str]], None]) -> None:
        self.command = command
        self._table = tables.open_table(path, max_bytes=tables.MAX_BYTES_OF_STUDIES)
        self._base = str(path.resolve().parent)
        self._path = path
        self._folder = folder
        self.n_rows = self._check(check)

    def _check(self, check: Callable[[List[str]], None]) -> int:
        names, options_seen, n_rows = set(), set(), 0
        files = {*self.command.volumes, *self.command.points, *self.command.other_files, *self.command.outputs, "name"}
        free = [name.lower() for name in self._table.names if name and name.lower() not in files]
        for row, cells in self._iterate():
            n_rows += 1
            # Windows and macOS take A and a for one folder.
            key = row.name.casefold()
            if key in names or row.name in (".", ".."):
                raise InputError(f"{row.where}: the name {row.name!r} cannot be used (again).", "Rename the row.")
            names.add(key)
            # UIDs differ in every row, and any will do.
            options = tuple(name in cells if name.startswith("series") else cells.get(name) for name in free)
            if options not in options_seen:
                options_seen.add(options)
                try:
                    check(row.arguments)
                except SAMv2Error as error:
                    raise InputError(f"{row.where}: {error.cause}", error.remedy) from error
        if not n_rows:
            header = ",".join(self.command.needed)
            raise InputError(f"{self._path} holds no rows.", f"Give a header ({header}) and a row per run.")
        return n_rows

    def __iter__(self) -> Iterator[Row]:
        for row, _ in self._iterate():
            yield row

    def _iterate(self) -> Iterator[Tuple[Row, Dict[str, str]]]:
        for number, row in enumerate(self._table, 1):
            cells = {name: text for name, value in row.cells.items() for text in (value.strip(),) if text}
            yield self._row(number, row.line, cells), cells

    def _place(self, text: str) -> str:
        return text if text == ABSENT or is_address(text) else os.path.join(self._base, text)

    def _row(self, number: int, line: int, cells: Dict[str, str]) -> Row:
        command, where = self.command, f"{self._path}, row {number} (line {line})"
        missing = [name for name in command.needed if name not in cells]
        if missing:
            raise InputError(f"{where}: {', '.join(missing)} is missing.", "Fill in every row.")
        name = re.sub(r"[^\w.-]+", "_", cells.get("name", f"row_{number:04d}"))
        arguments: List[str] = [command.name]
        inputs: List[Tuple[str, str]] = []
        outputs: List[str] = []
        for column, value in cells.items():
            option = f"--{column.replace('_', '-')}"
            if column in ("output", "report"):
                raise UsageError(f"The column {column} is not for the table.", "Results go to the folder of --output.")
            if column == "name":
                continue
            if column in command.outputs:
                outputs += [option, os.path.join(folder_of(self._folder, name), value)]
                continue
            values = [part.strip() for part in value.split(";")] if column in command.several else [value]
            if column in command.volumes or column in command.points or column in command.other_files:
                values = [self._place(text) for text in values]
                inputs += [(column, text) for text in values if text != ABSENT]
            arguments += [option, *values]
        return Row(name, where, arguments, inputs, outputs)


def folder_of(folder: Path, name: str) -> str:
    """The folder of a row's results."""
    return os.path.join(folder, hashlib.sha256(name.encode("utf-8")).hexdigest()[:2], name)


def fingerprint(row: Row, shared: Sequence[str]) -> str:
    """32 digits that change with whatever changes a row's result: its options and the shared ones.

    :param shared: options of the whole batch that change results, not those on memory, threads or caches.
    """
    content = json.dumps([row.arguments, row.outputs, list(shared)])
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:32]
