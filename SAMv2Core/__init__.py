"""SAMv2: find the same anatomical point in another CT or MR scan.

SAM is *Self-supervised Anatomical eMbedding* (SAMv2 / UAE: arXiv 2311.15111), not Meta's Segment Anything::

    import SAMv2Core as s

    model = s.load_model("lite-ct")
    template = model.embed(s.read_volume("baseline.nii.gz"))
    query = model.embed(s.read_volume("follow_up.nii.gz"))
    matches = s.match(template, query, [[12.0, -40.5, 880.0]])  # (N, 3) mm, LPS
    s.positions(matches)  # (N, 3), NaN where nothing was found

The names below are the public interface; everything else may change. They are resolved on first use (PEP 562), so that
``import SAMv2Core`` costs nothing and `samv2 models` and `samv2 doctor` work where torch is missing or broken.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

__version__ = "0.1.0"

_HOME = {
    "errors": (
        "Cancelled",
        "InputError",
        "MemoryLimitError",
        "ModelError",
        "OutputError",
        "SAMv2Error",
        "UnreliableResultError",
        "UsageError",
    ),
    "geometry.grid": ("Grid",),
    "io.points": ("Point", "PointList", "read_points", "write_points"),
    "io.resample": ("resample_to",),
    "io.transforms": ("read_transform", "write_transform"),
    "io.volume": ("Volume", "read_volume", "write_volume"),
    "preprocessing.preprocess": ("preprocess",),
    "network.build": ("build_network",),
    "embedding.cache": ("Cache",),
    "embedding.embedding": ("Embedding", "FeatureMap"),
    "models.catalogue": ("ModelInfo",),
    "embedding.file": ("load_embedding", "save_embedding"),
    "embedding.load": ("load_model",),
    "embedding.model": ("Model",),
    "matching.match": ("locate", "match", "similarity_map"),
    "matching.result": ("Match", "positions"),
    "registration.file": ("load_registration", "save_registration"),
    "registration.register": ("Registration", "register"),
    "simulation.simulate": ("SimulatedFollowUp", "simulate_follow_up"),
    "landmarks.find": ("find_landmarks",),
    "landmarks.landmark": ("Landmark",),
    "io.lesion": ("Lesion",),
    "io.lesions": ("read_lesions",),
    "tracking.finding": ("Finding", "Verified"),
    "tracking.track": ("track",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # noqa: PLE0604

if TYPE_CHECKING:
    from SAMv2Core.embedding.cache import Cache as Cache
    from SAMv2Core.embedding.embedding import Embedding as Embedding
    from SAMv2Core.embedding.embedding import FeatureMap as FeatureMap
    from SAMv2Core.embedding.file import load_embedding as load_embedding
    from SAMv2Core.embedding.file import save_embedding as save_embedding
    from SAMv2Core.embedding.load import load_model as load_model
    from SAMv2Core.embedding.model import Model as Model
    from SAMv2Core.errors import Cancelled as Cancelled
    from SAMv2Core.errors import InputError as InputError
    from SAMv2Core.errors import MemoryLimitError as MemoryLimitError
    from SAMv2Core.errors import ModelError as ModelError
    from SAMv2Core.errors import OutputError as OutputError
    from SAMv2Core.errors import SAMv2Error as SAMv2Error
    from SAMv2Core.errors import UnreliableResultError as UnreliableResultError
    from SAMv2Core.errors import UsageError as UsageError
    from SAMv2Core.geometry.grid import Grid as Grid
    from SAMv2Core.io.lesion import Lesion as Lesion
    from SAMv2Core.io.lesions import read_lesions as read_lesions
    from SAMv2Core.io.points import Point as Point
    from SAMv2Core.io.points import PointList as PointList
    from SAMv2Core.io.points import read_points as read_points
    from SAMv2Core.io.points import write_points as write_points
    from SAMv2Core.io.resample import resample_to as resample_to
    from SAMv2Core.io.transforms import read_transform as read_transform
    from SAMv2Core.io.transforms import write_transform as write_transform
    from SAMv2Core.io.volume import Volume as Volume
    from SAMv2Core.io.volume import read_volume as read_volume
    from SAMv2Core.io.volume import write_volume as write_volume
    from SAMv2Core.landmarks.find import find_landmarks as find_landmarks
    from SAMv2Core.landmarks.landmark import Landmark as Landmark
    from SAMv2Core.matching.match import locate as locate
    from SAMv2Core.matching.match import match as match
    from SAMv2Core.matching.match import similarity_map as similarity_map
    from SAMv2Core.matching.result import Match as Match
    from SAMv2Core.matching.result import positions as positions
    from SAMv2Core.models.catalogue import ModelInfo as ModelInfo
    from SAMv2Core.network.build import build_network as build_network
    from SAMv2Core.preprocessing.preprocess import preprocess as preprocess
    from SAMv2Core.registration.file import load_registration as load_registration
    from SAMv2Core.registration.file import save_registration as save_registration
    from SAMv2Core.registration.register import Registration as Registration
    from SAMv2Core.registration.register import register as register
    from SAMv2Core.simulation.simulate import SimulatedFollowUp as SimulatedFollowUp
    from SAMv2Core.simulation.simulate import simulate_follow_up as simulate_follow_up
    from SAMv2Core.tracking.finding import Finding as Finding
    from SAMv2Core.tracking.finding import Verified as Verified
    from SAMv2Core.tracking.track import track as track


def __getattr__(name: str) -> Any:
    # Not stored in the package afterwards: a submodule reloaded in Slicer must not leave an old function behind.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_MODULE_OF})
