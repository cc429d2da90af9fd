"""The models that the header offers, from SAMv2Core's registry, and what they have seen; needs no PyTorch."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.work.engine import AUTO
from SAMv2SlicerLib.work.worker import Job, Progress


def installedModels() -> List[Tuple[str, str]]:
    """(name, label with modalities) of the models whose weights are on this machine."""
    from SAMv2Core.models.library import list_models

    return [(info.name, texts.modelLabel(info.name, _modalities(info))) for info in list_models() if info.is_ready]


def offeredModels() -> List[Tuple[str, str]]:
    """The installed models, then those that can be downloaded."""
    from SAMv2Core.models.library import list_models

    absent = [info for info in list_models() if not info.is_ready and info.url]
    labels = [(info.name, texts.modelToDownload(texts.modelLabel(info.name, _modalities(info)))) for info in absent]
    return [*installedModels(), *labels]


def downloadFacts(name: str) -> Optional[Any]:
    """What is known about a model that is not here but can be downloaded; None for all others."""
    info = _info(name)
    return info if info is not None and not info.is_ready and info.url else None


def startDownload(logic, name: str, onEnd=None) -> Job:
    """Begin to fetch a released model into the user's models folder; the job's value is its ModelInfo."""
    from SAMv2Core.models.library import download

    prefix = texts.progressDownload(name)  # here, because translating is for the main thread

    def work(progress: Progress) -> Any:
        return download(name, lambda fraction, text: progress(fraction, f"{prefix}: {text}"))

    return logic.submitPlain(name, work, None, onEnd, prefix)


def describeModel(name: str) -> str:
    """What is known about a model: a line each for what it is, what it was trained on, its license and its hash."""
    from SAMv2Core.models.library import model_info

    if name == AUTO:
        return texts.modelAutoDescription()
    info = model_info(name)
    return texts.modelDescription(
        title=info.title or info.name,
        modalities=_modalities(info),
        coverage=", ".join(info.coverage),
        license=info.licence,
        sha256=info.sha256,
        warnings=info.warnings,
    )


def coverageNote(name: str, modalities: Sequence[Tuple[str, str]]) -> str:
    """What a model has not seen, or seen little of, among some volumes; empty when there is nothing to say.

    :param name: of the model, or auto.
    :param modalities: (volume name, ct or mr) of the volumes whose modality is known.
    """
    info = _info(name if name != AUTO else _automatic([modality for _, modality in modalities]))
    if info is None or not info.modalities:
        return ""
    notes = [
        texts.unseenModality(volume, modality.upper(), info.name, _modalities(info))
        for volume, modality in modalities
        if modality not in info.modalities
    ]
    # CT models cover the torso and say so in their description; MR ones are the exception that must be told.
    if not notes and any(modality == "mr" for _, modality in modalities):
        notes.append(texts.seenRegions(info.name, "MR", ", ".join(regionsOf(info, "mr")) or texts.notKnown()))
    return " ".join(notes)


def regionsOf(info, modality: str) -> List[str]:
    """Body regions that a model has seen in a modality: entries as "mr: limbs" hold for that one, others for all."""
    found = []
    for entry in info.coverage:
        kind, separator, region = entry.partition(":")
        if not separator:
            found.append(entry.strip())
        elif kind.strip().lower() == modality:
            found.append(region.strip())
    return found


def matchedAbove(name: str, modalities: Sequence[str]) -> float:
    """The confidence above which a model's matches are not uncertain, as it came with the model.

    :param name: of the model, or auto.
    :param modalities: (ct or mr) of the volumes whose modality is known; with none of them, auto takes them for CT.
    """
    from SAMv2Core.errors import ModelError
    from SAMv2Core.matching.confidence import UncertaintyModel

    info = _info(name if name != AUTO else _automatic(modalities or ("ct",)))
    try:
        return UncertaintyModel.from_metadata(info.calibration if info is not None else {}).matched_above
    except ModelError:  # nonsense in its record; matching says so
        return UncertaintyModel().matched_above


def _automatic(modalities: Sequence[str]) -> str:
    """The bundled model that the automatic choice would take, empty when there is none or nothing is known."""
    from SAMv2Core.errors import ModelError
    from SAMv2Core.models.library import default_model

    try:
        return default_model(*modalities) if modalities else ""
    except ModelError:
        return ""


def _info(name: str) -> Optional[Any]:
    from SAMv2Core.errors import ModelError
    from SAMv2Core.models.library import model_info

    if not name or name == AUTO:
        return None
    try:
        return model_info(name)
    except ModelError:  # its file was removed
        return None


def _modalities(info) -> str:
    return "/".join(modality.upper() for modality in info.modalities)
