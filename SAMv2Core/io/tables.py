"""Text tables as people's programs write them: one reader for all of them, and cells that a spreadsheet cannot run.

A table comes from Slicer, from a script or from a spreadsheet, whose country decides on the separator (comma,
semicolon, tab), the decimal sign and the encoding (UTF-8 with or without mark, UTF-16, Windows-1252). The csv module
takes it apart, so that quoted cells may hold separators and line breaks; a row that is longer than its header, or too
short for a column that is needed, is an error, because its cells cannot be told apart.
"""

from __future__ import annotations

import codecs
import csv
import io
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import PathLike

logger = logging.getLogger(__name__)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_DELIMITERS = ",;\t"
_MAX_BYTES = 64 << 20  # a table of a million points has 40 MB
MAX_BYTES_OF_STUDIES = 1 << 30  # a row of a batch has a kilobyte when it names DICOM series by their addresses

# Ends of lines as the csv module knows them; str.splitlines would part cells at form feeds and the like.
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")

# What a spreadsheet takes for a formula; a plain number is none.
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


@dataclass(frozen=True)
class Row:
    """One row: its cells by column (names in lower case; of a short row the first ones), and the number of its last
    line."""

    cells: Dict[str, str]
    line: int


@dataclass(frozen=True)
class Table:
    """Column names as written, rows without the empty ones."""

    names: Tuple[str, ...]
    rows: Tuple[Row, ...]


def read_text(path: PathLike, max_bytes: int = _MAX_BYTES) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 (by its mark or its zeros) or else Windows-1252, with a warning.

    :raises InputError: missing, unreadable, no text, larger than ``max_bytes``.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    if len(content) > max_bytes:
        raise InputError(f"{path} is larger than {max_bytes >> 20} MB: no table or list.", "Check the path.")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None) or _encoding_without_mark(
        content
    )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
        if encoding == "utf-8" and b"\0" not in content:
            text = content.decode("cp1252", errors="replace")
            logger.warning("%s is not UTF-8; it is read as Windows-1252.", path)
    if "\0" in text:
        raise InputError(f"{path} is not a text file (UTF-8, UTF-16 or Windows-1252).", "Save it again as UTF-8.")
    return text


def _encoding_without_mark(content: bytes) -> str:
    """UTF-16 shows by zeros in every other byte of its Latin letters."""
    head = content[:400]
    zeros_first, zeros_second = head[0::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and max(zeros_first, zeros_second) > 0.4 * len(head) / 2:
        return "utf-16-le" if zeros_second > zeros_first else "utf-16-be"
    return "utf-8"


def rows_of(text: str, path: PathLike, delimiter: str = ",") -> List[Tuple[int, List[str]]]:
    """(line, cells) of every row that is not empty.

    :raises InputError: what the csv module cannot take apart.
    """
    return list(_iterate(text, path, delimiter))


def _iterate(text: str, path: PathLike, delimiter: str) -> Iterator[Tuple[int, List[str]]]:
    # Line by line: a StringIO of the whole text takes four bytes a character.
    lines = (found.group() for found in _LINE.finditer(text))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{path} is not a valid table ({error}).", "Save it again as CSV in UTF-8.") from error


@dataclass(frozen=True)
class TableText:
    """A table whose rows are taken apart while they are asked for, as often as wanted, in the same few bytes.

    Iterating raises as :func:`read_table` does for a row with too many or too few cells.
    """

    names: Tuple[str, ...]
    path: PathLike
    text: str = field(repr=False)
    delimiter: str
    needed: Tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        lower = [name.lower() for name in self.names]
        n_needed = max((lower.index(name) + 1 for name in self.needed if name in lower), default=0)
        rows = _iterate(self.text, self.path, self.delimiter)
        next(rows)  # the header
        for line, cells in rows:
            yield Row(_cells_of(lower, cells, n_needed, line, self.path), line)


def open_table(path: PathLike, needed: Sequence[str] = (), max_bytes: int = _MAX_BYTES) -> TableText:
    """A table with a header line, for tables of many rows; parameters and errors as in :func:`read_table`."""
    text = read_text(path, max_bytes)
    first = _first_line(text).strip().strip('"')
    if re.match(r"^sep=.$", first, re.IGNORECASE):  # a spreadsheet's note on its separator
        delimiter, text = first[-1], text.lstrip().partition("\n")[2]
    else:
        delimiter = delimiter_of(text)
    head = next(_iterate(text, path, delimiter), None)
    if head is None:
        raise InputError(f"{path} has no column names: it is empty.", "Save it again as CSV with a header.")
    names = tuple(name.strip() for name in head[1])
    lower = [name.lower() for name in names]
    twice = sorted({name for name in lower if name and lower.count(name) > 1})
    if twice:
        raise InputError(f"{path} has two columns {' '.join(', '.join(twice).split())}.", "Rename one of them.")
    return TableText(names, path, text, delimiter, tuple(needed))


def delimiter_of(text: str) -> str:
    """What parts the cells of the first line."""
    unquoted = re.sub(r'"[^"]*"', "", _first_line(text))
    return max(_DELIMITERS, key=unquoted.count)


def _first_line(text: str) -> str:
    """The first line that is not empty, without a copy of the rest."""
    found = re.match(r"\s*([^\n]*)", text)
    return found.group(1) if found else ""


def read_table(path: PathLike, needed: Sequence[str] = ()) -> Table:
    """A table with a header line.

    :param needed: columns (in lower case) for which every row must have a cell, be it empty; those that the header
        does not have are the caller's business.
    :raises InputError: see :func:`read_text`; no header, a column twice, a row with more cells than it or too few.
    """
    opened = open_table(path, needed)
    return Table(opened.names, tuple(opened))


def _cells_of(names: Sequence[str], cells: List[str], n_needed: int, line: int, path: PathLike) -> Dict[str, str]:
    if any(cell.strip() for cell in cells[len(names) :]) or len(cells) < n_needed:
        raise InputError(
            f"{path}, line {line}: {len(cells)} cells under {len(names)} column names.",
            "Complete the row; numbers with a decimal comma need semicolons between the cells, or quotes.",
        )
    return {name: _unescaped(cell) for name, cell in zip(names, cells) if name}


def number_of(value: Any, where: str) -> float:
    """A number with a decimal point or comma.

    :param where: of the cell, for the message.
    :raises InputError: no number.
    """
    text = str(value).strip().replace("\N{MINUS SIGN}", "-")
    if "," in text:
        # With both signs the last one is the decimal sign; alone, a comma is one: coordinates have no thousands.
        thousands = "." if text.rfind(".") < text.rfind(",") else ","
        text = text.replace(thousands, "").replace(",", ".")
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {value!r} is not a number.", "Correct it.") from None


def safe_cell(value: Any) -> str:
    """A cell's text for a table that may be opened in a spreadsheet: what would be a formula gets a leading apostrophe,
    which :func:`read_table` takes away again."""
    text = "" if value is None else str(value)
    if isinstance(value, str) and _FORMULA.match(text) and not _NUMBER.match(text):
        return f"'{text}"
    return text


def _unescaped(text: str) -> str:
    is_escaped = text.startswith("'") and _FORMULA.match(text[1:]) and not _NUMBER.match(text[1:])
    return text[1:] if is_escaped else text


def table_text(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV text with a header; None is an empty cell, texts that a spreadsheet would run are made harmless."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in names])
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)
    return out.getvalue()
