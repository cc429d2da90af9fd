"""Recognises how a folder of scans is laid out, and lists what there is to prepare.

A layout is a function from a folder (or a file) to :class:`Training.data.jobs.Job` objects, one per scan; nothing but
names and DICOM headers is read here. Known layouts:

* ``totalsegmentator``: ``sXXXX/ct.nii.gz`` (or ``mri.nii.gz``) with ``segmentations/*.nii.gz``; split of ``meta.csv``;
* ``nih-lymph``: the CT Lymph Nodes collection, ``ABD_LYMPH_001`` and so on, as DICOM folders or NIfTI, with the masks
  ``*_mask.nii.gz`` when they are in the folder;
* ``deeplesion``: NIfTI volumes ``PPPPPP_SS_RR_AAA-BBB.nii.gz`` around the lesions; split of ``DL_info.csv``;
* ``ctmr-pairs``: a CSV with the columns ``ct,mr`` and, if wanted, ``matrix`` (16 numbers) or ``transform`` (ITK file),
  ``split``, ``ct_labels``, ``mr_labels``; paths relative to the CSV; transforms map CT points to MR points, LPS mm;
* ``samv2``: folders ``ct``, ``hn``, ``ctmr``, ``mr`` with ``train`` and ``val`` and one ``labels.json``;
* ``folder``: anything else: every volume file and every DICOM series below; ``X_labels``, ``X_label``, ``X_seg`` or
  ``X_mask`` beside ``X`` is its label map, ``X_ct`` and ``X_mr`` are a pair.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence

import numpy as np

from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2Core.io.dicom_header import files_of, read_headers
from SAMv2Core.io.transforms import read_transform
from Training.data.jobs import Job, Labels, csv_rows, safe_name, split_of, stem_of, volumes_below

LABEL_ENDINGS = ("_labels", "_label", "_seg", "_mask")
IDENTITY_4 = tuple(float(v) for v in np.eye(4).ravel())
_LYMPH = re.compile(r"(ABD|MED)_LYMPH_\d{3}", re.IGNORECASE)
_DEEPLESION = re.compile(r"^\d{6}_\d{2}_\d{2}_\d{3}-\d{3}$")
_MIN_SLICES = 8


def total_segmentator(root: Path) -> List[Job]:
    """Structures get the same id in every scan: their place in the sorted list of all names."""
    subjects = sorted({p.parent for name in ("ct", "mri") for p in root.glob(f"**/{name}.nii.gz")})
    masks = {s: sorted((s / "segmentations").glob("*.nii.gz")) for s in subjects}
    names = sorted({stem_of(p) for paths in masks.values() for p in paths})
    ids = {name: n for n, name in enumerate(names, start=1)}
    splits = {row.get("image_id", ""): row.get("split", "") for path in (root / "meta.csv",) if path.is_file()
              for row in csv_rows(path)}  # fmt: skip
    jobs = []
    for subject in subjects:
        if splits.get(subject.name) == "test":
            continue
        for file, modality in (("ct.nii.gz", "ct"), ("mri.nii.gz", "mr")):
            if (subject / file).exists():
                jobs.append(
                    Job(
                        safe_name(f"totalsegmentator/{subject.name}"),
                        "totalsegmentator",
                        subject / file,
                        modality,
                        labels=tuple(Labels(p, ids[stem_of(p)]) for p in masks[subject]),
                        label_names={str(ids[stem_of(p)]): stem_of(p) for p in masks[subject]} or None,
                        split=split_of(splits.get(subject.name, ""), f"meta.csv, {subject.name}"),
                    )
                )
    return jobs


def nih_lymph(root: Path) -> List[Job]:
    """The lymph node masks number the nodes; they become one label."""
    masks: Dict[str, Path] = {}
    images: Dict[str, Path] = {}
    for path in volumes_below(root):
        found = _LYMPH.match(path.name)
        if found:
            (masks if "mask" in path.name.lower() else images)[found.group(0).upper()] = path
    for path in sorted(root.rglob("*")):
        if path.is_dir() and _LYMPH.fullmatch(path.name) and any(p.suffix.lower() == ".dcm" for p in path.rglob("*")):
            images.setdefault(path.name.upper(), path)
    return [
        Job(
            safe_name(f"nih-lymph/{case}"), "nih-lymph", images[case], "ct",
            labels=(Labels(masks[case], 1),) if case in masks else (),
            label_names={"1": "lymph_node"} if case in masks else None,
        )
        for case in sorted(images)
    ]  # fmt: skip


def deep_lesion(root: Path) -> List[Job]:
    """Parts of scans around lesions. The file ``DL_info.csv`` splits by patient; its test patients are left out."""
    splits: Dict[str, str] = {}
    tables = [p for p in (root / "DL_info.csv", root.parent / "DL_info.csv") if p.is_file()]
    for row in csv_rows(tables[0]) if tables else ():
        splits["_".join(row.get("file_name", "").split("_")[:3])] = row.get("train_val_test", "")
    jobs = []
    for path in volumes_below(root):
        stem = stem_of(path)
        split = splits.get("_".join(stem.split("_")[:3]), "")
        if _DEEPLESION.match(stem) and split != "3":
            jobs.append(Job(safe_name(f"deeplesion/{stem}"), "deeplesion", path, "ct", split=split_of(split, stem)))
    return jobs


def ctmr_pairs(table: Path) -> List[Job]:
    """A CSV of pairs, or a folder that holds ``pairs.csv``.

    :raises InputError: no such columns, no pair, a matrix that is not 16 numbers.
    """
    table = table / "pairs.csv" if table.is_dir() else table
    rows = csv_rows(table)
    if not rows:
        raise InputError(f"{table} lists no pair.", "Write a header line ct,mr and one line per pair.")
    if not {"ct", "mr"} <= set(rows[0]):
        raise InputError(f"{table} has no columns ct and mr.", "Write a header line: ct,mr[,matrix|transform][,split].")
    jobs = []
    for number, row in enumerate(rows, start=2):
        where = f"{table}, line {number}"
        if not row["ct"] or not row["mr"]:
            raise InputError(f"{where}: ct or mr is empty.", "Name both files.")
        ct, mr = (table.parent / row[key] for key in ("ct", "mr"))
        matrix = _matrix_of(row, table.parent, where)
        names = [safe_name(f"{table.stem}/{row[key]}").replace("..", "") for key in ("ct", "mr")]
        if names[0] == names[1]:
            raise InputError(f"{where}: ct and mr are the same file.", "Name two files.")
        back = None if matrix is None else np.linalg.inv(matrix)
        sides = (("ct", ct, names[0], names[1], matrix), ("mr", mr, names[1], names[0], back))
        for modality, path, name, partner, to_partner in sides:
            labels = row.get(f"{modality}_labels", "")
            jobs.append(
                Job(
                    name,
                    table.stem,
                    path,
                    modality,
                    labels=(Labels(table.parent / labels),) if labels else (),
                    split=split_of(row.get("split", ""), where),
                    partner=partner,
                    partner_matrix=None if to_partner is None else tuple(float(v) for v in to_partner.ravel()),
                )
            )
    return jobs


def _matrix_of(row: Dict[str, str], folder: Path, where: str) -> Optional[np.ndarray]:
    if row.get("transform"):
        return read_transform(folder / row["transform"])
    if not row.get("matrix"):
        return None
    try:
        matrix = np.array([float(v) for v in re.split(r"[\s,;\[\]]+", row["matrix"].strip(" []")) if v]).reshape(4, 4)
    except ValueError as error:
        raise InputError(f"{where}: the matrix is not 16 numbers.", "Write them row by row with spaces.") from error
    if not np.all(np.isfinite(matrix)) or abs(np.linalg.det(matrix[:3, :3])) < 1e-6:
        raise InputError(f"{where}: the matrix cannot be inverted.", "Write the 4x4 LPS matrix from CT to MR points.")
    return matrix


def samv2_data(root: Path) -> List[Job]:
    """``ct``, ``hn``, ``ctmr``, ``mr`` with ``train`` and ``val``; pairs of ``ctmr`` are aligned by their authors."""
    names = _label_names(root)
    torso = {**names.get("torso", {}), **names.get("further", {})} or None
    jobs = []
    for group in ("ct", "hn", "ctmr", "mr"):
        for split in ("train", "val"):
            found = _scans_of(volumes_below(root / group / split), root, group)
            for job in found:
                ids = torso if group in ("ct", "mr") else names.get(group)
                matrix = IDENTITY_4 if job.partner else None
                names_used, modality = ids if job.labels else None, "mr" if job.modality == "mr" else "ct"
                jobs.append(replace(job, split=split, modality=modality, label_names=names_used, partner_matrix=matrix))
    return jobs


def any_folder(root: Path) -> List[Job]:
    """Every volume file, or, where there are none, every DICOM series."""
    if root.is_file():
        return [Job(safe_name(stem_of(root)), safe_name(root.parent.name), root)]
    names = _label_names(root)
    ids = names.get("")
    jobs = [replace(j, label_names=ids if j.labels else None) for j in _scans_of(volumes_below(root), root, root.name)]
    return jobs + _series_below(root)


def _label_names(root: Path) -> Dict[str, Dict[str, str]]:
    """``labels.json`` of a folder: {id: name}, found under "", or {kind: {id: name}}; nothing when it is absent."""
    path = root / "labels.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(value, str) for value in content.values()):
            return {"": content}
        return {str(kind): dict(ids) for kind, ids in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} does not hold the names of labels.", 'Write {"1": "liver", ...}.') from error


def _scans_of(paths: Sequence[Path], root: Path, group: str) -> List[Job]:
    """Volumes with the label maps beside them; ``X_ct`` and ``X_mr`` as pairs."""
    stems = {path.parent / stem_of(path): path for path in paths}
    maps = {}
    for stem, path in stems.items():
        for ending in LABEL_ENDINGS:
            if stem.name.endswith(ending) and len(stem.name) > len(ending):
                owner = stem.with_name(stem.name[: -len(ending)])
                if owner in stems:
                    maps[owner] = path
    jobs = []
    for stem, path in stems.items():
        if path in maps.values():
            continue
        relative = stem.relative_to(root)
        kind = stem.name[-3:].lower() if stem.name[-3:].lower() in ("_ct", "_mr") else ""
        other = stem.with_name(stem.name[:-3] + {"_ct": "_mr", "_mr": "_ct"}[kind]) if kind else None
        partner = safe_name(str(other.relative_to(root))) if other in stems and other is not None else None
        jobs.append(
            Job(
                safe_name(str(relative)),
                group,
                path,
                kind[1:] or "auto",
                labels=(Labels(maps[stem]),) if stem in maps else (),
                partner=partner,
            )
        )
    return jobs


def _series_below(root: Path) -> List[Job]:
    """DICOM series of CT and MR with enough slices, by the headers of all files that could be DICOM."""
    folders = sorted({path.parent for path in files_of(root)})
    jobs = []
    for folder in folders:
        try:
            series = read_headers([p for p in files_of(folder) if p.parent == folder]).series
        except SAMv2Error:
            # One damaged file: let reading the folder fail, and be listed with the reason.
            jobs.append(Job(safe_name(str(folder.relative_to(root))), root.name, folder))
            continue
        kept = {uid: s for uid, s in series.items() if s[0].tags.modality in ("CT", "MR") and len(s) >= _MIN_SLICES}
        for n, (uid, slices) in enumerate(sorted(kept.items())):
            name = safe_name(str(folder.relative_to(root))) + (f"__{n}" if len(kept) > 1 else "")
            jobs.append(Job(name, root.name, folder, slices[0].tags.modality.lower(), series=uid))
    return jobs


LAYOUTS: Dict[str, Callable[[Path], List[Job]]] = {
    "totalsegmentator": total_segmentator,
    "nih-lymph": nih_lymph,
    "deeplesion": deep_lesion,
    "ctmr-pairs": ctmr_pairs,
    "samv2": samv2_data,
    "folder": any_folder,
}


def detect_layout(source: Path) -> str:
    """The layout of a source by its names alone."""
    if source.is_file():
        return "ctmr-pairs" if source.suffix.lower() in (".csv", ".tsv") else "folder"
    if any((source / kind / split).is_dir() for kind in ("ct", "hn", "ctmr") for split in ("train", "val")):
        return "samv2"
    if (source / "pairs.csv").is_file():
        return "ctmr-pairs"
    if next(source.glob("**/segmentations"), None) is not None and _any(source, ("ct.nii.gz", "mri.nii.gz")):
        return "totalsegmentator"
    names = [p.name for p in source.rglob("*")]
    if any(_LYMPH.match(name) for name in names):
        return "nih-lymph"
    if any(_DEEPLESION.match(stem_of(Path(name))) for name in names):
        return "deeplesion"
    return "folder"


def _any(source: Path, names: Iterable[str]) -> bool:
    return any(next(source.glob(f"**/{name}"), None) is not None for name in names)


def find_jobs(source: Path, layout: str = "auto") -> List[Job]:
    """What there is to prepare in a source, in a stable order.

    :raises InputError: the source does not exist, or holds nothing of this layout.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist.", "Check the path.")
    layout = detect_layout(source) if layout == "auto" else layout
    jobs = LAYOUTS[layout](source)
    if not jobs:
        raise InputError(f"{source} holds no scans of the layout {layout}.", "Choose --layout, or another folder.")
    return jobs
