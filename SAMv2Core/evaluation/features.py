"""Other features through the same matcher: another network's (``--features FILE``), or MIND-SSC.

Another network's come in two kinds:

* a **TorchScript module** (``.pt``, ``.ts``, ``.torchscript``) that takes the scan as our networks see it, (1, 1, D, H,
  W) float32 at 2 mm along the patient's axes, values in [-50, 205] (HU + 1024 scaled by 255 / 4095, less 50; MR by its
  0.2 and 99.8 percentiles), and returns (1, C, d, h, w), any C, d = D / s rounded either way for whole strides s.
  What a network needs otherwise (values in [0, 1], sizes in multiples of 32) its wrapper does, such as::

      class Wrapped(torch.nn.Module):
          def __init__(self, net): super().__init__(); self.net = net
          def forward(self, x): return self.net((x + 50) / 255)
      torch.jit.script(Wrapped(net)).save("other.pt")

* a **folder of embedding files** as ``samv2 embed`` writes them (the layout is told in
  :mod:`SAMv2Core.embedding.file`), one ``NAME.safetensors`` per scan ``NAME.nii.gz``.

Vectors are averaged to the 4 mm lattice where they are finer, normalized to unit length, and stored as float16, as ours
are. A TorchScript file is a program: load it only from whom you trust.

MIND-SSC is a descriptor without any training, the line that a network has to beat: twelve numbers per voxel, how alike
patches around it are to each other (Heinrich et al., MICCAI 2013), computed by ``convexAdam`` (Apache-2.0) at 2 mm,
radius 2, dilation 2, then averaged to the 4 mm lattice. They lie in 0..1 and are compared by squared differences; the
matcher compares unit vectors by their dot product. Taking 0.5 away before the vectors are normalized makes them nearly
equal in length, so that both orders agree closely (and a flat region, whose numbers are all near 1, differs from a
structured one). Its "similarities" are not those that the matcher's verdicts were calibrated on: of a MIND line errors
mean something, ``found`` and ``confidence`` do not.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.embedding.file import load_embedding
from SAMv2Core.errors import InputError, ModelError, UsageError
from SAMv2Core.evaluation.extractor import Extractor
from SAMv2Core.evaluation.landmark_points import scan_stem
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.volume import Volume
from SAMv2Core.models.records import sha256_of
from SAMv2Core.preprocessing.body import body_on_features
from SAMv2Core.preprocessing.preprocess import Preprocessed, preprocess_report
from SAMv2Core.progress import Progress

SCRIPT_SUFFIXES = (".pt", ".ts", ".torchscript", ".pth")
#: Finest lattice that is searched; the paper's fine level.
_STRIDE = 2


def extractor_of(path: str) -> Extractor:
    """The extractor of ``--features``.

    :raises UsageError: neither a folder nor a TorchScript file by its name.
    :raises ModelError: the file is not a TorchScript module.
    """
    if Path(path).is_dir():
        return EmbeddingFolder(Path(path))
    if suffix_of(path) in SCRIPT_SUFFIXES:
        return ScriptedFeatures(Path(path))
    if suffix_of(path) == ".safetensors":
        raise UsageError(
            f"{path} is the embedding of one scan.", "Give the folder with one embedding per scan (NAME.safetensors)."
        )
    raise UsageError(
        f"--features {path} is neither a folder of embeddings nor a TorchScript module.",
        f"A module's name ends in {', '.join(SCRIPT_SUFFIXES)}.",
    )


class ScriptedFeatures(Extractor):
    """The features of a TorchScript module."""

    def __init__(self, path: Path) -> None:
        try:
            self._net: Any = torch.jit.load(str(path), map_location="cpu").eval()
            self.sha256 = sha256_of(path)
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(
                f"{path} cannot be loaded as a TorchScript module ({str(error).strip().splitlines()[0][:160]}).",
                "Save it with torch.jit.script(net).save(FILE).",
            ) from error
        self.name, self.device = path.stem, "cpu"

    def embed(self, volume: Volume, modality: str = "auto", progress: Optional[Progress] = None) -> Embedding:
        """:raises ModelError: the module fails, or returns something else than (1, C, d, h, w)."""
        prepared = preprocess_report(volume, modality)
        if progress is not None:
            progress(0.1, f"Embedding {Path(volume.source).name} with {self.name}")
        try:
            with torch.no_grad():
                out = self._net(prepared.x)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ModelError(
                f"The features {self.name} failed on {volume.source} ({lines[-1][:160]}).",
                "The module must take (1, 1, D, H, W) of any size.",
            ) from error
        return as_embedding(out, prepared, volume, self.name, self.sha256)


class EmbeddingFolder(Extractor):
    """Embeddings that another program wrote, by the names of the scans."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name, self.sha256, self.device = folder.name or "features", "", "cpu"

    def embed(self, volume: Volume, modality: str = "auto", progress: Optional[Progress] = None) -> Embedding:
        """:raises InputError: there is no embedding of this scan, or it is damaged."""
        path = self._folder / f"{scan_stem(Path(volume.source))}.safetensors"
        if not path.exists():
            raise InputError(f"{self._folder} holds no embedding of {volume.source}.", f"Add {path.name}.")
        return load_embedding(path)


def as_embedding(out: Any, prepared: Preprocessed, volume: Volume, name: str, sha256: str) -> Embedding:
    """Dense vectors on strides of the 2 mm lattice as an embedding with a single head.

    :param out: (1, C, d, h, w) of any length and float type.
    :raises ModelError: another shape, or values that are not finite.
    """
    if not isinstance(out, torch.Tensor) or out.ndim != 5 or out.shape[0] != 1 or min(out.shape) < 1:
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ModelError(f"The features {name} are {shape}, not (1, C, d, h, w).", "Wrap the module accordingly.")
    stride = _stride_of(tuple(out.shape[2:]), prepared.grid.shape_zyx, name)
    pool = tuple(_STRIDE if s < _STRIDE else 1 for s in stride)
    if max(pool) > 1:
        out = F.avg_pool3d(out.float(), pool, ceil_mode=True)
        stride = tuple(s * p for s, p in zip(stride, pool))  # type: ignore[assignment]
    vectors = F.normalize(out[0].float(), dim=0)
    if not bool(torch.isfinite(vectors).all()):
        raise ModelError(f"The features {name} are not finite on {volume.source}.", "Check the module.")
    shape = tuple(vectors.shape[1:])
    grid = prepared.grid.strided(stride, shape)
    fine = FeatureMap("fine", vectors.half(), grid)
    return Embedding(
        fine=fine,
        coarse=FeatureMap("coarse", fine.vectors, grid),  # of no weight
        semantic=None,
        body=body_on_features(prepared.body, stride, shape),
        input_grid=prepared.grid,
        volume_grid=volume.grid,
        modality=prepared.modality,
        model=name,
        model_sha256=sha256,
        head_weights={"fine": 1.0},
        source=volume.source,
        warnings=prepared.warnings,
    )


def _stride_of(shape: Tuple[int, ...], lattice: Tuple[int, ...], name: str) -> Tuple[int, int, int]:
    """Whole strides that make the lattice's size the features', rounded up or down."""
    strides = []
    for n, whole in zip(shape, lattice):
        fitting = [s for s in range(1, whole + 1) if n in (whole // s, -(-whole // s))]
        if not fitting:
            raise ModelError(
                f"The features {name} have {n} voxels along an axis of {whole}: no whole stride.",
                "Return features at 1/1, 1/2, 1/4, ... of the input's size.",
            )
        # Of several strides (few voxels) the one nearest to the quotient.
        strides.append(min(fitting, key=lambda s, n=n, whole=whole: abs(s - whole / n)))  # type: ignore[misc]
    return strides[0], strides[1], strides[2]


NAME = "MIND-SSC"
RADIUS, DILATION = 2, 2


class MindFeatures(Extractor):
    """The MIND-SSC descriptor of a volume.

    :raises UsageError: ``convexAdam`` is not installed.
    """

    def __init__(self) -> None:
        try:
            self._mind = importlib.import_module("convexAdam.convex_adam_utils").MINDSSC
        except ImportError as error:
            raise UsageError(
                f"MIND-SSC features need the Python package convexAdam, which does not load ({error}).",
                "pip install convexAdam",
            ) from error
        self.name, self.sha256, self.device = NAME, "", "cpu"

    def embed(self, volume: Volume, modality: str = "auto", progress: Optional[Progress] = None) -> Embedding:
        """The descriptor on the 4 mm lattice; errors are those of preprocessing."""
        prepared = preprocess_report(volume, modality)
        if progress is not None:
            progress(0.1, f"{NAME} of {Path(volume.source).name}")
        with torch.no_grad():
            descriptor = self._mind(prepared.x, RADIUS, DILATION, "cpu")
        return as_embedding(descriptor - 0.5, prepared, volume, NAME, f"radius {RADIUS}, dilation {DILATION}")
