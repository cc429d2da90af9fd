"""The light recipe's InfoNCE against plain loops over a row of voxels, where every distance can be told by heart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from Training.losses.infonce import (
    Far,
    LevelOptions,
    hard_and_diverse,
    info_nce,
    known_loss,
    level_loss,
    search_loss,
)
from Training.views.geometry import ViewMap
from Training.views.pairs import Level, Pair, View
from Training.views.scans import ScanLink

N, STEP = 20, 8.0  # voxels in a row along x, mm apart
SHIFT = 104.0  # the second patient's places lie so much further along x
OPTIONS = LevelOptions(
    n_anchors=100, n_negatives=100, ignore_mm=16.0, cross_ignore_mm=24.0, cross_far_mm=40.0, known_ignore_mm=16.0,
    search_mm=8.0, known_mm=4.0, registered_mm=3.0, temperature=0.1, n_far_anchors=100, n_hard=3, n_random=0,
)  # fmt: skip


def row(start_mm):
    """A view that shows a row of voxels whose first lies at ``start_mm``: its level, and the view."""
    centre = torch.tensor([start_mm + (N - 1) / 2 * STEP, 0.0, 0.0])
    view_map = ViewMap(centre, torch.eye(3), torch.zeros(1, 3, 2, 2, 2), torch.tensor([500.0, 500.0, 500.0]))
    points = torch.zeros(1, 1, N, 3)
    points[0, 0, :, 0] = start_mm + torch.arange(N) * STEP
    level = Level(((1, 1, N), STEP, torch.zeros(3)), points, torch.ones(1, 1, N, dtype=torch.bool))
    empty = torch.zeros(0)
    return level, View(view_map, empty, empty, (0, 0, 0), level, level, None, None)


class Moved:
    """The second patient: everything lies :data:`SHIFT` further along x, or before."""

    def __init__(self, shift, registered=False):
        self.shift, self.registered = torch.tensor([shift, 0.0, 0.0]), registered

    def transfer(self, points):
        return points + self.shift, torch.ones(len(points), dtype=torch.bool)


def scene(links=(None, None), starts=(0.0, 0.0), known=None):
    (level_a, view_a), (level_b, view_b) = (row(start) for start in starts)
    generator = torch.Generator().manual_seed(5)
    maps = F.normalize(torch.randn(2, 6, 1, 1, N, generator=generator), dim=1)
    return maps, (level_a, level_b), Pair((view_a, view_b), links, ("a", "b"), known)


def cross(known=None):
    return scene((Moved(SHIFT), Moved(-SHIFT)), (0.0, SHIFT), known)


def vectors(maps, k):
    return maps[k, :, 0, 0].T.double().numpy()


def read(rows, x):
    """A row of vectors at voxel coordinate x: linear between the voxels, constant beyond the ends, normalised."""
    x = min(max(x, 0.0), N - 1.0)
    low = min(int(x), N - 2)
    value = rows[low] * (1 - (x - low)) + rows[low + 1] * (x - low)
    return value / np.linalg.norm(value)


def term(anchor, positive, negatives):
    logits = np.array([anchor @ positive, *(anchor @ n for n in negatives)]) / OPTIONS.temperature
    return np.log(np.exp(logits).sum()) - logits[0]


def expected(maps, search, ignore_other, whole=None, far_mm=None):
    """Voxel n of one row corresponds to voxel n of the other, in all scenes."""
    terms = []
    for a, b in ((0, 1), (1, 0)):
        own, other = vectors(maps, a), vectors(maps, b)
        directions = []
        for n in range(N):
            around = [read(other, n + step / STEP) for step in ((-search, 0.0, search) if search else (0.0,))]
            positive = max(around, key=lambda vector: own[n] @ vector)
            negatives = [own[m] for m in range(N) if abs(m - n) * STEP >= OPTIONS.ignore_mm]
            negatives += [other[m] for m in range(N) if abs(m - n) * STEP >= ignore_other]
            if whole is not None:
                far = [v for m, v in enumerate(whole[b]) if abs(m - n) * STEP >= far_mm]
                negatives += sorted(far, key=lambda vector: -(own[n] @ vector))[: OPTIONS.n_hard]
            directions.append(term(own[n], positive, negatives))
        terms.append(np.mean(directions))
    return np.mean(terms)


def loss_of(maps, levels, pair, far=(None, None)):
    return float(level_loss(maps, levels, pair, OPTIONS, torch.Generator().manual_seed(0), far)[0])


def test_two_views_of_one_scan():
    maps, levels, pair = scene()
    assert loss_of(maps, levels, pair) == pytest.approx(expected(maps, 0.0, 16.0), rel=1e-4)


def test_two_patients_have_a_tolerance_and_a_wider_radius():
    maps, levels, pair = cross()
    assert loss_of(maps, levels, pair) == pytest.approx(expected(maps, 8.0, 24.0), rel=1e-4)


def test_a_registered_pair_has_a_small_tolerance():
    maps, levels, pair = scene((Moved(SHIFT, True), Moved(-SHIFT, True)), (0.0, SHIFT))
    assert loss_of(maps, levels, pair) == pytest.approx(expected(maps, 3.0, 19.0), rel=1e-4)


def whole_scans(starts):
    """Two whole scans, as long as their views but of other vectors."""
    generator = torch.Generator().manual_seed(9)
    rows = F.normalize(torch.randn(2, N, 6, generator=generator), dim=2)
    points = [torch.tensor([[start + m * STEP, 0.0, 0.0] for m in range(N)]) for start in starts]
    return rows, tuple(Far(vector, point) for vector, point in zip(rows, points))


@pytest.mark.parametrize("patients", [1, 2])
def test_the_hardest_voxels_of_the_other_scan_are_negatives(patients):
    maps, levels, pair = scene() if patients == 1 else cross()
    rows, far = whole_scans((0.0, 0.0) if patients == 1 else (0.0, SHIFT))
    tolerance, near, far_mm = (0.0, 16.0, 16.0) if patients == 1 else (8.0, 24.0, 40.0)
    wanted = expected(maps, tolerance, near, rows.double().numpy(), far_mm)
    assert loss_of(maps, levels, pair, far) == pytest.approx(wanted, rel=1e-4)


def test_known_points_are_read_between_the_voxels_and_compared_exactly():
    places = torch.tensor([[44.0, 0.0, 0.0], [100.0, 0.0, 0.0], [9999.0, 0.0, 0.0]])  # the last one is not shown
    known = (places, places + torch.tensor([SHIFT, 0.0, 0.0]))
    maps, levels, pair = cross(known)
    rows, far = whole_scans((0.0, SHIFT))
    found = known_loss(maps, levels, pair, OPTIONS, torch.Generator().manual_seed(0), far)
    terms = []
    for a, b in ((0, 1), (1, 0)):
        own, other = vectors(maps, a), vectors(maps, b)
        for x in (44.0 / STEP, 100.0 / STEP):
            anchor = read(own, x)
            positive = max((read(other, x + step / STEP) for step in (-4.0, 0.0, 4.0)), key=lambda v: anchor @ v)
            beyond = [m for m in range(N) if abs(m - x) * STEP >= OPTIONS.known_ignore_mm]
            hard = sorted((rows[b][m].double().numpy() for m in beyond), key=lambda v: -(anchor @ v))[:3]
            terms.append(term(anchor, positive, [own[m] for m in beyond] + [other[m] for m in beyond] + hard))
    assert float(found[0]) == pytest.approx(np.mean(terms), rel=1e-4)


def test_known_points_that_only_one_view_shows_are_left_out():
    places = torch.tensor([[9999.0, 0.0, 0.0]])
    maps, levels, pair = cross((places, places))
    assert known_loss(maps, levels, pair, OPTIONS, torch.Generator()) is None
    assert known_loss(*scene(), OPTIONS, torch.Generator()) is None


def test_a_point_is_searched_in_the_whole_scan_of_another_patient():
    maps, levels, pair = scene()
    rows, (whole, _) = whole_scans((0.0, 0.0))
    here, there = torch.tensor([[36.0, 0.0, 0.0]]), torch.tensor([[82.0, 0.0, 0.0]])
    found, rate = search_loss(maps[0], pair.views[0], levels[0], here, there, whole, 7.0, OPTIONS, torch.Generator())
    anchor = read(vectors(maps, 0), 4.5)
    candidates = rows[0].double().numpy()
    positive = max((candidates[m] for m in (10, 11)), key=lambda v: anchor @ v)  # at 80 and 88 mm
    beyond = [candidates[m] for m in range(N) if abs(m * STEP - 82.0) >= OPTIONS.known_ignore_mm]
    hard = sorted(beyond, key=lambda v: -(anchor @ v))[:3]
    assert float(found) == pytest.approx(term(anchor, positive, hard), rel=1e-4)
    assert rate == float(anchor @ positive > anchor @ hard[0])


def test_random_negatives_join_the_hardest_and_are_far_as_well():
    rows, (whole, _) = whole_scans((0.0, 0.0))
    anchors, places = rows[1][:5], torch.tensor([[m * 32.0, 0.0, 0.0] for m in range(5)])
    options = replace(OPTIONS, n_hard=2, n_random=400)
    found = hard_and_diverse(anchors, places, whole, 16.0, options, torch.Generator().manual_seed(0))
    for m in range(5):
        far = [float(anchors[m] @ whole.vectors[n]) for n in range(N) if abs(n * STEP - m * 32.0) >= 16.0]
        assert found[m, :2].sort().values.tolist() == pytest.approx(sorted(far)[-2:], abs=1e-6)
        drawn = {round(float(v), 4) for v in found[m, 2:] if torch.isfinite(v)}
        assert drawn == {round(v, 4) for v in far}  # 400 draws of at most 20 candidates: each of them, and no other


def test_views_that_share_nothing_have_no_loss():
    maps, levels, pair = scene(starts=(0.0, 5000.0))
    assert level_loss(maps, levels, pair, OPTIONS, torch.Generator()) is None


def test_a_map_is_not_trusted_where_it_has_no_support():
    lattice = np.stack(np.meshgrid(*[np.arange(12) * 16.0] * 3, indexing="ij")[::-1], -1).astype(np.float32)
    support = np.ones(lattice.shape[:3], np.float32) * 2
    support[:, :, 6:] = 0
    maps, levels, pair = scene((ScanLink(lattice, support), ScanLink(lattice, support)))
    assert level_loss(maps, levels, pair, OPTIONS, torch.Generator().manual_seed(0)) is None  # 11 voxels: too few


def test_info_nce_of_one_negative():
    loss = info_nce(torch.tensor([[0.8]]), torch.tensor([[0.3, float("-inf")]]), 0.1)
    assert float(loss) == pytest.approx(np.log(1 + np.exp(-5.0)), rel=1e-5)
