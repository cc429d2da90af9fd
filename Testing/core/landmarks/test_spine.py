"""Levels of the spine: synthetic people whose vertebrae look alike, and whose organs lie at other levels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from SAMv2Core.landmarks import spine
from SAMv2Core.landmarks.atlas import exemplar, join
from SAMv2Core.landmarks.find import find_landmarks, judge
from SAMv2Core.landmarks.landmark import Coefficients, Witnesses
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding

GAP_MM = 26.0
NAMES = [f"vertebra_T{n}" for n in range(3, 13)]
HEIGHTS = dict(zip(NAMES, GAP_MM * (4.5 - np.arange(10.0))))  # z mm; T3 on top
ACROSS = AnatomyField(seed=1, channels=16, wavelengths_mm=(60, 160))
ALONG = AnatomyField(seed=2, channels=16, wavelengths_mm=(500, 900))
ENDS = np.random.default_rng(3).standard_normal((2, 16))


def looks(organs_mm: float):
    """A field: where across the body, where between two discs, at which organs' level, and both ends' own looks."""

    def field(points: np.ndarray) -> np.ndarray:
        z = points[:, 2]
        phase = 2 * np.pi * (z - HEIGHTS["vertebra_T3"]) / GAP_MM
        ends = [np.exp(-0.5 * ((z - HEIGHTS[name]) / 10) ** 2) for name in (NAMES[0], NAMES[-1])]
        parts = [
            ACROSS(points * (1, 1, 0)),
            0.7 * np.column_stack([np.cos(phase), np.sin(phase)]),
            1.2 * ALONG(points * (0, 0, 1) - (0, 0, organs_mm)),
            0.2 * np.column_stack(ends) @ ENDS,
        ]
        vectors = np.column_stack(parts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return field


def scan(seed: int, organs_mm: float, z_mm=(-150.0, 150.0)):
    """A person of own size and place; the spine is bent forward and, by 20 mm, to the side."""
    rng = np.random.default_rng(seed)
    matrix = np.diag([*rng.uniform(0.95, 1.05, 3), 1.0])
    matrix[:3, 3] = rng.uniform(-20, 20, 3)
    low, high = matrix[2, 2] * np.array(z_mm) + matrix[2, 3]
    grid = lattice((96, 88, high - low), 4.0, (matrix[0, 3], matrix[1, 3], (low + high) / 2))
    straight = matrix_map(np.linalg.inv(matrix))

    def bend(z):
        return np.column_stack([20 * np.sin(z / 120), z**2 / 1500, 0 * z])

    def to_anatomy(points):
        inside = straight(points)
        return inside - bend(inside[:, 2])

    truth = {name: matrix_map(matrix)(np.array([[0, 0, z]]) + bend(np.array([z])))[0] for name, z in HEIGHTS.items()}
    emb = synthetic_embedding(looks(organs_mm), grid, to_anatomy, noise=0.2, seed=seed)
    return emb, {name: place for name, place in truth.items() if grid.contains(place[None])[0]}


@pytest.fixture(scope="module")
def atlas():
    return join([exemplar(*scan(seed, 0.0), f"person {seed}", {}) for seed in range(1, 5)])


def right_levels(found, truth) -> list:
    nearest = {one.name: min(truth, key=lambda n: np.linalg.norm(one.candidate_lps - truth[n])) for one in found}
    return [nearest[name] == name for name in truth]


def test_levels_follow_vertebrae_not_organs(atlas, monkeypatch):
    """Organs a whole level lower: level by level, the exemplars agree on wrong ones; the chain does not."""
    emb, truth = scan(20, -GAP_MM)
    found = find_landmarks(emb, atlas)
    assert all(right_levels(found, truth))
    assert max(np.linalg.norm(one.candidate_lps - truth[one.name]) for one in found) < 8.0  # a voxel of the coarse map
    monkeypatch.setattr("SAMv2Core.landmarks.find.read_spine", lambda *_: {})
    assert sum(right_levels(find_landmarks(emb, atlas), truth)) < 8


def test_levels_beyond_the_scan_are_not_found(atlas):
    emb, truth = scan(21, 0.0, (-60.0, 130.0))
    assert set(NAMES) - set(truth) == set(NAMES[-3:])  # the last one within is T9, at -39 mm
    found = {one.name: one for one in find_landmarks(emb, atlas)}
    assert all(right_levels(found.values(), truth))
    for name in NAMES[-3:]:
        assert found[name].witnesses.level == 0 and found[name].position_lps is None and found[name].reason


def test_a_piece_without_ends_is_less_sure_and_says_what_else_it_may_be(atlas):
    """Half a level lower, and neither end in the scan: nothing tells this level from the next."""
    whole, _ = scan(22, -GAP_MM / 2)
    piece, truth = scan(22, -GAP_MM / 2, (-60.0, 60.0))
    sure = {one.name: one for one in find_landmarks(whole, atlas)}
    unsure = {one.name: one for one in find_landmarks(piece, atlas)}
    name = "vertebra_T7"
    assert name in truth
    assert sure[name].witnesses.level > 0.99 > 0.9 > unsure[name].witnesses.level
    assert unsure[name].witnesses.neighbor in {"vertebra_T6", "vertebra_T8"}


def test_what_is_said_of_an_unsure_level():
    def reason(level, neighbor):
        witnesses = Witnesses(0.9, 0.9, 3.0, 0.5, 9, 0.0, level=level, neighbor=neighbor)
        one = judge("vertebra_T7", np.zeros(3), witnesses, Coefficients(level_matched_above=0.99))
        return one.confidence, one.status, one.reason

    half, nearly, never = reason(0.5, "vertebra_T8"), reason(0.9, "vertebra_T8"), reason(0.0, "")
    assert half[1:] == ("uncertain", "The level may be one off: vertebra_T7 or vertebra_T8.")
    assert nearly[0] > half[0] > never[0]
    assert never[1:] == ("not_found", "The spine in the scan ends before it.")


def test_order_and_what_is_no_vertebra():
    names = ["vertebra_L1", "carina", "vertebra_T12", "vertebra_C7", "vertebra_T9", "vertebra_x", "vertebra_L1"]
    assert spine.vertebrae(names) == ["vertebra_C7", "vertebra_T9", "vertebra_T12", "vertebra_L1"]


def test_two_levels_are_no_chain(atlas):
    two = atlas.part(np.isin(atlas.names, NAMES[:2]))
    found = find_landmarks(scan(20, 0.0)[0], two)
    assert [np.isnan(one.witnesses.level) for one in found] == [True, True]


def test_distances_that_no_exemplar_shows_lie_between_known_ones(atlas):
    some = atlas.part(~np.isin(atlas.names, NAMES[4:5]))
    gaps = spine._gaps(some, NAMES[:4] + NAMES[5:])
    assert gaps[3] == pytest.approx(2 * GAP_MM, rel=0.1) and gaps[2] == pytest.approx(GAP_MM, rel=0.1)
    upper = atlas.part(np.isin(atlas.names, NAMES[:3]) & (np.array(atlas.exemplars) == "person 1"))
    lower = atlas.part(np.isin(atlas.names, NAMES[6:]) & (np.array(atlas.exemplars) == "person 2"))
    gaps = spine._gaps(join([upper, lower]), NAMES[:3] + NAMES[6:])
    assert gaps[2] == pytest.approx(4 * GAP_MM, rel=0.1) and gaps[0] == pytest.approx(GAP_MM, rel=0.1)


def test_exemplars_of_both_ends_tell_what_lies_apart(atlas):
    """One exemplar shows the upper levels, one the lower; the scan shows all, and some that nobody names."""
    upper = atlas.part(np.isin(atlas.names, NAMES[:3]) & (np.array(atlas.exemplars) == "person 1"))
    lower = atlas.part(np.isin(atlas.names, NAMES[6:]) & (np.array(atlas.exemplars) == "person 2"))
    emb, truth = scan(23, 0.0)
    found = find_landmarks(emb, join([upper, lower]))
    assert len(found) == 7
    assert max(np.linalg.norm(one.candidate_lps - truth[one.name]) for one in found) < 8.0


def test_odd_scans_and_names_do_no_harm(atlas):
    """A single slice; a body with a hole as long as three vertebrae; a thirteenth thoracic beside a first lumbar."""
    thin, _ = scan(20, 0.0, (-2.0, 2.0))
    assert len(find_landmarks(thin, atlas)) == len(NAMES)
    emb, truth = scan(20, 0.0)
    body = np.array(emb.body)
    body[25:45] = False  # of 75 slices of 4 mm
    found = {one.name: one for one in find_landmarks(dataclasses.replace(emb, body=body), atlas)}
    assert np.linalg.norm(found[NAMES[-1]].candidate_lps - truth[NAMES[-1]]) < 8.0
    renamed = {NAMES[-2]: "vertebra_T13", NAMES[-1]: "vertebra_L1"}
    lumbar = dataclasses.replace(atlas, names=tuple(renamed.get(name, name) for name in atlas.names))
    last = find_landmarks(emb, lumbar, ["vertebra_L1"])[0]
    assert np.linalg.norm(last.candidate_lps - truth[NAMES[-1]]) < 8.0
