"""The models that the header offers, from SAMv2Core's registry; needs no PyTorch."""

from __future__ import annotations

from typing import List, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.parameters import AUTO


def installedModels() -> List[Tuple[str, str]]:
    """(name, label with modalities) of the models whose weights are on this machine."""
    from SAMv2Core.models import list_models

    return [(info.name, texts.modelLabel(info.name, _modalities(info))) for info in list_models() if info.is_ready]


def describeModel(name: str) -> str:
    """What is known about a model: a line each for what it is, what it was trained on, its license and its hash."""
    from SAMv2Core.models import model_info

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


def _modalities(info) -> str:
    return "/".join(modality.upper() for modality in info.modalities)
