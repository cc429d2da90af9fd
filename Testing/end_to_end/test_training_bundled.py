"""The command that makes the bundled models, on a few phantoms and a few steps: from scans to weights, and goes on."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import yaml

from SAMv2Core.embedding.load import load_model
from SAMv2Core.io.volume import Volume, write_volume
from Testing.samples.synthetic import make_body_volume
from Testing.samples.training_samples import SHAPE, SPACING, PlaceNetwork, phantom_labels
from Training import bundled
from Training.data.index import read_index
from Training.export import trained_state
from Training.tasks.landmark_error import KnownPoints, by_name
from Training.views.scans import load_links

SMALL_VIEWS = ("lite.views.context_size=[24, 32, 32]", "lite.views.detail_size=[16, 24, 24]", "validation.pairs=1")

pytestmark = pytest.mark.slow
pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a short training on three phantoms, two more held out."""
    source, out = tmp_path_factory.mktemp("scans"), tmp_path_factory.mktemp("bundled")
    for seed in range(5):
        folder = source / "ct" / ("train" if seed < 3 else "val")
        folder.mkdir(parents=True, exist_ok=True)
        volume = make_body_volume(SHAPE, SPACING, seed=seed)
        write_volume(volume, folder / f"p{seed}.nii.gz")
        write_volume(Volume(phantom_labels(volume.array), volume.ijk_to_lps), folder / f"p{seed}_labels.nii.gz")
    (source / "labels.json").write_text("{}")
    arguments = ["lite-ct", "--source", str(source), "--out", str(out), "--device", "cpu", "--scale", "0.0001"]
    arguments += [word for change in SMALL_VIEWS for word in ("--set", change)]
    assert bundled.main(arguments) == 0
    return out, arguments


def test_weights_with_their_record_and_the_learning_curve_come_out(made):
    out, _ = made
    model = load_model(out / "lite-ct.safetensors", "cpu")
    assert model.info.architecture == "lite" and model.info.head_weights["fine"] > 0.6
    assert (out / "lite-ct.json").exists()
    with open(out / "lite-ct.training.csv", newline="") as stream:
        last = list(csv.DictReader(stream))[-1]
    assert float(last["val_ct_median_mm"]) >= 0
    assert (out / "lite-ct.training.png").stat().st_size > 1000


def test_parts_start_from_one_another_and_from_maps_between_patients(made):
    out, _ = made
    assert (out / "alone" / "last.pt").exists() and not (out / "alone" / "links.pt").exists()
    assert isinstance(load_links(str(out / "main" / "links.pt")), dict)
    assert f"start: {out / 'alone' / 'last.pt'}" in (out / "main" / "recipe.yaml").read_text()
    finish = (out / "finish" / "recipe.yaml").read_text()
    assert f"links: {out / 'main' / 'links.pt'}" in finish
    assert yaml.safe_load(finish)["validation"]["pairs"] == 1  # as asked for by --set


def test_the_weights_are_the_mean_with_those_before_pairs_of_two_patients(made):
    out, _ = made
    first, last = (trained_state(out / part / "last.pt")[0] for part in ("alone", "finish"))
    mean = trained_state(out / "lite-ct.safetensors")[0]
    # Vectors are exported in full precision; the one that has moved most tells a mean from either side.
    key = max((k for k in first if first[k].ndim == 1), key=lambda k: float((first[k] - last[k]).abs().max()))
    assert float((first[key] - last[key]).abs().max()) > 1e-3
    torch.testing.assert_close(mean[key], 0.25 * first[key] + 0.75 * last[key], rtol=1e-5, atol=1e-6)


@pytest.fixture
def first_training(monkeypatch):
    """The arguments of the first training, which ends as one that failed."""
    given = []

    def refused(arguments):
        given.extend(arguments)
        return 1

    monkeypatch.setattr(bundled.train, "main", refused)
    return given


def test_weights_to_start_from_take_the_place_of_the_first_part(made, tmp_path, first_training):
    out, arguments = made
    again = [*arguments[:4], str(tmp_path), *arguments[5:], "--start", str(out / "lite-ct.safetensors")]
    assert arguments[3] == "--out" and bundled.main(again) != 0
    assert first_training[first_training.index("--out") + 1] == str(tmp_path / "main")
    assert f"network.start={out / 'lite-ct.safetensors'}" in first_training
    assert f"lite.links={tmp_path / 'main' / 'links.pt'}" in first_training


def test_ct_and_mr_are_trained_on_pairs_aligned_anew(tmp_path, first_training):
    folder = tmp_path / "scans" / "ctmr" / "train"
    folder.mkdir(parents=True)
    for modality in ("ct", "mr"):
        write_volume(make_body_volume(SHAPE, SPACING, seed=0, modality=modality), folder / f"p_{modality}.nii.gz")
    assert bundled.main(["lite-ctmr", "--source", str(tmp_path / "scans"), "--out", str(tmp_path / "out")]) != 0
    data = first_training[first_training.index("--data") + 1]
    assert data == str(tmp_path / "out" / "aligned")
    assert len(read_index(data).pairs(registered=True)) == 1


def test_the_same_command_does_nothing_twice(made):
    out, arguments = made
    times = {p: p.stat().st_mtime_ns for p in out.glob("*/links.pt")}
    before = (out / "lite-ct.safetensors").read_bytes()
    assert bundled.main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/links.pt")} == times
    assert (out / "lite-ct.safetensors").read_bytes() == before


def test_the_error_at_known_points_counts_pairs_of_held_out_patients(made):
    out, _ = made
    index = read_index(out / "prepared")
    errors = [one.error_mm for one in by_name(KnownPoints(index).find(PlaceNetwork()))["ct"]]
    assert len(errors) % 2 == 0 and 2 <= len(errors) <= 6  # two ordered pairs, up to three labels
    assert np.median(errors) < 30  # the phantoms are 160 mm wide
