"""From a volume to its embedding: preprocessing, the network in slabs that fit into memory, geometry, cache.

Everything slow about SAMv2 happens here, once per volume; matching afterwards only compares vectors. The
network runs as deep a slab at a time as the memory limit allows, with the exact result of a whole pass (each
network knows its own halo), so a limit changes the time and nothing else. Heads are stored as float16:
rounding moves a cosine by less than 1e-6, and a torso CT takes half the memory.

Axes (z, y, x); geometry in LPS mm; feature voxel k of stride s lies at lattice index s*k + (s-1)/2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.embedding import memory
from SAMv2Core.embedding.cache import Cache, cache_key, with_names, without_names
from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.embedding.shifted import averaged, shifted_input
from SAMv2Core.errors import InputError, ModelError, UsageError
from SAMv2Core.geometry.grid import is_upright
from SAMv2Core.io.files import PathLike
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.network.device import number_format, resolve_precision
from SAMv2Core.preprocessing.body import body_on_features
from SAMv2Core.preprocessing.preprocess import PREPROCESSING_VERSION, Preprocessed, preprocess_report
from SAMv2Core.progress import Progress

if TYPE_CHECKING:
    from SAMv2Core.models.catalogue import ModelInfo

logger = logging.getLogger(__name__)


#: Part of every cache key: raise it when the same input and weights give other vectors.
EMBEDDING_VERSION = 1

#: On a CPU no deeper slabs are tried: their activations leave the caches, and thinner ones are no slower.
DEEPEST_CPU_SLAB = 64

#: The networks count their tensors; the convolution library adds reordered weights and scratch memory, and
#: the allocator cannot fill every gap. Measured beyond the count: up to 170 MiB (`lite`), 190 MiB (`sampp`).
LIBRARY_BYTES = 192 * 2**20
ACTIVATION_MARGIN = 1.1
#: Keeping large freed blocks saves a sixth of the time but leaves gaps between them, so it is done only where there
#: is room: measured 1.6 times the count (`sampp`, torso) against 1.1 times by default.
REUSE_MARGIN = 1.6

QUALITIES = ("default", "best")

#: Shares of the progress bar: until the lattice is ready, until the network is done.
_AFTER_PREPROCESS, _AFTER_NETWORK = 0.08, 0.96


class Model:
    """A network with its name, hash and settings, ready to embed volumes.

    The network is taken over: moved to the device, in evaluation mode, weights in channels-last order.

    :param net: follows the contract of the networks: ``heads``, ``level_stride``, ``forward_in_slabs``,
        ``peak_bytes``.
    :param info: what is known about the weights: ``name``, ``sha256``, ``head_weights``, ``modalities``.
    :param device: where it runs.
    """

    def __init__(self, net: Any, info: ModelInfo, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.net = net.to(self.device, memory_format=torch.channels_last_3d).eval()
        self.info = info

    def __repr__(self) -> str:
        trained = " and ".join(modality.upper() for modality in getattr(self.info, "modalities", None) or ())
        return f"<Model {self.info.name}: {trained or 'unknown modality'}, on {self.device}>"

    def embed(
        self,
        volume: Union[Volume, PathLike],
        modality: str = "auto",
        progress: Optional[Progress] = None,
        *,
        precision: str = "auto",
        max_memory_gib: Optional[float] = None,
        cache: Union[Cache, PathLike, bool, None] = None,
        every_head: bool = False,
        quality: str = "default",
    ) -> Embedding:
        """Embed a volume, or take its embedding from the cache.

        Parameters
        ----------
        volume : Volume or path
            Any orientation and spacing; a path is read with :func:`SAMv2Core.read_volume`.
        modality : {"auto", "ct", "mr"}
            ``auto``: from the DICOM tag or the values.
        progress : callable, optional
            Called with (fraction 0..1, text); may raise :class:`~SAMv2Core.errors.Cancelled`, which passes through and
            leaves nothing behind.
        precision : {"auto", "fp32", "fp16", "bf16"}
            See :mod:`SAMv2Core.network.device`.
        max_memory_gib : float, optional
            Limit on the resident memory of the whole process (CPU) or on what it holds on the GPU; None: 80 % of what
            is free, and if possible no more than a process of 3.5 GiB.
        cache : Cache, path or bool, optional
            Where embeddings are kept: True for the command line's cache, a folder, None or False for nowhere. What
            comes from there is zero in the air around the patient.
        every_head : bool
            Keep all that the network says: of heads without a weight in the similarity, and of the air.
        quality : {"default", "best"}
            ``best``: averaged over two looks at the scan (:mod:`SAMv2Core.embedding.shifted`), in twice the time.

        Returns
        -------
        Embedding
            Vectors float16 in main memory, whatever the device.

        Raises
        ------
        InputError
            No volume, or one that makes no sense, see
            :func:`~SAMv2Core.preprocessing.preprocess.preprocess_report`.
        UsageError
            A modality, precision, quality or limit that makes no sense.
        MemoryLimitError
            Not even the thinnest slab fits.

        Examples
        --------
        >>> import SAMv2Core as s
        >>> model = s.load_model("lite-ct", "cpu")
        >>> model.embed(volume)  # the doctests' phantom; a path is as good
        <Embedding of phantom: CT, lite-ct (fine, coarse), 24 x 24 x 20 voxels of 4 x 4 x 4 mm, 1.7 MB>
        """
        volume, cache = _as_volume(volume), _as_cache(cache)
        precision = resolve_precision(precision, self.device)
        if quality not in QUALITIES:
            raise UsageError(f"There is no quality {quality!r}.", f"Choose one of: {', '.join(QUALITIES)}.")
        memory.limit_bytes(max_memory_gib)  # a nonsensical limit is refused before the cache is asked
        if not self.info.sha256:  # weights that nobody hashed: another model's entries could be found
            cache = None
        tell = _Teller(progress, volume)
        tell(0.0, "reading the cache" if cache else "preparing the volume")
        key = self._key(volume, modality, precision, every_head, quality) if cache else ""
        found = cache.load(key) if cache else None
        if found is not None:
            logger.info("%s: embedding found in the cache", volume.source)
            tell(1.0, "done (from the cache)")
            return dataclasses.replace(with_names(found, volume), **self._facts())
        prepared = self._prepare(volume, modality, tell)
        emb = self._compute(volume, prepared, precision, max_memory_gib, tell, quality)
        if not every_head and not (self.info.head_weights or {}).get("semantic", 1.0) > 0:
            emb = dataclasses.replace(emb, semantic=None)
        if cache:
            tell(_AFTER_NETWORK, "storing")
            problem = cache.store(key, without_names(emb, volume), body_only=not every_head)
            if problem:
                emb = dataclasses.replace(emb, warnings=(*emb.warnings, problem))
        tell(1.0, "done")
        return emb

    def _key(self, volume: Volume, modality: str, precision: str, every_head: bool, quality: str) -> str:
        options: Dict[str, Any] = {
            "modality": modality,
            "precision": precision,
            "model": self.info.sha256,
            "architecture": self.net.architecture,
            "preprocessing": PREPROCESSING_VERSION,
            "embedding": EMBEDDING_VERSION,
        }
        if not is_upright(volume.ijk_to_lps):  # entries of before a CT kept its axes are others; all else stays
            options["lattice"] = 2
        if every_head:
            options["heads"] = "every"
        if quality != "default":
            options["quality"] = quality
        return cache_key(volume, options)

    def _prepare(self, volume: Volume, modality: str, tell: _Teller) -> Preprocessed:
        tell(0.01, "resampling to 2 mm")
        try:
            prepared = preprocess_report(volume, modality)
        except MemoryError as error:
            voxels = int(np.prod(volume.array.shape))
            raise memory.does_not_fit(4 * voxels, memory.available_bytes() or 0) from error
        memory.release_unused()
        return prepared

    def _compute(
        self,
        volume: Volume,
        prepared: Preprocessed,
        precision: str,
        max_memory_gib: Optional[float],
        tell: _Teller,
        quality: str = "default",
    ) -> Embedding:
        """The network's heads with their geometry."""
        heads = self._heads(prepared, precision, max_memory_gib, tell)
        if quality == "best":
            again = dataclasses.replace(prepared, x=shifted_input(prepared.x, self.net.level_stride))
            heads = averaged(heads, self._heads(again, precision, max_memory_gib, tell), self.net.level_stride)
        maps = {
            name: FeatureMap(name, vectors, prepared.grid.strided(self.net.level_stride[name], vectors.shape[1:]))
            for name, vectors in heads.items()
        }
        warnings = list(prepared.warnings)
        modalities = tuple(getattr(self.info, "modalities", None) or ())
        if modalities and prepared.modality not in modalities:
            warnings.append(
                f"The model {self.info.name} was not trained on {prepared.modality.upper()}: "
                f"expect worse matches ({volume.source}, {prepared.modality_reason})."
            )
        return Embedding(
            fine=maps["fine"],
            coarse=maps["coarse"],
            semantic=maps.get("semantic"),
            body=body_on_features(prepared.body, self.net.level_stride["fine"], maps["fine"].grid.shape_zyx),
            input_grid=prepared.grid,
            volume_grid=volume.grid,
            modality=prepared.modality,
            model_sha256=self.info.sha256,
            source=volume.source,
            warnings=tuple(warnings),
            **self._facts(),
        )

    def _facts(self) -> Dict[str, Any]:
        """What an embedding takes over from what is told of the model, which may change while its weights do not."""
        return {
            "model": self.info.name,
            "head_weights": dict(self.info.head_weights or {}),
            "calibration": dict(getattr(self.info, "calibration", None) or {}),
        }

    def _heads(
        self, prepared: Preprocessed, precision: str, max_memory_gib: Optional[float], tell: _Teller
    ) -> Dict[str, torch.Tensor]:
        """Name to (C, d, h, w) float16 in main memory; thinner slabs when memory runs out on the way."""
        shape = tuple(prepared.x.shape[2:])
        if min(shape) < 2:
            raise InputError(
                f"At 2 mm the volume has {' x '.join(map(str, shape[::-1]))} voxels, too few to embed.",
                "Use a volume that is at least 4 mm thick along every axis.",
            )
        on_gpu = self.device.type != "cpu"
        available = memory.budget(self.device if on_gpu else None, max_memory_gib)
        depths = memory.slab_depths(
            lambda depth: self._needed_bytes(shape, depth),
            shape[0],
            available,
            None if on_gpu else DEEPEST_CPU_SLAB,
        )
        for depth in depths:
            logger.debug("slabs of %d of %d planes; %s may be used", depth, shape[0], available)
            try:
                with self._allocator(shape, depth, available):
                    heads = self._run(prepared.x, depth, precision, tell)
                break
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                # without its traceback, whose frames would keep the tensors of the failed attempt alive
                problem: Optional[BaseException] = error.with_traceback(None)
            _release(self.device)
        else:
            raise memory.does_not_fit(self._needed_bytes(shape, depths[-1]), available.allowed) from problem
        _release(self.device)
        return heads

    def _needed_bytes(self, shape_zyx: Tuple[int, ...], slab_depth: int, margin: float = ACTIVATION_MARGIN) -> int:
        return int(margin * self.net.peak_bytes(shape_zyx, slab_depth)) + LIBRARY_BYTES

    def _allocator(
        self, shape_zyx: Tuple[int, ...], slab_depth: int, available: memory.Budget
    ) -> contextlib.AbstractContextManager[None]:
        """The quicker allocator where it fits comfortably, else the default one."""
        is_roomy = self._needed_bytes(shape_zyx, slab_depth, REUSE_MARGIN) <= available.comfortable
        return memory.reuse_large_blocks() if is_roomy else contextlib.nullcontext()

    # not inference_mode: its tensors could never enter a computation with gradients, and it is no faster here
    @torch.no_grad()
    def _run(self, x: torch.Tensor, slab_depth: int, precision: str, tell: _Teller) -> Dict[str, torch.Tensor]:
        def network_progress(fraction: float, text: str) -> None:
            tell(_AFTER_PREPROCESS + (_AFTER_NETWORK - _AFTER_PREPROCESS) * fraction, text)

        # Heads leave the network in the format that it computes in; float32 would take twice the memory.
        out_dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        with number_format(precision, self.device):
            out = self.net.forward_in_slabs(x.to(self.device), slab_depth, network_progress, out_dtype)
        heads = {name: getattr(out, name) for name in self.net.heads}
        del out
        for name in list(heads):
            heads[name] = _stored(heads[name], renormalize=precision == "bf16")
        if not all(_is_finite(head) for head in heads.values()):
            raise ModelError(
                f"The model {self.info.name} gives values that are not finite ({precision}).",
                "Use --precision fp32; if that does not help, import the model again.",
            )
        return heads


def _as_volume(given: Any) -> Volume:
    if isinstance(given, (str, os.PathLike)):
        return read_volume(given)
    # By its name: Slicer reloads modules, and a volume made before is still one.
    if type(given).__name__ != "Volume":
        raise InputError(
            f"{type(given).__name__} is no volume.", "Give read_volume(path), a path, or Volume(array, ijk_to_lps)."
        )
    return given


def _as_cache(given: Union[Cache, PathLike, bool, None]) -> Optional[Cache]:
    if isinstance(given, bool) or given is None:
        return Cache() if given else None
    return Cache(given) if isinstance(given, (str, os.PathLike)) else given


def _stored(head: torch.Tensor, renormalize: bool) -> torch.Tensor:
    """(1, C, d, h, w) to contiguous (C, d, h, w) float16 in main memory, plane by plane."""
    head = head[0]
    if head.device.type == "cpu" and head.dtype == torch.float16 and head.is_contiguous() and not renormalize:
        return head
    stored = torch.empty(tuple(head.shape), dtype=torch.float16)
    for z in range(head.shape[1]):
        plane = head[:, z]
        stored[:, z] = F.normalize(plane.float(), dim=0) if renormalize else plane
    return stored


def _is_finite(head: torch.Tensor) -> bool:
    """True without NaN or infinity; by sums of planes, which need no second copy."""
    return all(bool(torch.isfinite(plane.sum(dtype=torch.float32))) for plane in head.unbind(1))


class _Teller:
    """Progress that never goes back and names the volume."""

    def __init__(self, progress: Optional[Progress], volume: Volume) -> None:
        self._progress = progress
        self._name = Path(volume.source).name or "the volume"
        self._last = 0.0

    def __call__(self, fraction: float, text: str) -> None:
        if self._progress is not None:
            self._last = max(self._last, min(1.0, fraction))
            self._progress(self._last, f"Embedding {self._name}: {text}")


def _is_out_of_memory(error: BaseException) -> bool:
    """True for the several ways in which torch and numpy say that memory has run out."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        phrase in text for phrase in ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    )


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    memory.release_unused()
