"""What two scans say of lesions at their places; the truth is planted in a textured body, moved and rescanned."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.io.volume import Volume
from SAMv2Core.simulation.lesion_fates import Ball, planted
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.presence import (
    MERGED_COEFFICIENTS,
    STATES,
    part_around,
    presence_before,
    presence_of,
    presences,
    presences_in_parts,
    terms,
    view_of,
)

SHIFT_LPS = np.array([7.0, -5.0, 11.0])
NOISE_HU = 10.0
PLACES = {"a": (40.0, 40.0, 40.0), "b": (90.0, 45.0, 50.0), "c": (60.0, 100.0, 80.0)}


@pytest.fixture(scope="module")
def body():
    """Tissue with structure of some centimeters and of some millimeters, 2 mm voxels."""
    rng = np.random.default_rng(0)
    array = sum(
        scale * ndimage.gaussian_filter(rng.standard_normal((60, 70, 70)), sigma) * sigma**1.5
        for scale, sigma in ((25, 6), (12, 2))
    )
    return Volume((40 + array).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), "body", "ct")


def ball(place, radius):
    return Ball(np.array(place, dtype=float), np.full(3, radius), np.eye(3))


def scanned(volume, seed=1):
    """Another scanner: elsewhere in the world, more contrast, brighter, noisier."""
    noise = np.random.default_rng(seed).normal(0, NOISE_HU, volume.array.shape)
    matrix = volume.ijk_to_lps.copy()
    matrix[:3, 3] += SHIFT_LPS
    return dataclasses.replace(volume, array=(1.15 * volume.array + 12 + noise).astype(np.float32), ijk_to_lps=matrix)


def both(body, before, after, contrast=70.0):
    return planted(body, [(contrast, balls) for balls in before]), scanned(
        planted(body, [(contrast, b) for b in after])
    )


@pytest.mark.parametrize("contrast", [70.0, -60.0])
def test_one_stays_one_vanishes_one_grows(body, contrast):
    before = [[ball(place, 8.0)] for place in PLACES.values()]
    after = [before[0], [], [ball(PLACES["c"], 14.5)]]
    baseline, follow_up = both(body, before, after, contrast)
    said = {
        name: presence_of(lesion_at(name, place, 16.0), np.array(place) + SHIFT_LPS + (1.5, -1, 1), baseline, follow_up)
        for name, place in PLACES.items()
    }
    assert {name: one.state for name, one in said.items()} == {"a": "unchanged", "b": "vanished", "c": "changed"}
    assert said["c"].growth == pytest.approx(14.5 / 8, rel=0.25)
    for one in said.values():
        assert one.confidence == max(one.probabilities) and sum(one.probabilities) == pytest.approx(1)


def test_a_new_lesion_was_not_there_before(body):
    baseline, follow_up = both(body, [], [[ball(PLACES["a"], 8.0)]])
    lesion = lesion_at("new", np.array(PLACES["a"]) + SHIFT_LPS, 16.0)
    said = presence_before(lesion, np.array(PLACES["a"]), follow_up, baseline)
    assert said.state == "new" and said.confidence > 0.5 and "not there before" in said.reason
    baseline, follow_up = both(body, [[ball(PLACES["a"], 8.0)]], [[ball(PLACES["a"], 8.0)]])
    assert presence_before(lesion, np.array(PLACES["a"]), follow_up, baseline).state == "unchanged"


def test_two_neighbors_merge_and_two_others_do_not(body):
    pairs = {"a": (40.0, 40.0, 40.0), "b": (62.0, 40.0, 40.0), "c": (80.0, 100.0, 80.0), "d": (102.0, 100.0, 80.0)}
    apart = [[ball(place, 8.0)] for place in pairs.values()]
    joined = [ball(pairs["a"], 9.0), ball((51.0, 40.0, 40.0), 8.5), ball(pairs["b"], 9.0)]
    baseline, follow_up = both(body, apart, [joined, apart[2], apart[3]])
    lesions = [lesion_at(name, place, 16.0) for name, place in pairs.items()]
    found = [Finding(n, 1, np.array(p) + SHIFT_LPS, 0.9, 1.0, 0.9, "matched", "") for n, p in pairs.items()]
    said = presences(lesions, found, baseline, follow_up)
    assert (said["a"].state, said["a"].partner, said["b"].partner) == ("merged", "b", "a")
    assert said["c"].state != "merged" and said["d"].state != "merged"


def test_where_nothing_can_be_said_nothing_is(body):
    baseline, follow_up = both(body, [[ball(PLACES["a"], 8.0)]], [[ball(PLACES["a"], 8.0)]])
    lesions = [lesion_at("a", PLACES["a"], 16.0), lesion_at("edge", (2.0, 60.0, 60.0), 16.0)]
    found = [
        Finding("a", 1, None, 0.9, 1.0, 0.2, "not_found", ""),
        Finding("edge", 1, np.array([2.0, 60, 60]) + SHIFT_LPS, 0.9, 1.0, 0.9, "matched", ""),
    ]
    said = presences(lesions, found, baseline, follow_up)
    assert {one.state for one in said.values()} == {"unknown"} and np.isnan(said["a"].confidence)
    assert "not found" in said["a"].reason and "ends there" in said["edge"].reason


def test_the_parts_around_the_lesions_say_what_the_scans_say(body):
    before = [[ball(place, 8.0)] for place in PLACES.values()]
    baseline, follow_up = both(body, before, [before[0], [], before[2]])
    turned = rotated(follow_up)
    lesions = [lesion_at(name, place, 16.0) for name, place in PLACES.items()]
    found = [Finding(n, 1, np.array(p) + SHIFT_LPS, 0.9, 1.0, 0.9, "matched", "") for n, p in PLACES.items()]
    whole = presences(lesions, found, baseline, turned)
    parts = {
        lesion.label: (part_around(lesion, lesion.center_lps, baseline), part_around(lesion, finding.lps, turned))
        for lesion, finding in zip(lesions, found)
    }
    assert max(part.array.size for pair in parts.values() for part in pair) < 0.7 * baseline.array.size
    for label, said in presences_in_parts(lesions, found, parts).items():
        assert said.state == whole[label].state and said.confidence == pytest.approx(whole[label].confidence, abs=1e-9)


def rotated(volume, degrees=20.0):
    """The same voxels, turned in the world about the middle: indices and axes then differ."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix = volume.ijk_to_lps.copy()
    middle = volume.grid.to_lps(np.array([volume.grid.size_ijk / 2]))[0]
    matrix[:3, :3] = turn @ matrix[:3, :3]
    matrix[:3, 3] = middle + turn @ (volume.ijk_to_lps[:3, 3] - middle)
    return dataclasses.replace(volume, ijk_to_lps=matrix)


def test_the_surroundings_are_fitted_not_the_lesion(body):
    """A place 5 mm off is brought back by what surrounds the lesion, also where the lesion is gone."""
    baseline, follow_up = both(body, [[ball(PLACES["b"], 8.0)]], [[]])
    off = np.array(PLACES["b"]) + SHIFT_LPS + (3.0, -3.0, 2.5)
    view = view_of(lesion_at("b", PLACES["b"], 16.0), off, baseline, follow_up)
    assert view is not None and view.residual < 2.5 * NOISE_HU
    shell = (view.distance_mm > 12) & (view.distance_mm < 20)
    assert np.corrcoef(view.before[shell], view.after[shell])[0, 1] > 0.8


def test_coefficients_have_the_names_of_the_terms(body):
    from SAMv2Core.tracking.presence import COEFFICIENTS, PresenceEvidence, merger_terms

    names = terms(PresenceEvidence(1.0, 0.5, 0.0, 0.5, 1.0, 1.2, 0.1))
    assert set(names) == set(COEFFICIENTS) and set(merger_terms(1.0, 0.0)) == set(MERGED_COEFFICIENTS)
    assert all(len(row) == len(STATES) for row in COEFFICIENTS.values())
