"""The computing side of the module: SAMv2Core on plain values, called in the worker thread.

Nothing here touches MRML, VTK or Qt; even texts come in translated, because translating is a Qt call. PyTorch is
imported by SAMv2Core when the first job runs, never when the module is loaded. Loaded models are kept, because loading
one takes longer than matching a point.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import ModelError
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.search_mask import LastRestricted, SearchMask, match_inside
from SAMv2SlicerLib.work.lesion_engine import (
    LesionInput,
    TrackedStudy,
    VerifiedInput,
    coreLesion,
    coreVerified,
    trackedStudy,
)

AUTO = "auto"
"""Name of the model, the device or the modality that leaves the choice to SAMv2Core."""

FASTEST_CREDIBLE_RATE = 2e7
"""Voxels per second; a GPU embeds a torso CT of 7 million voxels in about a second."""

__all__ = ["Computed", "Engine", "LesionInput", "Options", "TrackedStudy", "VerifiedInput", "VolumeInput"]

EmbeddingKey = Tuple[str, str]
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Options:
    """What the user chose for a computation; values are SAMv2Core's names."""

    model: str = AUTO
    device: str = AUTO


@dataclass(frozen=True)
class VolumeInput:
    """A volume on its way to the worker.

    :param text: what the progress says until the model is loaded and reports by itself.
    :param volume: a copy of the voxels, None when the embedding that will be needed is among the cached ones.
    :param cached: valid embeddings by (model, modality asked for).
    :param inside: where to look for matches, None for everywhere.
    """

    nodeID: str
    text: str
    modality: str
    signature: Any
    volume: Optional[Volume]
    cached: Dict[EmbeddingKey, Any] = field(default_factory=dict)
    inside: Optional[SearchMask] = None


Further = Sequence[Tuple[VolumeInput, np.ndarray]]
"""Templates besides the first one, each with its points."""


@dataclass(frozen=True)
class Computed:
    """What a job brings back: results, and the embeddings that were computed on the way as (input, key, embedding)."""

    results: Any
    embeddings: Tuple[Any, ...]
    fresh: Tuple[Tuple[VolumeInput, EmbeddingKey, Any], ...] = ()


class Engine:
    """Models and their use. One instance per logic; methods are called from one thread at a time."""

    isRemote = False
    """Whether methods are generators that the main thread advances (remote_engine.py) instead of work for a thread."""
    timerMs = 15
    """How often the panel's timer looks for results."""

    def __init__(self) -> None:
        self._models: Dict[Tuple[str, str], Any] = {}
        self._fitting: Dict[Tuple[str, ...], str] = {}
        self._lock = threading.Lock()
        self.usesDiskCache = True
        """Keep embeddings in the user's cache folder, where the command line looks, too."""
        self.memoryLimitGiB: Optional[float] = None
        """The most that embedding may use; None for SAMv2Core's choice."""
        self.startsPerAxis: Optional[int] = None
        """L of the fixed-point method; None for SAMv2Core's choice."""
        self.matchedAbove: Optional[float] = None
        """Matches with less confidence are uncertain; None for what came with the model."""
        self.voxelsPerSecond: Dict[str, float] = {}
        """Measured on this machine per device, for honest estimates; empty until the first embedding."""
        self._narrow = LastRestricted()
        self.onEnded: Optional[Callable[[str], None]] = None
        """Called with one line when the process that computes has ended by itself."""

    def embed(self, inputs: Sequence[VolumeInput], options: Options, progress: Progress) -> Computed:
        """One comparable embedding per input, from the cache where possible.

        :raises ModelError: no model fits all the modalities, or it cannot be loaded.
        """
        name = options.model if options.model != AUTO else self.modelFor([_modalityOf(item) for item in inputs])
        found: List[Any] = [item.cached.get((name, item.modality)) for item in inputs]
        missing = [n for n, embedding in enumerate(found) if embedding is None]
        fresh = []
        for step, n in enumerate(missing):
            part = _partOf(progress, step / len(missing), 1 / len(missing))
            part(0.0, inputs[n].text)
            found[n] = self._embedOne(inputs[n], name, options.device, part)
            fresh.append((inputs[n], (name, inputs[n].modality), found[n]))
        return Computed(None, tuple(found), tuple(fresh))

    def match(
        self,
        template: VolumeInput,
        query: VolumeInput,
        pointsLPS: np.ndarray,
        method: str,
        options: Options,
        text: str,
        progress: Progress,
        further: Further = (),
        expect: Optional[bool] = None,
    ) -> Computed:
        """Find points (N, 3), template volume LPS mm, in the query: a list of Match with query volume LPS.

        :param further: templates that show the same points, each with its own (N, 3), NaN where it does not: one
            answer from all of them.
        :param expect: as for ``SAMv2Core.match``.
        """
        others = [item for item, _ in further]
        share = _embeddingShare(template, *others, query)
        found = self.embed((template, *others, query), options, _partOf(progress, 0.0, share))
        part = _partOf(progress, share, 1 - share, text)
        part(0.0, "")
        *templates, searched = found.embeddings
        matches = match_inside(
            templates if further else templates[0],
            searched,
            [pointsLPS, *(points for _, points in further)] if further else pointsLPS,
            method,
            query.inside,
            self._narrow,
            self.startsPerAxis,
            self.matchedAbove,
            expect,
            part,
        )
        return Computed(matches, found.embeddings, found.fresh)

    def forgetMasks(self) -> None:
        """Release what was kept for the last mask."""
        self._narrow.forget()

    def follow(
        self, template: VolumeInput, query: VolumeInput, pointLPS: np.ndarray, options: Options, text: str, progress
    ) -> Computed:
        """One place (1, 3) of the template in the query, as fast as it goes: (query volume LPS (3,) or None,)."""
        from SAMv2Core.matching.match import locate

        pair = self.embed((template, query), options, _partOf(progress, 0.0, _embeddingShare(template, query)))
        place = locate(pair.embeddings[0], self._narrow(pair.embeddings[1], query.inside), pointLPS)[0]
        return Computed((None if np.isnan(place).any() else place,), pair.embeddings, pair.fresh)

    def register(
        self,
        fixed: VolumeInput,
        moving: VolumeInput,
        transform: str,
        options: Options,
        text: str,
        progress: Progress,
        isDeformable: bool = False,
        isResampled: bool = False,
        deformText: str = "",
    ) -> Computed:
        """Align two volumes: (Registration, Deformation or None, resampled Volume or None), fixed to moving LPS."""
        import SAMv2Core

        share = _embeddingShare(fixed, moving)
        pair = self.embed((fixed, moving), options, _partOf(progress, 0.0, share))
        part = _partOf(progress, share, (1 - share) * (0.5 if isDeformable else 1.0), text)
        part(0.0, "")
        registration = SAMv2Core.register(
            *pair.embeddings,
            transform=transform,
            progress=part,
            fixed_volume=fixed.volume,
            moving_volume=moving.volume,
        )
        deformation = resampled = None
        if isDeformable and registration.status != "failed":
            part = _partOf(progress, share + 0.5 * (1 - share), 0.45 * (1 - share), deformText or text)
            deformation = self.deform(fixed.volume, moving.volume, registration.matrix, part)
        if isResampled and registration.status != "failed":
            resampled = resampledTo(fixed.volume, moving.volume, registration.matrix, deformation)
        return Computed((registration, deformation, resampled), pair.embeddings, pair.fresh)

    def deform(
        self,
        fixed: Optional[Volume],
        moving: Optional[Volume],
        matrix: np.ndarray,
        progress: Optional[Progress] = None,
    ) -> Any:
        """The deformation that is left after a registration, by ConvexAdam."""
        from SAMv2Core.registration.deformable import deform

        if fixed is None or moving is None:
            raise ModelError("The voxels are needed to deform.", "Register again.")
        return deform(fixed, moving, matrix, progress)

    def track(
        self,
        baseline: VolumeInput,
        followUps: Sequence[VolumeInput],
        lesions: Sequence[LesionInput],
        verified: Sequence[VerifiedInput],
        options: Options,
        text: str,
        progress: Progress,
        segmented: Sequence[Optional[Sequence[Any]]] = (),
    ) -> Computed:
        """Find lesions in follow-ups: a :class:`TrackedStudy` each.

        :param segmented: per follow-up the lesions segmented in it (SAMv2Core's, volume LPS), None for none.
        """
        from SAMv2Core.tracking.diameters import match_ends
        from SAMv2Core.tracking.track import track

        share = _embeddingShare(baseline, *followUps)
        found = self.embed((baseline, *followUps), options, _partOf(progress, 0.0, share))
        part = _partOf(progress, share, 1 - share, text)
        part(0.0, "")
        findings = track(
            found.embeddings[0],
            list(found.embeddings[1:]),
            [coreLesion(item) for item in lesions],
            verified=[coreVerified(item) for item in verified],
            progress=_partOf(part, 0.0, 0.8),
        )
        drawn = {item.label: item.endsLPS for item in lesions if item.endsLPS is not None}
        studies = []
        for n, parts in enumerate(segmented or [None] * len(followUps)):
            here = [finding for finding in findings if finding.study == n + 1]
            step = _partOf(part, 0.8 + 0.2 * n / len(followUps), 0.2 / len(followUps))
            ends = match_ends(found.embeddings[0], found.embeddings[n + 1], drawn, here, step)
            studies.append(trackedStudy(findings, n + 1, parts, ends))
        return Computed(studies, found.embeddings, found.fresh)

    def landmarks(
        self,
        volume: VolumeInput,
        only: Optional[List[str]],
        atlas: str,
        options: Options,
        text: str,
        progress: Progress,
    ) -> Computed:
        """Named landmarks of a volume: a list of SAMv2Core's Landmark, volume LPS.

        :param atlas: file of other landmarks; empty for those of the model.
        """
        from SAMv2Core.landmarks.atlas import load_atlas
        from SAMv2Core.landmarks.find import find_landmarks

        share = _embeddingShare(volume)
        found = self.embed((volume,), options, _partOf(progress, 0.0, share))
        part = _partOf(progress, share, 1 - share, text)
        landmarks = find_landmarks(found.embeddings[0], load_atlas(atlas) if atlas else None, only, part)
        return Computed(landmarks, found.embeddings, found.fresh)

    def colors(self, volume: VolumeInput, options: Options, text: str, progress: Progress) -> Computed:
        """An embedding's main directions as ((d, h, w, 3) uint8, ijk to volume LPS)."""
        from SAMv2Core.embedding.pca import embedding_pca

        found = self.embed((volume,), options, _partOf(progress, 0.0, _embeddingShare(volume)))
        progress(0.9, text)
        embedding = found.embeddings[0]
        return Computed((embedding_pca(embedding), embedding.fine.grid.ijk_to_lps), found.embeddings, found.fresh)

    def modelFor(self, modalities: Sequence[str]) -> str:
        """The name of the bundled model that fits all these modalities (``"ct"``, ``"mr"``).

        :raises ModelError: there is none.
        """
        from SAMv2Core.models.library import default_model

        key = tuple(modalities)
        if key not in self._fitting:  # reads the headers of files: 5 ms, which following a cursor has not
            self._fitting[key] = default_model(*modalities)
        return self._fitting[key]

    def state(self) -> str:
        """Whether it can compute: see :func:`torchState`."""
        return torchState()

    def start(self) -> None:
        """Get ready ahead of the first job."""

    def ask(self) -> None:
        """Ask the other side again what it is; :meth:`facts` has the answer later."""

    def facts(self) -> Tuple[Optional[Dict[str, Any]], Optional[Exception]]:
        """What the other side is (device, memory, models), or what is wrong with it; (None, None) while unknown."""
        return None, None

    def isUp(self) -> bool:
        """Whether the other side is there."""
        return False

    def pump(self, seconds: float) -> None:
        """Take what has arrived from elsewhere."""

    def forgetScans(self, nodeID: Optional[str] = None) -> None:
        """Keep nothing elsewhere of a node, None for any."""

    def plannedModel(
        self, cached: Sequence[Dict[EmbeddingKey, Any]], modalities: Sequence[str], options: Options
    ) -> Optional[str]:
        """The model that :meth:`embed` will use, None when it depends on modalities not known yet.

        :param cached: per input its valid embeddings.
        :param modalities: per input what was asked for (auto, ct, mr).
        """
        if options.model != AUTO:
            return options.model
        known = [
            asked if asked != AUTO else next((embedding.modality for embedding in found.values()), None)
            for found, asked in zip(cached, modalities)
        ]
        return None if None in known else self.modelFor([str(modality) for modality in known])

    def similarityMap(
        self,
        template: VolumeInput,
        query: VolumeInput,
        pointLPS: np.ndarray,
        options: Options,
        text: str,
        progress: Progress,
    ) -> Computed:
        """A volume, query LPS, of the similarity of every place of the query to one point (3,) of the template."""
        from SAMv2Core.matching.match import similarity_map

        share = _embeddingShare(template, query)
        pair = self.embed((template, query), options, _partOf(progress, 0.0, share))
        progress(share, text)
        values, grid = similarity_map(*pair.embeddings, pointLPS)
        return Computed(Volume(values, grid.ijk_to_lps, text), pair.embeddings, pair.fresh)

    def loadedModel(self, name: str, device: str) -> Any:
        """A model ready for use, loaded once per (name, device)."""
        from SAMv2Core.embedding.load import load_model

        with self._lock:
            if (name, device) not in self._models:
                self._models[(name, device)] = load_model(name, device=device)
            return self._models[(name, device)]

    def clear(self) -> None:
        """Release the memory of all models."""
        with self._lock:
            self._models.clear()
        self._fitting.clear()
        self.forgetMasks()

    def secondsFor(self, voxels: int, device: str) -> Optional[float]:
        """How long an embedding will take, from the last one on this device; None before the first."""
        rate = self.voxelsPerSecond.get(device)
        return voxels / rate if rate else None

    def _embedOne(self, item: VolumeInput, name: str, device: str, progress: Progress) -> Any:
        if item.volume is None:  # plannedModel said that it is cached
            raise ModelError(f"No embedding by the model {name} is at hand.", "Repeat the command.")
        model = self.loadedModel(name, device)
        started = time.monotonic()
        cache = diskCache() if self.usesDiskCache else None
        embedding = model.embed(
            item.volume, modality=item.modality, progress=progress, max_memory_gib=self.memoryLimitGiB, cache=cache
        )
        self.noteRate(embedding.input_grid.n_voxels, time.monotonic() - started, device)
        return embedding

    def noteRate(self, voxels: int, seconds: float, device: str) -> None:
        """Remember how fast an embedding was."""
        rate = voxels / max(seconds, 1e-3)
        if rate < FASTEST_CREDIBLE_RATE:  # faster ones came from the disk
            self.voxelsPerSecond[device] = rate


def resampledTo(fixed: Optional[Volume], moving: Optional[Volume], matrix: np.ndarray, deformation: Any) -> Volume:
    """The moving volume on the voxels of the fixed one, through a matrix (4, 4) or the deformation on top of it."""
    from SAMv2Core.io.resample import resample_to

    if fixed is None or moving is None:
        raise ModelError("The voxels are needed to resample.", "Register again.")
    return resample_to(fixed.grid, moving, matrix if deformation is None else deformation.to_itk())


def diskCache() -> Any:
    """The cache folder of embeddings, shared with the command line; bounded in size, keyed by content."""
    from SAMv2Core.embedding.cache import Cache

    return Cache()


def _modalityOf(item: VolumeInput) -> str:
    """``"ct"`` or ``"mr"`` of an input: what was asked for, what an embedding found, what the voxels say."""
    if item.modality != AUTO:
        return item.modality
    if item.cached:
        return next(iter(item.cached.values())).modality
    from SAMv2Core.preprocessing.modality import detect_modality

    return detect_modality(item.volume)[0]


def _embeddingShare(*inputs: VolumeInput) -> float:
    """The part of the progress bar for embedding: nearly all, unless everything is cached."""
    return 0.0 if all(item.cached for item in inputs) else 0.9


def _partOf(progress: Progress, start: float, length: float, prefix: str = "") -> Progress:
    """A progress callable that fills a part of another one's range and puts a text before each report."""

    def report(fraction: float, text: str = "") -> None:
        joined = ": ".join(part for part in (prefix, text) if part)
        progress(start + length * min(max(fraction, 0.0), 1.0), joined)

    return report


def torchState() -> str:
    """``"ready"``, ``"missing"`` or ``"broken"``, without importing PyTorch unless someone already has.

    Importing a half-installed PyTorch can crash the process, so nothing more than its presence is looked at here;
    install.py probes it in a subprocess.
    """
    if getattr(sys.modules.get("torch"), "__version__", ""):
        return "ready"
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return "broken"
    if spec is None:
        return "missing"
    return "broken" if spec.origin is None else "ready"
