"""Matching as a user meets it: millimeters on any pair of volumes, and an honest "not found"."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SAMv2Core.errors import Cancelled, InputError, ModelError, UsageError
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.matching.confidence import UncertaintyModel
from SAMv2Core.matching.fixed_point import FixedPointOptions
from SAMv2Core.matching.match import locate, match, similarity_map
from SAMv2Core.matching.search import search_index
from Testing.samples.synthetic_embeddings import AnatomyField, lattice, matrix_map, synthetic_embedding, trunk

FIELD = AnatomyField(7)
BODY = (70.0, 55.0)
POSE = np.eye(4)
POSE[:3, :3] = 1.06 * Rotation.from_euler("xyz", (6, -5, 8), degrees=True).as_matrix()
POSE[:3, 3] = (12, -9, 15)
POINTS = np.random.default_rng(0).uniform([-45, -32, -45], [45, 32, 45], (25, 3))


def inside(points):
    return trunk(points, BODY)


def embed(grid, pose=None, **kwargs):
    to_anatomy = None if pose is None else matrix_map(np.linalg.inv(pose))
    return synthetic_embedding(FIELD, grid, to_anatomy, inside, **kwargs)


@pytest.fixture(scope="module")
def template():
    return embed(lattice((160, 130, 160), 6.0), noise=0.2, seed=1)


@pytest.fixture(scope="module")
def query():
    return embed(lattice((190, 160, 190), 6.0, (12, -9, 15)), POSE, noise=0.2, seed=2)


def errors_mm(matches, expected):
    return np.array([np.linalg.norm(m.candidate_lps - e) for m, e in zip(matches, expected)])


def thick_slices():
    """4 x 4 x 10 mm voxels, the axes permuted: first index along z."""
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = [[0, 4.0, 0], [0, 0, 4.0], [10.0, 0, 0]]
    matrix[3, 3] = 1
    matrix[:3, 3] = [-76, -74, -75]
    return Grid((38, 46, 19), matrix)


QUERY_GRIDS = {
    "axial": lattice((190, 160, 190), 6.0, (12, -9, 15)),
    "oblique": lattice((220, 200, 210), 6.0, (12, -9, 15), (25, -20, 30)),
    "left-handed": lattice((190, 160, 190), 6.0, (12, -9, 15), (0, 0, 180), True),
    "thick, axes permuted": thick_slices(),
}


@pytest.mark.parametrize("method", ["nearest", "fixed-point"])
@pytest.mark.parametrize("name", QUERY_GRIDS)
def test_points_are_found_whatever_the_orientation(template, name, method):
    matches = match(template, embed(QUERY_GRIDS[name], POSE, noise=0.2, seed=2), POINTS, method)
    error = errors_mm(matches, transform_points(POSE, POINTS))
    limit = {"nearest": 5.0, "fixed-point": 2.0}[method]  # voxels of 6 mm and more
    assert np.median(error) < limit and error.max() < 4 * limit
    assert np.mean([m.status == "matched" for m in matches]) > 0.9


def test_a_match_says_everything(template, query):
    found = match(template, query, POINTS[:3])[1]
    np.testing.assert_array_equal(found.template_lps, POINTS[1])
    assert found.status == "matched" and found.reason == ""
    assert found.query_lps.shape == (3,) and found.query_lps.dtype == np.float64
    np.testing.assert_array_equal(found.query_lps, found.candidate_lps)
    assert 0.9 < found.similarity <= 1.0001 and 0 <= found.cycle_error_mm < 6 and 0.7 < found.confidence <= 1
    assert isinstance(found.fixed_points, int) and found.fixed_points > 20
    assert found.evidence.similarity == found.similarity and found.evidence.agreement_mm < 6
    assert match(template, query, POINTS[:1], "nearest")[0].fixed_points == 0


def test_order_is_kept_and_points_do_not_influence_each_other(template, query):
    together = match(template, query, POINTS)
    shuffled = match(template, query, POINTS[::-1])[::-1]
    alone = match(template, query, POINTS[4:5])
    for a, b in zip(together, shuffled):
        np.testing.assert_array_equal(a.template_lps, b.template_lps)
        np.testing.assert_allclose(a.query_lps, b.query_lps, atol=1e-4)
    np.testing.assert_allclose(alone[0].query_lps, together[4].query_lps, atol=1e-4)


def test_the_same_call_gives_the_same_numbers(template, query):
    first, second = match(template, query, POINTS[:5]), match(template, query, POINTS[:5])
    assert [(*a.query_lps, a.similarity, a.confidence) for a in first] == [
        (*b.query_lps, b.similarity, b.confidence) for b in second
    ]


@pytest.mark.parametrize("method", ["nearest", "fixed-point", "paper"])
def test_air_and_places_outside_the_scan_are_not_found(template, query, method):
    skin = [BODY[0] - 0.5, 0, 0]
    asked = [[78.0, 60.0, 0.0], POINTS[0], [0.0, 0.0, 200.0], skin]
    air, fine, outside, on_skin = match(template, query, asked, method)
    for lost in (air, outside):
        assert lost.status == "not_found" and lost.query_lps is None and lost.confidence == 0
        assert lost.candidate_lps is None and np.isnan(lost.similarity) and np.isnan(lost.cycle_error_mm)
    assert "air" in air.reason and "outside the template scan" in outside.reason and "119 mm" in outside.reason
    assert fine.status == "matched" and on_skin.status != "not_found"


@pytest.mark.parametrize("method", ["nearest", "fixed-point"])
def test_anatomy_that_the_query_does_not_show_is_not_found(method):
    """The query shows 100 mm of a trunk of 300 mm."""
    template = embed(lattice((150, 120, 300), 6.0), noise=0.2, seed=1)
    query = embed(lattice((150, 120, 102), 6.0, (0, 0, 99)), noise=0.2, seed=2)
    rng = np.random.default_rng(1)
    shown, hidden = (rng.uniform([-40, -30, low], [40, 30, high], (15, 3)) for low, high in ((65, 135), (-130, 20)))
    matches = match(template, query, np.concatenate([shown, hidden]), method)
    assert np.mean([m.status == "matched" for m in matches[:15]]) > 0.9
    assert np.mean([m.status == "not_found" for m in matches[15:]]) > 0.8
    assert not any(m.status == "matched" for m in matches[15:])
    assert all(m.reason for m in matches[15:])


def test_just_past_the_end_of_the_query_is_not_found():
    """The surroundings are visible and point out of the scan."""
    template = embed(lattice((150, 120, 300), 6.0), noise=0.1, seed=1)
    query = embed(lattice((150, 120, 102), 6.0, (0, 0, 99)), noise=0.1, seed=2)
    found = match(template, query, [[5.0, 5.0, 40.0]])[0]  # 8 mm below the lowest face
    assert found.status == "not_found" and found.query_lps is None


def test_without_fixed_points_it_falls_back_to_the_nearest_neighbor(template, query):
    nothing_survives = FixedPointOptions(ball_mm=0.01)
    wanted = match(template, query, POINTS[:4], options=nothing_survives)
    for a, b in zip(wanted, match(template, query, POINTS[:4], "nearest")):
        assert a.fixed_points == 0
        np.testing.assert_allclose(a.candidate_lps, b.candidate_lps, atol=1e-4)
        assert a.confidence < b.confidence


def test_what_has_no_counterpart_is_never_matched(template):
    noise = embed(lattice((150, 120, 120), 6.0), noise=50.0, seed=5)
    for method in ("nearest", "fixed-point"):
        matches = match(template, noise, POINTS[:8], method)
        assert not any(m.status == "matched" for m in matches) and all(m.reason for m in matches)
        assert np.mean([m.status == "not_found" for m in matches]) > 0.8


def test_the_confidence_is_that_of_the_model(template, query):
    """Coefficients that come with the weights are used unless others are given."""
    doubting = {"fixed_point": {"bias": -50.0}, "nearest": {"bias": -50.0}}
    told = dataclasses.replace(query, calibration=doubting)
    assert match(template, told, POINTS[:1])[0].status == "not_found"
    assert match(template, told, POINTS[:1], uncertainty=UncertaintyModel())[0].status == "matched"
    with pytest.raises(ModelError, match="coefficients"):
        match(template, dataclasses.replace(query, calibration={"bais": 1}), POINTS[:1])


@pytest.mark.parametrize(("method", "expect"), [("fixed-point", False), ("paper", None)])
def test_the_verdict_knows_the_bodies_also_when_nothing_is_expected(template, query, method, expect):
    """Votes of two patients agree, too: without the map's likeness all of them would look like a follow-up's."""
    (weighed,), (plain,) = match(template, query, POINTS[:1]), match(template, query, POINTS[:1], method, expect=expect)
    assert plain.evidence.likeness == weighed.evidence.likeness > 0
    strict = UncertaintyModel(fixed_point=dataclasses.replace(UncertaintyModel().fixed_point, likeness=-500.0))
    (doubted,) = match(template, query, POINTS[:1], method, expect=expect, uncertainty=strict)
    assert doubted.status != "matched"


def test_quick_places_are_those_of_matches_and_nowhere_else(template, query):
    outside = np.array([[0.0, 0.0, 5000.0]])
    found = locate(template, query, np.concatenate([POINTS, outside]))
    places = np.array([m.query_lps for m in match(template, query, POINTS, "nearest", expect=True)])
    np.testing.assert_allclose(found[:-1], places, atol=1e-6)
    assert np.isnan(found[-1]).all()
    assert locate(template, query, []).shape == (0, 3)


def test_no_points_no_matches(template, query):
    assert match(template, query, np.empty((0, 3))) == []
    assert match(template, query, []) == []


@pytest.mark.parametrize("points", [[[0.0, 1.0]], [1.0, 2.0], [[0, 0, np.nan]], [["a", "b", "c"]], [[[0, 0, 0]]]])
def test_points_that_are_none_are_refused(template, query, points):
    with pytest.raises(InputError, match="coordinates"):
        match(template, query, points)


def test_wrong_use_is_refused(template, query):
    with pytest.raises(UsageError, match="farthest"):
        match(template, query, POINTS, "farthest")
    with pytest.raises(ModelError, match="different models"):
        match(template, dataclasses.replace(query, model="other"), POINTS)
    with pytest.raises(ModelError, match="different models"):
        similarity_map(template, dataclasses.replace(query, model="other"), POINTS[0])


def test_progress_rises_to_one_and_may_cancel(template, query):
    told = []
    match(template, query, POINTS[:3], progress=lambda fraction, text: told.append((fraction, text)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert all(text for _, text in told)

    def stop(fraction, text):
        if fraction > 0.5:
            raise Cancelled()

    with pytest.raises(Cancelled):
        match(template, query, POINTS[:3], progress=stop)
    assert match(template, query, POINTS[:1])[0].status == "matched"  # nothing was left half-made


def test_similarity_map_peaks_at_the_match(template, query):
    values, grid = similarity_map(template, query, POINTS[0])
    assert values.shape == grid.shape_zyx == query.fine.grid.shape_zyx and values.dtype == np.float32
    assert np.all(values[~query.body] == -1) and values[query.body].min() > -1
    z, y, x = np.unravel_index(values.argmax(), values.shape)
    nearest = match(template, query, POINTS[:1], "nearest")[0]
    assert np.linalg.norm(grid.to_lps(np.array([x, y, z])) - nearest.query_lps) < 6 * 3**0.5
    row = search_index(query).rows_at(np.array([x, y, z]))
    assert row >= 0
