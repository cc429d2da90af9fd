"""What there is to prepare: one :class:`Job` per scan, and the reading of names and tables that make jobs."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from SAMv2Core.errors import InputError
from SAMv2Core.io.files import suffix_of

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "1": "train", "2": "val", "": None}


@dataclass(frozen=True)
class Labels:
    """A label file: a map of ids, or, with ``value``, one structure whose non-zero voxels get this id."""

    path: Path
    value: Optional[int] = None


@dataclass(frozen=True)
class Job:
    """One scan to prepare.

    :param name: unique; arrays are named after it.
    :param image: a volume file or the folder of a DICOM series.
    :param series: SeriesInstanceUID, when the folder holds several.
    :param labels: files to merge, later ones over earlier ones.
    :param label_names: by id as text.
    :param partner: name of the job of the other modality.
    :param partner_matrix: (16,) LPS, own points to the partner's, when it is known.
    """

    name: str
    group: str
    image: Path
    modality: str = "auto"
    series: Optional[str] = None
    labels: Tuple[Labels, ...] = ()
    label_names: Optional[Dict[str, str]] = None
    split: Optional[str] = None
    partner: Optional[str] = None
    partner_matrix: Optional[Tuple[float, ...]] = None


def stem_of(path: Path) -> str:
    """File name without its suffix, ``.nii.gz`` whole."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def safe_name(text: str) -> str:
    """Letters, digits, ``._-`` only; path separators become ``__``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("/", "__").replace("\\", "__")).strip("-.") or "scan"


def volumes_below(folder: Path) -> List[Path]:
    """Volume files of a folder and its subfolders, sorted; hidden ones left out."""
    found = (p for p in folder.rglob("*") if suffix_of(p) in VOLUME_SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def csv_rows(path: Path) -> List[Dict[str, str]]:
    """Rows of a CSV whose columns are separated by commas, semicolons or tabs; keys in lower case.

    :raises InputError: it cannot be read as text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Save it as UTF-8 text.") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    return [{str(k).strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(v, (str, type(None)))}
            for row in rows]  # fmt: skip


def split_of(text: str, where: str) -> Optional[str]:
    """``"train"``, ``"val"`` or None, from the words and numbers that tables use.

    :raises InputError: another word.
    """
    if text.lower() not in _SPLITS:
        raise InputError(f"{where}: split {text!r} is none of train, val.", "Correct it, or leave it empty.")
    return _SPLITS[text.lower()]


def unique(jobs: Sequence[Job]) -> List[Job]:
    """The jobs of several sources with names made unique; a file that is listed twice stays once."""
    kept: Dict[str, Job] = {}
    for job in jobs:
        name, n = job.name, 2
        while name in kept and (kept[name].image, kept[name].series) != (job.image, job.series):
            name, n = f"{job.name}-{n}", n + 1
        if name not in kept and not (name != job.name and job.partner):
            kept[name] = replace(job, name=name)
        elif name not in kept:
            raise InputError(f"Two pairs are called {job.name!r}.", "Give the lists of pairs different file names.")
    return list(kept.values())
