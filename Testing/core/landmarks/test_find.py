"""Landmarks by several exemplars: synthetic people whose anatomy, and so every right answer, is known exactly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from SAMv2Core.errors import Cancelled, InputError, ModelError, UsageError
from SAMv2Core.landmarks.atlas import Atlas, exemplar, join
from SAMv2Core.landmarks.find import find_landmarks, geometric_median
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding

FIELD = AnatomyField(seed=3)
NAMES = [f"landmark_{n}" for n in range(12)]
PLACES = dict(zip(NAMES, np.random.default_rng(5).uniform((-110, -60, -110), (110, 60, 110), (12, 3))))
FAR = {"foot": np.array([0.0, 0.0, -420.0])}  # in no scan


def person(seed: int) -> np.ndarray:
    """(4, 4) anatomy to world of one person: size differs by up to 8 %, place by up to 40 mm."""
    rng = np.random.default_rng(seed)
    matrix = np.diag([*rng.uniform(0.92, 1.08, 3), 1.0])
    matrix[:3, 3] = rng.uniform(-40, 40, 3)
    return matrix


def scan(seed: int, noise: float = 0.3, wrong: float = 0.0, **options):
    to_world = person(seed)
    grid = lattice(center_lps=tuple(to_world[:3, 3]), **options)
    to_anatomy = matrix_map(np.linalg.inv(to_world))
    return synthetic_embedding(FIELD, grid, to_anatomy, noise=noise, wrong_fraction=wrong, seed=seed)


def truth(seed: int, places=PLACES) -> dict:
    matrix = person(seed)
    return {name: matrix[:3, :3] @ place + matrix[:3, 3] for name, place in places.items()}


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    parts = [exemplar(scan(seed), truth(seed), f"person {seed}", {}) for seed in range(1, 7)]
    # One exemplar knows a place far below; its vector is that place's, though its scan is made longer for it.
    long = scan(7, size_mm=(320, 220, 1000))
    return join([*parts, exemplar(long, truth(7, {**PLACES, **FAR}), "person 7", {})])


def errors_mm(found, seed: int) -> np.ndarray:
    right = truth(seed)
    return np.array([np.linalg.norm(one.candidate_lps - right[one.name]) for one in found if one.name in right])


def test_landmarks_are_found_within_a_voxel(atlas):
    found = find_landmarks(scan(20), atlas)
    assert [one.name for one in found] == sorted([*NAMES, "foot"])
    assert np.median(errors_mm(found, 20)) < 5.0  # 8 mm voxels: the nearest center lies up to 7 mm away
    assert errors_mm(found, 20).max() < 12.0


def test_many_witnesses_outvote_what_one_gets_wrong(atlas):
    """A third of the vectors are those of other places: single exemplars are led astray, the consensus is not."""
    rng = np.random.default_rng(1)
    wrong = rng.uniform(size=len(atlas.names)) < 1 / 3
    mixed = dataclasses.replace(atlas, vectors=np.where(wrong[:, None], rng.permutation(atlas.vectors), atlas.vectors))
    emb = scan(21)
    single = [mixed.part(np.array(atlas.exemplars) == f"person {n}") for n in range(1, 4)]
    alone = np.mean([errors_mm(find_landmarks(emb, part), 21) for part in single])
    together = errors_mm(find_landmarks(emb, mixed), 21)
    assert np.median(together) < 8.0 and together.mean() < 0.5 * alone


def test_what_the_scan_does_not_show_is_not_found(atlas):
    """The lower half is cut off: landmarks there have no position; those in the middle of the rest are found."""
    center = person(22)[:3, 3] + (0, 0, 60)
    grid = lattice(size_mm=(320, 220, 160), center_lps=tuple(center))
    emb = synthetic_embedding(FIELD, grid, matrix_map(np.linalg.inv(person(22))), noise=0.3, seed=22)
    found = {one.name: one for one in find_landmarks(emb, atlas)}
    height = {name: place[2] - center[2] for name, place in truth(22).items()}
    below = [name for name in NAMES if height[name] < -110]
    inside = [name for name in NAMES if abs(height[name]) < 60]
    assert len(below) >= 2 and len(inside) >= 3
    assert all(found[name].position_lps is None and found[name].status == "not_found" for name in [*below, "foot"])
    assert all(found[name].position_lps is not None for name in inside)
    assert all(found[name].reason for name in below)


def test_two_landmarks_do_not_share_a_place(atlas):
    """A copy of a landmark that lies elsewhere in the exemplars claims the same place; one of the two must yield."""
    twins = dataclasses.replace(
        atlas,
        names=tuple("twin" if name == NAMES[1] else name for name in atlas.names),
        vectors=np.where(
            (np.array(atlas.names) == NAMES[1])[:, None],
            atlas.vectors[atlas.names.index(NAMES[0])][None],
            atlas.vectors,
        ),
    )
    found = {one.name: one for one in find_landmarks(scan(23), twins)}
    apart = np.linalg.norm(found["twin"].candidate_lps - found[NAMES[0]].candidate_lps)
    crowded = [name for name in ("twin", NAMES[0]) if found[name].witnesses.is_crowded]
    assert apart > 40 or len(crowded) == 1


def test_only_some_names_in_the_order_asked(atlas):
    emb = scan(20)
    everything = {one.name: one for one in find_landmarks(emb, atlas)}
    some = find_landmarks(emb, atlas, [NAMES[7], NAMES[2]])
    assert [one.name for one in some] == [NAMES[7], NAMES[2]]
    for one in some:
        np.testing.assert_array_equal(one.candidate_lps, everything[one.name].candidate_lps)


def test_refusals(atlas):
    emb = scan(20)
    with pytest.raises(UsageError, match="'tail'"):
        find_landmarks(emb, atlas, ["tail"])
    with pytest.raises(ModelError, match="another model"):
        find_landmarks(dataclasses.replace(emb, model_sha256="1" * 64), atlas)
    with pytest.raises(ModelError, match="no atlas"):
        find_landmarks(emb)
    with pytest.raises(InputError, match="no body"):
        find_landmarks(dataclasses.replace(emb, body=np.zeros_like(emb.body)), atlas)


def test_progress_may_cancel(atlas):
    def stop(fraction, text):
        raise Cancelled()

    with pytest.raises(Cancelled):
        find_landmarks(scan(20), atlas, progress=stop)


def test_geometric_median_ignores_a_far_point():
    points = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0], [900, 900, 900]])
    assert np.linalg.norm(geometric_median(points, np.ones(5)) - (5, 5, 0)) < 6  # the mean lies 300 mm off
