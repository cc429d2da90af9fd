"""The features that a user chose, from plain options that can be written down and sent to another process."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence

from SAMv2Core.evaluation.extractor import Extractor

KINDS = ("model", "mind", "file")


def chosen_model(
    model: Optional[str] = None,
    device: str = "auto",
    precision: str = "auto",
    max_memory_gib: Optional[float] = None,
    threads: Optional[int] = None,
    cache: Optional[str] = None,
    cache_size_gib: Optional[float] = None,
) -> Dict[str, Any]:
    """The choice of one of our models; the options are those of the command line."""
    return {
        "kind": "model", "model": model, "device": device, "precision": precision, "max_memory_gib": max_memory_gib,
        "threads": threads, "cache": cache, "cache_size_gib": cache_size_gib,
    }  # fmt: skip


def make_extractor(choice: Mapping[str, Any], modalities: Sequence[str] = ("ct",)) -> Extractor:
    """The extractor of a choice.

    :param choice: of :func:`chosen_model`, or ``{"kind": "mind"}``, or ``{"kind": "file", "path": ...}``.
    :param modalities: what will be embedded, ``ct`` or ``mr``, to choose a default model by.
    :raises UsageError: a package is missing, or the file is none of those accepted.
    :raises ModelError: no such model.
    """
    if choice["kind"] == "mind":
        from SAMv2Core.evaluation.features import MindFeatures

        return MindFeatures()
    if choice["kind"] == "file":
        from SAMv2Core.evaluation.features import extractor_of

        return extractor_of(choice["path"])
    from SAMv2Core.embedding.cache import Cache
    from SAMv2Core.embedding.load import load_model
    from SAMv2Core.models.library import default_model

    if choice["threads"]:
        import torch

        torch.set_num_threads(choice["threads"])
    model = load_model(choice["model"] or default_model(*modalities), device=choice["device"])
    cache = None if choice["cache"] == "off" else Cache.of_size(choice["cache"], choice["cache_size_gib"])
    return Extractor(model, cache, precision=choice["precision"], max_memory_gib=choice["max_memory_gib"])
