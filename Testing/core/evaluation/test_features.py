"""Other features through the same matcher: geometry of their lattices, what is refused, MIND-SSC."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from SAMv2Core.embedding.file import save_embedding
from SAMv2Core.errors import InputError, ModelError, UsageError
from SAMv2Core.evaluation.chosen import make_extractor
from SAMv2Core.evaluation.features import as_embedding, extractor_of
from SAMv2Core.matching.match import match
from SAMv2Core.preprocessing.preprocess import preprocess_report
from Testing.samples.embedding_samples import random_embedding, torso

SHIFT = np.array([20.0, -10.0, 36.0])
POINTS = np.array([(0.0, 0.0, 140.0), (10.0, -12.0, 150.0)])


class Patches(torch.nn.Module):
    """Numbers about the surroundings of each voxel, with or without a stride; enough to find itself again."""

    def __init__(self, stride: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = torch.nn.Conv3d(1, 16, 5, stride, 2, bias=False)
        weight = torch.randn(self.conv.weight.shape, generator=generator)
        self.conv.weight.data = weight - weight.mean((2, 3, 4), keepdim=True)  # structure, not brightness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv((x + 50) / 255)


class Flat(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(2)


def saved(net: torch.nn.Module, path):
    torch.jit.script(net).save(str(path))
    return path


def moved(volume, shift):
    matrix = volume.ijk_to_lps.copy()
    matrix[:3, 3] += shift
    return dataclasses.replace(volume, ijk_to_lps=matrix, source="moved.nii.gz")


def textured():
    """A torso whose every place is unlike the others."""
    volume = torso()
    noise = np.random.default_rng(1).normal(0, 200, volume.array.shape) * (volume.array > -900)
    return dataclasses.replace(volume, array=(volume.array + noise).astype(np.int16))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_scripted_features_match_whatever_their_stride(tmp_path, stride):
    extractor = extractor_of(str(saved(Patches(stride), tmp_path / "net.pt")))
    template, query = textured(), moved(textured(), SHIFT)
    one, other = (extractor.embed(volume, "ct") for volume in (template, query))
    expected = 4.0 if stride < 4 else 8.0  # finer ones are averaged to 4 mm
    np.testing.assert_allclose(one.fine.grid.spacing_ijk_mm, expected)
    assert one.fine.vectors.dtype == torch.float16 and one.model == "net" and len(one.model_sha256) == 64
    norms = one.fine.vectors.float().norm(dim=0)
    assert float((norms - 1).abs().max()) < 2e-3
    # Centers of feature voxels; the fit between voxels may leave them by up to one voxel, since noise has no slopes.
    points = one.fine.grid.to_lps(np.argwhere(one.body)[:: one.body.sum() // 20, ::-1])
    found = [answer.candidate_lps for answer in match(one, other, points.tolist(), method="nearest")]
    errors = np.linalg.norm(np.array(found) - points - SHIFT, axis=1)
    assert errors.max() <= np.sqrt(3) * expected and np.median(errors) < expected / 2


def test_body_and_lattice_are_those_of_the_scan(tmp_path):
    extractor = extractor_of(str(saved(Patches(2), tmp_path / "net.pt")))
    volume = torso((41, 37, 45))  # odd: sizes are rounded up by a stride of 2
    emb = extractor.embed(volume, "ct")
    assert emb.fine.grid.shape_zyx == (21, 19, 23) == emb.body.shape
    prepared = preprocess_report(volume, "ct")
    # The center of feature voxel 0 lies between lattice voxels 0 and 1.
    np.testing.assert_allclose(emb.fine.grid.to_lps(np.zeros(3)), prepared.grid.to_lps(np.full(3, 0.5)))
    assert emb.body[10, 9, 11] and not emb.body[10, 0, 0]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1, 4, 10, 10), "not .1, C, d, h, w."), ((1, 4, 30, 18, 22), "no whole stride"), ((2, 4, 20, 18, 22), "not")],
)
def test_other_shapes_are_refused(shape, reason):
    volume = torso((40, 36, 44))
    with pytest.raises(ModelError, match=reason):
        as_embedding(torch.ones(shape), preprocess_report(volume, "ct"), volume, "net", "")


def test_values_that_are_no_numbers_are_refused():
    volume = torso((40, 36, 44))
    out = torch.ones((1, 4, 20, 18, 22))
    out[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        as_embedding(out, preprocess_report(volume, "ct"), volume, "net", "")


def test_files_that_are_no_features_are_refused(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="cannot be loaded as a TorchScript"):
        extractor_of(str(tmp_path / "broken.pt"))
    with pytest.raises(ModelError, match="cannot be loaded"):
        extractor_of(str(tmp_path / "missing.pt"))
    with pytest.raises(UsageError, match="embedding of one scan"):
        extractor_of(str(tmp_path / "a.safetensors"))
    with pytest.raises(UsageError, match="neither"):
        extractor_of(str(tmp_path / "a.onnx"))
    flat = extractor_of(str(saved(Flat(), tmp_path / "flat.pt")))
    with pytest.raises(ModelError, match="Wrap the module"):
        flat.embed(torso(), "ct")


def test_a_folder_of_embeddings_goes_by_the_scans_names(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    emb = random_embedding()
    save_embedding(emb, folder / "torso.safetensors")
    extractor = make_extractor({"kind": "file", "path": str(folder)})
    found = extractor.embed(torso(source="/scans/torso.nii.gz"))
    assert extractor.name == "other" and torch.equal(found.fine.vectors, emb.fine.vectors)
    with pytest.raises(InputError, match="no embedding of /scans/b"):
        extractor.embed(torso(source="/scans/b.nii.gz"))


def test_mind_matches_a_moved_scan():
    pytest.importorskip("convexAdam")
    extractor = make_extractor({"kind": "mind"})
    one, other = extractor.embed(torso(), "ct"), extractor.embed(moved(torso(), SHIFT), "ct")
    assert one.fine.vectors.shape[0] == 12
    for answer, point in zip(match(one, other, POINTS.tolist(), method="nearest"), POINTS):
        assert np.linalg.norm(answer.candidate_lps - point - SHIFT) < 2.0


def test_mind_without_its_package_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "convexAdam.convex_adam_utils", None)
    with pytest.raises(UsageError, match="pip install convexAdam"):
        make_extractor({"kind": "mind"})
