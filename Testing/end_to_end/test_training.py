"""From a folder of NIfTI files to a trained, evaluated network: the paper's four recipes, and the light one."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest

from Testing.samples.synthetic import make_body_volume
from Testing.samples.training_samples import MR_SHIFT_LPS, SHAPE, SPACING, TINY, phantom_labels
from Training import prepare
from Training.data.index import read_index
from Training.engine.record import series
from Training.train import main

pytestmark = pytest.mark.slow

FAST = (*TINY, "network.narrow=8", "run.log_every=10", "run.validate_every=1000", "validation.points=300",
        "validation.pairs=8")  # fmt: skip

# Under random contrast a network learns more slowly: more and longer steps. 4 mm of blur leave little of the phantoms.
_ANY_CONTRAST = ("intensity.blur_mm=[0, 1]", "optimizer.lr=0.05")

# Steps, further changes and the figures of the validation that must rise.
RECIPES = {
    "sam": (25, (), ("retrieval",)),
    "sampp": (25, (), ("retrieval", "label_retrieval")),
    "aggsam": (80, (*_ANY_CONTRAST, "optimizer.lr=0.1"), ("retrieval",)),
    "crosssam": (100, _ANY_CONTRAST, ("retrieval", "cross_retrieval")),
}


def write(path, array, volume):
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), to_ras @ volume.ijk_to_lps), path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """NIfTI files of phantom patients (CT with labels, registered MR), prepared; two patients are held out."""
    folder = tmp_path_factory.mktemp("nifti")
    shift = np.eye(4)
    shift[:3, 3] = MR_SHIFT_LPS
    rows = ["ct,mr,matrix,split,ct_labels"]
    for seed in range(5):
        for modality, center in (("ct", np.zeros(3)), ("mr", MR_SHIFT_LPS)):
            volume = make_body_volume(SHAPE, SPACING, seed=seed, modality=modality, center_lps=center)
            write(folder / f"p{seed}_{modality}.nii.gz", volume.array, volume)
            if modality == "ct":
                write(folder / f"p{seed}_ct_labels.nii.gz", phantom_labels(volume.array), volume)
        numbers = " ".join(str(v) for v in shift.ravel())
        split = "train" if seed < 3 else "val"
        rows.append(f"p{seed}_ct.nii.gz,p{seed}_mr.nii.gz,{numbers},{split},p{seed}_ct_labels.nii.gz")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path_factory.mktemp("prepared")
    assert prepare.main([str(folder / "pairs.csv"), "--out", str(out), "--jobs", "1"]) == 0
    return out


def test_the_index_holds_what_the_recipes_need(data):
    index = read_index(data)
    assert len(index) == 10
    assert len(index.pairs("train", registered=True)) == 3
    assert all(entry.labels is not None for entry in index.select(None, "train", "ct"))


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_learns(data, tmp_path, recipe):
    steps, changes, figures = RECIPES[recipe]
    sets = [text for change in (*FAST, *changes) for text in ("--set", change)]
    out = tmp_path / recipe
    arguments = [recipe, "--data", str(data), "--out", str(out), "--steps", str(steps), "--device", "cpu", *sets]
    assert main(arguments) == 0
    for name in [n for n in ("fine", "coarse", "semantic", "cross_fine", "cross_coarse") if series_of(out, n)]:
        values = list(series_of(out, name).values())
        assert values[-1] < values[0], (name, values)
    for name in figures:
        before, after = (series(out / "log.csv", f"val_{name}")[step] for step in (0, steps))
        n = series(out / "log.csv", f"val_{name.replace('retrieval', 'points')}")[0]
        # Three standard errors of the difference of two shares, as if only every fourth point were independent.
        error = math.sqrt((before * (1 - before) + after * (1 - after)) / (n / 4))
        assert after > before + 3 * error, (name, before, after)


def series_of(out, name):
    return series(out / "log.csv", f"loss_{name}")


def test_the_light_recipe_runs_in_the_same_engine(data, tmp_path):
    sets = ["--set", "lite.context_only=2", "--set", "run.log_every=2", "--set", "validation.pairs=1"]
    arguments = ["lite-ct", "--data", str(data), "--out", str(tmp_path), "--steps", "4", "--device", "cpu", *sets]
    assert main(arguments) == 0
    assert set(series_of(tmp_path, "fine")) == {4}
    assert "val_coarse_rate" in (tmp_path / "log.csv").read_text()
