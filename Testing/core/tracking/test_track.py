"""Lesions through several follow-ups: found, honestly not found, corrected by their neighbors and by people."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import SAMv2Core as s
from SAMv2Core.embedding.embedding import FeatureMap
from SAMv2Core.errors import Cancelled, InputError, ModelError
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.tracking import study as track_study
from SAMv2Core.tracking.confidence import NOT_FOUND_BELOW
from SAMv2Core.tracking.field import study_field
from SAMv2Core.tracking.proposals import Candidate, common_place
from SAMv2Core.tracking.track import Verified, track
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding, trunk

FIELD = AnatomyField(7)
BODY = (70.0, 55.0)
CENTERS = np.random.default_rng(0).uniform([-45, -32, -60], [45, 32, 60], (8, 3))
LESIONS = [lesion_at(f"L{n}", center, None if n == 3 else 14.0) for n, center in enumerate(CENTERS, 1)]


def pose(euler_deg, shift):
    matrix = np.eye(4)
    matrix[:3, :3] = 1.04 * Rotation.from_euler("xyz", euler_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


POSES = [pose((6, -5, 8), (12, -9, 15)), pose((-4, 3, 5), (-20, 5, 0)), pose((2, 6, -6), (0, 15, -10))]


def inside(points):
    return trunk(points, BODY)


def embed(grid, matrix=None, seed=1, **kwargs):
    to_anatomy = None if matrix is None else matrix_map(np.linalg.inv(matrix))
    return synthetic_embedding(FIELD, grid, to_anatomy, inside, noise=0.2, seed=seed, **kwargs)


@pytest.fixture(scope="module")
def baseline():
    return embed(lattice((160, 130, 190), 6.0))


@pytest.fixture(scope="module")
def follow_ups():
    """Whole, the upper half only, whole."""
    middle = [POSES[n][:3, 3] for n in range(3)]
    half = middle[1] + [0, 0, 55]
    return [
        embed(lattice((190, 160, 220), 6.0, tuple(middle[0])), POSES[0], 2),
        embed(lattice((190, 160, 102), 6.0, tuple(half)), POSES[1], 3),
        embed(lattice((190, 160, 220), 6.0, tuple(middle[2])), POSES[2], 4),
    ]


@pytest.fixture(scope="module")
def findings(baseline, follow_ups):
    return track(baseline, follow_ups, LESIONS)


def truth(study):
    return transform_points(POSES[study - 1], CENTERS)


def error_mm(finding):
    return float(np.linalg.norm(finding.lps - truth(finding.study)[int(finding.label[1:]) - 1]))


def test_one_row_per_lesion_and_study_the_baseline_as_marked(findings):
    assert [(f.label, f.study) for f in findings] == [(lesion.label, k) for lesion in LESIONS for k in range(4)]
    for lesion, row in zip(LESIONS, findings[::4]):
        np.testing.assert_array_equal(row.lps, lesion.center_lps)
        assert (row.status, row.confidence, row.diameter_mm) == ("matched", 1.0, lesion.diameter_mm)
    assert all(f.diameter_mm is None for f in findings if f.study)  # nobody measured it there


def test_lesions_are_found_where_they_went(findings, follow_ups):
    assert s.track is track
    for study in (1, 3):
        here = [f for f in findings if f.study == study]
        assert all(f.status == "matched" for f in here)
        # voxels of 6 mm and noise; the lesions' seven points and their neighbors share it
        assert np.median([error_mm(f) for f in here]) < 1.5 and max(error_mm(f) for f in here) < 4.0
        assert all(0.8 < f.similarity <= 1 and f.cycle_error_mm < 8 and f.reason == "" for f in here)


def test_places_outside_the_follow_up_are_not_found_and_found_again_later(findings, follow_ups):
    depth = follow_ups[1].volume_grid.depth_mm(truth(2))
    part = [f for f in findings if f.study == 2]
    assert (depth < -6).sum() >= 2 and (depth > 6).sum() >= 2
    for finding, deep in zip(part, depth):
        if deep < -6:
            assert finding.status == "not_found" and finding.lps is None and finding.reason
            assert finding.confidence < NOT_FOUND_BELOW
        elif deep > 6:
            assert finding.status != "not_found" and error_mm(finding) < 6


def test_equal_inputs_give_equal_findings_and_lesions_keep_their_order(baseline, follow_ups, findings):
    again = track(baseline, follow_ups[:1], LESIONS[::-1])
    expected = {f.label: f for f in findings if f.study == 1}
    assert [f.label for f in again[::2]] == [lesion.label for lesion in LESIONS[::-1]]
    for finding in again[1::2]:
        np.testing.assert_allclose(finding.lps, expected[finding.label].lps, atol=0.2)


def blinded(emb, center, radius_mm, seed=0):
    """The embedding with random vectors in a ball, as if something else had grown there."""
    rng = np.random.default_rng(seed)

    def blind(head):
        k, j, i = np.indices(head.grid.shape_zyx)
        points = head.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))
        hit = (np.linalg.norm(points - center, axis=1) < radius_mm).reshape(head.grid.shape_zyx)
        vectors = head.vectors.clone()
        noise = rng.standard_normal((vectors.shape[0], int(hit.sum())))
        vectors[:, hit] = vectors.new_tensor(noise / np.linalg.norm(noise, axis=0))
        return FeatureMap(head.name, vectors, head.grid)

    return dataclasses.replace(emb, fine=blind(emb.fine), coarse=blind(emb.coarse))


def test_a_lesion_that_looks_different_is_placed_by_its_neighbors_or_doubted(baseline, follow_ups):
    target = truth(1)[0]
    found = track(baseline, [blinded(follow_ups[0], target, 16.0)], LESIONS)
    first = next(f for f in found if f.label == "L1" and f.study == 1)
    assert first.status != "matched"
    # all neighbors agree on where the place is, so the proposal is not elsewhere in the body
    assert np.linalg.norm(first.candidate_lps - target) < 20
    assert all(f.status == "matched" for f in found if f.study == 1 and f.label in ("L4", "L5"))


def test_what_a_person_verified_is_returned_as_given_and_leads_on(baseline, follow_ups):
    place = truth(1)[0] + [2.0, 0, 0]
    decided = [Verified("L1", 1, place), Verified("L2", 1, None)]
    told, studies = [], [follow_ups[0], follow_ups[2]]
    found = track(baseline, studies, LESIONS[:4], verified=decided, progress=lambda *a: told.append(a))
    by_row = {(f.label, f.study): f for f in found}
    first, absent = by_row["L1", 1], by_row["L2", 1]
    np.testing.assert_array_equal(first.lps, place)
    assert (first.status, first.confidence) == ("matched", 1.0)
    assert (absent.status, absent.confidence, absent.lps) == ("not_found", 1.0, None)
    assert by_row["L2", 2].status == "matched"  # absent in one study says nothing of the next
    assert [fraction for fraction, _ in told] == sorted(fraction for fraction, _ in told) and told[-1][0] == 1


def test_verified_places_outweigh_the_landmarks_around_them():
    grid = lattice((300, 300, 300), 6.0)
    rng = np.random.default_rng(0)
    source = rng.uniform(-90, 90, (300, 3))
    target, weights, owner = source + [5.0, 0, 0], np.full(300, 0.4), np.full(300, -1)
    source, target = np.r_[source, [[0, 0, 0]]], np.r_[target, [[5.0, 8.0, 0]]]
    field = study_field(grid, None, source, target, np.r_[weights, 40.0], np.r_[owner, 0])
    near, far = field.predict(np.array([4.0, 0, 0]))[0], field.predict(np.array([80.0, 60, 0]))[0]
    assert near[1] > 5.0 and abs(far[1] - 60) < 1.5
    without, spread = field.predict(np.array([4.0, 0, 0]), without=0)
    np.testing.assert_allclose(without, [9.0, 0, 0], atol=1.0)
    assert 2.0 < spread < 6.0


def test_one_verified_place_moves_what_is_expected_nearby_however_many_landmarks_are_wrong_together():
    grid = lattice((300, 300, 300), 6.0)
    source = np.random.default_rng(1).uniform(-100, 100, (1000, 3))
    slipped = np.linalg.norm(source, axis=1) < 60  # a region one vertebra off
    target = source + np.where(slipped, 30.0, 0.0)[:, None] * [0, 0, 1]
    source, target = np.r_[source, [[0, 0, 0]]], np.r_[target, [[0, 0, 0]]]  # looked at: here it did not move
    field = study_field(grid, None, source, target, np.r_[np.full(1000, 0.4), 40.0], np.r_[np.full(1000, -1), 0])
    neighbor = np.array([10.0, 0, 5])
    assert np.linalg.norm(field.predict(neighbor, without=0)[0] - neighbor) > 25  # what the landmarks say
    assert np.linalg.norm(field.predict(neighbor)[0] - neighbor) < 5
    far = np.array([80.0, 20, 0])
    assert np.linalg.norm(field.predict(far)[0] - field.predict(far, without=0)[0]) < 0.5


def test_two_lesions_on_one_place_are_told_apart_or_flagged(baseline, follow_ups, monkeypatch):
    near = [lesion_at("a", (0.0, 0, 0), 20.0), lesion_at("b", (14.0, 0, 0), 20.0)]
    middle = transform_points(POSES[0], np.array([[7.0, 0, 0]]))[0]

    def both_in_the_middle(*args):
        return [Candidate(middle, 3.0, 3.0, 5, 0.1, 0.9) for _ in near]

    monkeypatch.setattr(track_study, "propose", both_in_the_middle)
    monkeypatch.setattr(track_study, "propose_nearby", both_in_the_middle)
    a, b = (f for f in track(baseline, follow_ups[:1], near) if f.study)
    assert np.linalg.norm(a.lps - b.lps) > 5 or "merged" in a.reason + b.reason
    monkeypatch.setattr(track_study, "body_map", lambda *args: None)  # nobody to ask
    a, b = (f for f in track(baseline, follow_ups[:1], near) if f.study)
    assert "merged" in a.reason + b.reason and "uncertain" in (a.status, b.status)


def test_a_lesion_outside_the_baseline_is_not_found_the_others_are(baseline, follow_ups):
    stray = [*LESIONS[:3], lesion_at("stray", (0, 0, 400.0)), lesion_at("air", (75.0, 60.0, 0), 4.0)]
    found = {f.label: f for f in track(baseline, follow_ups[:1], stray) if f.study}
    assert found["stray"].status == found["air"].status == "not_found"
    assert "outside the template scan" in found["stray"].reason and "air" in found["air"].reason
    assert all(found[lesion.label].status == "matched" for lesion in LESIONS[:3])


def test_wrong_use_is_refused(baseline, follow_ups):
    one = follow_ups[:1]
    with pytest.raises(InputError, match="no lesion"):
        track(baseline, one, [])
    with pytest.raises(InputError, match="no follow-up"):
        track(baseline, [], LESIONS)
    with pytest.raises(InputError, match="same label"):
        track(baseline, one, [LESIONS[0], LESIONS[0]])
    with pytest.raises(InputError, match="inside the baseline"):
        track(baseline, one, [lesion_at("ras", (0, 0, 900.0))])
    with pytest.raises(ModelError, match="different models"):
        track(baseline, [dataclasses.replace(one[0], model="other")], LESIONS)
    for bad in (("?", 1, None), ("L1", 0, None), ("L1", 2, None), ("L1", 1, [0, np.nan, 0])):
        with pytest.raises(InputError, match="verified"):
            track(baseline, one, LESIONS, verified=[Verified(*bad)])


def test_it_can_be_cancelled(baseline, follow_ups):
    def stop(fraction, text):
        if fraction > 0.4:
            raise Cancelled()

    with pytest.raises(Cancelled):
        track(baseline, follow_ups[:2], LESIONS[:2], progress=stop)


def test_the_places_within_a_lesion_stand_in_for_its_center(baseline, follow_ups):
    """Where the center alone looks different, the six places around it still vote; a lone center would be lost."""
    target = truth(1)[0]
    changed = blinded(follow_ups[0], target, 6.5)
    whole = lesion_at("L1", CENTERS[0], 40.0)  # places 12 mm from the center
    alone = dataclasses.replace(whole, points_lps=whole.center_lps[None], weights=np.ones(1))
    found = {
        name: next(f for f in track(baseline, [changed], [lesion, *LESIONS[4:]]) if f.study and f.label == "L1")
        for name, lesion in (("whole", whole), ("alone", alone))
    }
    assert np.linalg.norm(found["whole"].candidate_lps - target) < 4.0
    assert found["whole"].confidence > found["alone"].confidence


def test_votes_are_weighed_and_wrong_ones_left_out():
    votes = np.array([[0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [40, 0, 0], [41, 0, 0], [42, 0, 0]])
    few_but_sure = common_place(votes, np.array([1, 1, 1, 0.3, 0.3, 0.3]), None)
    assert np.linalg.norm(few_but_sure - [1 / 3, 1 / 3, 0]) < 0.3
    other_way = common_place(votes, np.array([0.3, 0.3, 0.3, 1, 1, 1]), None)
    assert np.linalg.norm(other_way - [41, 0, 0]) < 0.3
    heavier = common_place(votes[:3], np.array([1.0, 8.0, 1.0]), None)
    np.testing.assert_allclose(heavier, [0.8, 0.1, 0], atol=0.05)  # the weighted mean
    with_anchor = common_place(votes, np.full(6, 0.1), np.array([41.0, 0, 0]))  # the fixed points' answer counts most
    assert np.linalg.norm(with_anchor - [41, 0, 0]) < 1.0


def test_the_field_does_not_follow_outliers():
    grid = lattice((300, 300, 300), 6.0)
    rng = np.random.default_rng(1)
    source = rng.uniform(-90, 90, (200, 3))
    target = source @ (np.eye(3) * 1.05) + [5.0, -3, 8]
    wrong = rng.uniform(size=200) < 0.25
    target[wrong] += rng.uniform(25, 40, (wrong.sum(), 3))  # all to one side: a mean would follow
    field = study_field(grid, None, source, target, np.ones(200), np.arange(200))
    at = rng.uniform(-60, 60, (20, 3))
    errors = [np.linalg.norm(field.predict(p)[0] - (1.05 * p + [5.0, -3, 8])) for p in at]
    assert max(errors) < 4.0  # the noise given to one landmark
    plain = target.mean(axis=0) - (1.05 * source + [5.0, -3, 8]).mean(axis=0)
    assert np.linalg.norm(plain) > 10.0


@pytest.mark.parametrize("off_mm", [2.0, 30.0])
def test_the_way_through_the_study_before_agrees_or_is_flagged(baseline, follow_ups, monkeypatch, off_mm):
    nearby = track_study.propose_nearby

    def astray(emb_from, emb_to, centers, lesions, expected, spreads, progress=None):
        found = nearby(emb_from, emb_to, centers, lesions, expected, spreads, progress)
        if emb_from is baseline:
            return found
        return [c and dataclasses.replace(c, lps=c.lps + [off_mm, 0, 0]) for c in found]

    monkeypatch.setattr(track_study, "propose_nearby", astray)
    found = track(baseline, [follow_ups[0], follow_ups[2]], LESIONS)
    last = [f for f in found if f.study == 2]
    assert max(error_mm(dataclasses.replace(f, study=3)) for f in last) < 6.0  # the third pose
    if off_mm < 10:
        assert all(f.status == "matched" for f in last)
    else:
        assert all(f.status == "uncertain" and "through the study before ends" in f.reason for f in last)
        assert all(f.evidence.chain_mm > 20 for f in last)


def test_another_models_coefficients_come_with_the_embedding(baseline, follow_ups):
    doubting = {"track": {"coefficients": {"bias": -30.0}}}
    doubted = track(baseline, [dataclasses.replace(follow_ups[0], calibration=doubting)], LESIONS[:2])
    assert all(f.status == "not_found" for f in doubted if f.study)
    strict = {"track": {"matched_above": 1.0}}
    found = track(baseline, [dataclasses.replace(follow_ups[0], calibration=strict)], LESIONS[:2])
    assert all(f.status == "uncertain" for f in found if f.study)
    for nonsense in ({"coefficients": {"bais": 1.0}}, {"coefficients": {"bias": "high"}}, {"cut": 1.0}, 3.0):
        with pytest.raises(ModelError, match="coefficients"):
            track(baseline, [dataclasses.replace(follow_ups[0], calibration={"track": nonsense})], LESIONS[:1])
