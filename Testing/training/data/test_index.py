"""The index of prepared scans: what is written is read back; what is damaged is named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from Training.data.index import (
    FIELD_STEP,
    Entry,
    Index,
    field_at,
    moved_to,
    partner_points,
    read_index,
    to_network,
    to_stored,
    write_index,
)


def entry(name: str = "a", **changes) -> Entry:
    given = {
        "name": name, "group": "torso", "modality": "ct", "image": f"{name}.image.npy", "body": f"{name}.body.npy",
        "shape_zyx": (4, 5, 6), "origin_lps": (1.5, -2.0, 900.0), "split": "train",
    }  # fmt: skip
    return Entry(**{**given, **changes})


def test_what_is_written_is_read_back(tmp_path):
    matrix = tuple(np.eye(4).ravel())
    full = entry(
        "b", labels="b.labels.npy", label_names={"3": "rein gauche ü"}, partner="a", partner_matrix=matrix, weight=0.5,
        partner_field="b.field.npy", source="/x/b.nii.gz", fingerprint="f", warnings=("odd",), split=None,
    )  # fmt: skip
    write_index(tmp_path, [entry(), full])
    index = read_index(tmp_path)
    assert index.entries == (entry(), full)
    assert index["b"] is index.entries[1]


def test_unknown_keys_of_a_later_minor_version_are_ignored(tmp_path):
    path = write_index(tmp_path, [entry()])
    content = json.loads(path.read_text().splitlines()[1])
    path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps({**content, "color": "red"}) + "\n")
    assert read_index(tmp_path).entries == (entry(),)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "not an index"),
        (["no json"], "not an index"),
        (['{"format": "samv2-training-index", "version": 7}'], "version 7"),
        (['{"format": "samv2-training-index", "version": 1}', "", '{"name": "x"'], "line 3"),
        (['{"format": "samv2-training-index", "version": 1}', '{"name": "x"}'], "line 2"),
    ],
)
def test_damage_is_named(tmp_path, lines, said):
    (tmp_path / "index.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=said):
        read_index(tmp_path)


def test_missing_index_and_names_used_twice(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_index(tmp_path)
    write_index(tmp_path, [entry(), entry()])
    with pytest.raises(InputError, match="two scans of the name 'a'"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"modality": "pet"}, {"split": "test"}, {"weight": 1.5}, {"partner_matrix": (1.0, 2.0)},
              {"origin_lps": (0.0, float("nan"), 0.0)}],
)  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(InputError, match="Index entry 'a'"):
        entry(**wrong)


def test_select_and_pairs_say_what_is_missing(tmp_path):
    index = Index(tmp_path, (entry(), entry("v", split="val"), entry("m", modality="mr", split=None)))
    assert [e.name for e in index.select(split="train")] == ["a", "m"]
    assert [e.name for e in index.select(split=None, modality="ct")] == ["a", "v"]
    with pytest.raises(InputError, match=r"with labels \(it holds: torso/ct/train"):
        index.select(labelled=True)
    with pytest.raises(InputError, match="no CT-MR pair"):
        index.pairs()


def test_pairs_and_their_registration(tmp_path):
    ct, mr = entry("c", partner="m"), entry("m", modality="mr", partner="c")
    index = Index(tmp_path, (mr, ct, entry("lonely", partner="gone")))
    assert index.pairs() == ((ct, mr),)
    with pytest.raises(InputError, match="no registered CT-MR pair"):
        index.pairs(registered=True)
    known = dataclasses.replace(ct, partner_matrix=tuple(np.eye(4).ravel()))
    assert Index(tmp_path, (known, mr)).pairs(registered=True) == ((known, mr),)
    failed = dataclasses.replace(known, weight=0.0)
    with pytest.raises(InputError, match="no registered"):
        Index(tmp_path, (failed, mr)).pairs(registered=True)


def test_arrays_are_mapped_and_checked(tmp_path):
    index = Index(tmp_path, (entry(),))
    np.save(tmp_path / "a.image.npy", np.zeros((4, 5, 6), np.int16))
    np.save(tmp_path / "a.body.npy", np.zeros((4, 5, 5), np.uint8))
    assert isinstance(index.array("a.image.npy"), np.memmap)
    with pytest.raises(InputError, match=r"a\.body\.npy is not of the shape"):
        index.check(index["a"])
    (tmp_path / "a.image.npy").write_bytes(b"x" * 200)
    with pytest.raises(InputError, match=r"a\.image\.npy cannot be read"):
        index.array("a.image.npy")


def test_stored_units_keep_hu_exactly_and_the_networks_scale_to_a_rounding():
    hu = np.arange(-1024, 3072, dtype=np.int16)
    assert np.array_equal(to_stored(to_network(hu.astype(np.float64))), hu)
    x = np.linspace(-50, 205, 1000)
    assert np.abs(to_network(to_stored(x).astype(float)) - x).max() <= 255 / 4095 / 2 + 1e-6


def test_another_folder_sees_the_same_files(tmp_path):
    old, new = tmp_path / "old", tmp_path / "runs" / "round_0"
    assert moved_to(entry(), old, new)["image"] == "../../old/a.image.npy"


def test_partner_points_apply_matrix_and_field(tmp_path):
    """A field that is linear in the position is reproduced exactly by trilinear interpolation."""
    rng = np.random.default_rng(0)
    shape = (33, 41, 25)
    gradient, shift = rng.normal(0, 0.05, (3, 3)), rng.normal(0, 5, 3)
    matrix = np.eye(4)
    matrix[:3] = rng.normal(0, 1, (3, 4))
    one = entry(
        shape_zyx=shape, partner="m", partner_matrix=tuple(matrix.ravel()), partner_field="f.npy",
        direction=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    )  # fmt: skip
    size = [-(-n // FIELD_STEP) for n in shape]
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij")[::-1], -1) * FIELD_STEP
    points = one.grid.to_lps(ijk.reshape(-1, 3))
    np.save(tmp_path / "f.npy", (points @ gradient + shift).reshape(*size, 3))
    inside = one.grid.to_lps(rng.uniform(0, np.array(shape[::-1]) - 5, (50, 3)))
    moved = partner_points(Index(tmp_path, (one,)), one, inside)
    expected = inside @ matrix[:3, :3].T + matrix[:3, 3] + inside @ gradient + shift
    assert np.abs(moved - expected).max() < 1e-6
    assert field_at(np.ones((1, 2, 2, 3)), one.grid, inside).shape == (50, 3)
    with pytest.raises(InputError, match="not registered"):
        partner_points(Index(tmp_path, ()), entry(), inside)
