"""What is known about each model: the catalogue, what the weights file says of itself, and what was recorded
about it.

Later sources add to earlier ones: the catalogue (``models.json``: names, titles, where the released models
are to be had), the metadata of the weights file (ours only), and the record beside it
(:mod:`SAMv2Core.models.records`). Files are looked for in the user's models folder and then among the bundled
ones. torch is not needed, and no weights are read.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from SAMv2Core.errors import ModelError
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.safetensors import read_metadata
from SAMv2Core.models.records import ATLAS_SUFFIX, SUFFIXES, bundled_folder, models_folder, read_record

HOST = "https://www.modelscope.cn/models"
"""Of the released models; ``SAMV2_MODELS_URL`` names a mirror with the same paths."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model.

    :param name: what ``--model`` takes.
    :param architecture: ``sam``, ``sampp``, ``crosssam`` or ``lite``; empty when only the file can tell.
    :param modalities: trained on, of ``ct`` and ``mr``; empty when not known.
    :param coverage: body regions that it was trained on; empty when not known.
    :param path: of its weights; None when it is not here.
    :param sha256: of the file (:func:`verify`, :func:`load_model`) or as recorded; empty when not known.
    :param trusted: the file has the hash that came with this program.
    :param head_weights: weight of each head's cosine in the similarity, sums to 1; empty means equal.
    :param calibration: coefficients of its confidence, of its record or the weights' metadata; empty for the defaults.
    :param origin: ``bundled``, or where the file came from.
    :param url: where it can be downloaded; empty when it cannot.
    """

    name: str
    title: str = ""
    architecture: str = ""
    modalities: Tuple[str, ...] = ()
    coverage: Tuple[str, ...] = ()
    licence: str = ""
    path: Optional[Path] = None
    sha256: str = ""
    trusted: bool = False
    head_weights: Mapping[str, float] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()
    description: str = ""
    parameters: Optional[int] = None
    origin: str = ""
    url: str = ""
    reported_sha256: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """True when its weights are here."""
        return self.path is not None


def list_models() -> List[ModelInfo]:
    """All models of the catalogue, here or not, then other files of the models folders."""
    infos = {name: model_info(name) for name in catalogue()}
    for path in _files():
        info = file_info(path)
        infos.setdefault(info.name, info)
    return [info for info in infos.values() if info.is_ready or info.url]


def model_info(name_or_file: PathLike) -> ModelInfo:
    """What is known about a model, without reading its weights (its hash is the recorded one).

    :raises ModelError: no model of that name and no such file.
    """
    path = _existing_file(name_or_file)
    if path is not None:
        return file_info(path)
    name = str(name_or_file)
    for path in _files():
        if name_of(path) == name:
            return file_info(path)
    if name in catalogue():
        return entry_info(catalogue()[name])
    raise unknown_model(name)


def find_model(name_or_file: PathLike) -> Path:
    """The weights file of a model: a file itself, else by name in the user's folder, else a bundled one.

    :raises ModelError: not here; the remedy says how to get it.
    """
    info = model_info(name_or_file)
    if info.path is None:
        raise _absent(info)
    return info.path


def catalogue() -> Dict[str, Dict[str, Any]]:
    """Entries of ``models.json`` by name; not to be changed."""
    return _read_catalogue()


@functools.cache
def _read_catalogue() -> Dict[str, Dict[str, Any]]:
    content = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    return {entry["name"]: entry for entry in content["models"]}


def catalogue_sha256(info: ModelInfo) -> str:
    """The hash that the catalogue demands of a model's file; empty when it names none."""
    return str(catalogue().get(info.name, {}).get("sha256") or "")


def name_of(path: Path) -> str:
    """The catalogue's name for a file of this name, else the file's name without its ending."""
    by_file = {entry["file"]: name for name, entry in catalogue().items()}
    return by_file.get(path.name, path.stem)


def entry_info(entry: Mapping[str, Any]) -> ModelInfo:
    """What the catalogue says of a model."""
    source = entry["source"]
    host = os.environ.get("SAMV2_MODELS_URL", HOST).rstrip("/")
    return ModelInfo(
        name=entry["name"],
        title=entry["title"],
        architecture=entry["architecture"],
        modalities=tuple(entry["modalities"]),
        coverage=tuple(entry["coverage"]),
        licence=entry["licence"],
        sha256=entry["sha256"] or "",
        head_weights=dict(entry["head_weights"] or {}),
        description=entry["description"],
        parameters=entry["parameters"],
        url=f"{host}/{source['repository']}/resolve/{source['revision']}/{source['path']}" if source else "",
        reported_sha256=entry["reported_sha256"] or "",
    )


def file_info(path: Path) -> ModelInfo:
    """What is known about a weights file; damage of it is a warning here and an error when it is loaded."""
    name = name_of(path)
    entry = catalogue().get(name)
    info = entry_info(entry) if entry else ModelInfo(name=name, title=name)
    is_bundled = path.parent.resolve() == bundled_folder().resolve()
    record = read_record(path)
    info = replace(
        info,
        path=path,
        sha256=str(record.get("sha256") or info.sha256),
        architecture=info.architecture or str(record.get("architecture") or ""),
        origin="bundled" if is_bundled else str(record.get("origin") or ""),
    )
    if path.suffix == ".safetensors":
        try:
            info = _with_metadata(info, _metadata(path, _stamp(path)))
        except ModelError as error:
            info = replace(info, warnings=(*info.warnings, error.cause))
    # Fitted to this very file after it was made, so it goes before what the file says of itself.
    calibration = record.get("calibration")
    return replace(info, calibration=calibration) if isinstance(calibration, dict) else info


def _stamp(path: Path) -> Tuple[int, int]:
    """Time of the last change and size of a file, zeros when it is gone."""
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=64)
def _metadata(path: Path, stamp: Tuple[int, int]) -> Mapping[str, str]:
    """Of a file as it was then: a panel asks at every turn, and the header of a weights file is long."""
    return read_metadata(path, ModelError)


def _with_metadata(info: ModelInfo, metadata: Mapping[str, str]) -> ModelInfo:
    """Our weights files tell what they were trained on; what they do not tell stays as it was."""
    weights = _json(metadata.get("head_weights"), dict, info.head_weights)
    parameters = metadata.get("parameters", "")
    return replace(
        info,
        title=metadata.get("title") or info.title,
        architecture=metadata.get("architecture") or info.architecture,
        modalities=_names(metadata.get("modalities"), info.modalities),
        coverage=_names(metadata.get("coverage") or metadata.get("body_regions"), info.coverage),
        licence=metadata.get("licence") or metadata.get("license") or info.licence,
        head_weights={str(k): float(v) for k, v in weights.items() if isinstance(v, (int, float))},
        description=metadata.get("description") or info.description,
        parameters=int(parameters) if parameters.isdecimal() else info.parameters,
        calibration=_json(metadata.get("calibration"), dict, info.calibration),
    )


def _json(text: Optional[str], kind: type, default: Any) -> Any:
    try:
        value = json.loads(text or "")
    except ValueError:
        return default
    return value if isinstance(value, kind) else default


def _names(text: Optional[str], default: Tuple[str, ...]) -> Tuple[str, ...]:
    """A list of names: JSON, or separated by commas."""
    if not text:
        return default
    names = _json(text, list, text.split(","))
    return tuple(str(name).strip() for name in names)


def _files() -> Iterator[Path]:
    """Weights files in the models folders, the user's first."""
    for folder in (models_folder(), bundled_folder()):
        if folder.is_dir():
            files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
            yield from (path for path in files if not path.name.endswith(ATLAS_SUFFIX))


def _existing_file(name_or_file: PathLike) -> Optional[Path]:
    """The file meant, None when a name of a model is meant.

    :raises ModelError: a path that leads nowhere.
    """
    path = Path(name_or_file)
    is_path = isinstance(name_or_file, os.PathLike) or path.suffix in SUFFIXES or bool(re.search(r"[/\\]", str(path)))
    if path.is_file() and (is_path or path.name not in catalogue()):
        return path
    if is_path:
        raise ModelError(f"There is no model file {path}.", "Check the name; `samv2 models list` shows all models.")
    return None


def unknown_model(name: str) -> ModelError:
    """The error for a name that nothing has, with the nearest one that there is."""
    names = [info.name for info in list_models()]
    near = difflib.get_close_matches(name.lower(), names, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return ModelError(f"There is no model named {name!r}.", f"{hint}Known: {', '.join(names)}; or give a file.")


def _absent(info: ModelInfo) -> ModelError:
    if info.url:
        return ModelError(
            f"The model {info.name} is not here.",
            f"Run `samv2 models download {info.name}`, or get the file and run "
            f"`samv2 models import FILE --as {info.name}`.",
        )
    return ModelError(f"The bundled model {info.name} is not part of this installation.", "Reinstall SAMv2.")
