"""The appearance losses on cases small enough to compute by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from Training.losses.appearance import (
    CoarseSampling,
    FineSampling,
    ViewLevel,
    coarse_appearance_loss,
    fine_appearance_loss,
)

FINE = FineSampling(temperature=0.5)
COARSE = CoarseSampling(temperature=0.5)


def unit(*angles_deg):
    """Unit vectors in the plane, whose dot products are cosines of differences of angles."""
    angles = torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float64))
    return torch.stack((angles.cos(), angles.sin()), dim=1)


def along_x(*x_mm):
    return torch.tensor([[x, 0.0, 0.0] for x in x_mm], dtype=torch.float64)


def term(positive_deg, *negatives_deg):
    """-log softmax of the positive, angles from the anchor, temperature 0.5."""
    logits = [math.cos(math.radians(a)) / 0.5 for a in (positive_deg, *negatives_deg)]
    return math.log(sum(map(math.exp, logits))) - logits[0]


def test_fine_loss_with_known_positives_and_ignored_neighbors():
    # Both views see places 0, 10 and 40 mm. A negative must be 20 mm away: for the voxels at 0 and 10 mm that
    # is the one at 40 mm alone, in both views.
    a = ViewLevel(unit(0, 30, 90), along_x(0, 10, 40))
    b = ViewLevel(unit(5, 60, 120), along_x(0, 10.5, 40))
    forth = [term(5, 90, 120), term(30, 60, 90), term(30, 90, 60, 85, 30)]
    # From view b: anchors 5, 60 and 120 degrees with positives 0, 30 and 90.
    back = [term(5, 85, 115), term(30, 30, 60), term(30, 120, 90, 115, 60)]
    expected = sum(forth + back) / 6
    assert fine_appearance_loss([(a, b)], sampling=FINE).item() == pytest.approx(expected, abs=1e-12)


def test_fine_loss_takes_the_hardest_negatives_as_ranked():
    # One anchor pair at 0 mm; candidates at 100 mm with angles 10, 50 and 170 degrees, invisible to the other view.
    a = ViewLevel(unit(0, 10, 50, 170), along_x(0, 100, 100, 100))
    b = ViewLevel(unit(20), along_x(0))
    hardest = FineSampling(n_hard=1, n_negative=1)
    expected = (term(20, 10) + term(20, 10)) / 2  # seen from view b (20 degrees) the hardest is the one at 10 degrees
    assert fine_appearance_loss([(a, b)], sampling=hardest).item() == pytest.approx(expected, abs=1e-12)
    # A coarse map that calls the voxel at 170 degrees the most similar changes the choice, not the logit.
    ranking = (unit(0, 180, 180, 0), unit(0))
    expected = (term(20, 170) + term(20, 150)) / 2
    found = fine_appearance_loss([(a, b)], [ranking], hardest).item()
    assert found == pytest.approx(expected, abs=1e-12)


def test_fine_loss_relaxes_the_positive_distance_when_no_voxel_is_that_near():
    # Counterparts 3.0 and 2.8 mm apart: within 2.8 + 0.5 both are positives. The third voxels are far from everything.
    a = ViewLevel(unit(0, 90, 30), along_x(0, 95, 200))
    b = ViewLevel(unit(20, 110, 60), along_x(3.0, 97.8, -80))
    at_a = term(20, 90, 30, 110, 60) + term(20, 90, 60, 70, 30)
    at_b = term(20, 70, 10, 90, 40) + term(20, 110, 80, 90, 50)
    assert fine_appearance_loss([(a, b)], sampling=FINE).item() == pytest.approx((at_a + at_b) / 4, abs=1e-12)


def test_fine_loss_without_overlap_repels_within_the_first_view():
    a = ViewLevel(unit(0, 10, 90), along_x(0, 10, 40))
    b = ViewLevel(unit(0, 0), along_x(500, 510))
    # Each voxel is its own positive (0 degrees); those within 20 mm are ignored.
    expected = (term(0, 90) + term(0, 80) + term(0, 90, 80)) / 3
    assert fine_appearance_loss([(a, b)], sampling=FINE).item() == pytest.approx(expected, abs=1e-12)


def test_invalid_voxels_are_neither_positive_nor_negative():
    valid = torch.tensor([True, True, False])
    a = ViewLevel(unit(0, 90, 33), along_x(0, 100, 0.1), valid)
    b = ViewLevel(unit(20), along_x(0))
    assert fine_appearance_loss([(a, b)], sampling=FINE).item() == pytest.approx((term(20, 90) + term(20, 70)) / 2)


def test_voxels_beyond_the_field_of_view_are_further_negatives():
    # Eq. 8: the voxel at 60 degrees lies where the other scan shows nothing; only N_fov may bring it in, beside the
    # hard negative (1 of 1).
    outside = torch.tensor([False, False, True])
    a = ViewLevel(unit(0, 10, 60), along_x(0, 100, 200), outside=outside)
    b = ViewLevel(unit(20), along_x(0))
    sampling = FineSampling(n_hard=1, n_negative=1, n_outside=5)
    expected = (term(20, 10, 60) + term(20, 10, 40)) / 2
    assert fine_appearance_loss([(a, b)], sampling=sampling).item() == pytest.approx(expected, abs=1e-12)


def test_coarse_loss_by_hand_and_its_reach_along_z():
    # Cells 32 mm apart; the third pair is 7 mm apart along z: in reach from view a (8), not from view b (6).
    a = ViewLevel(unit(0, 40, 80), torch.tensor([[0.0, 0, 0], [32, 0, 0], [64, 0, 0]], dtype=torch.float64))
    b = ViewLevel(unit(10, 50, 100), torch.tensor([[2.0, 0, 0], [34, 0, 0], [64, 0, 7]], dtype=torch.float64))
    forth = [
        term(10, 40, 80, 50, 100),  # own positive is 2 mm away: within ignore_mm
        term(10, 40, 40, 30, 60),
        term(20, 80, 40, 70, 30, 20),  # its positive is 7 mm away, beyond ignore_mm: also a negative, as officially
    ]
    back = [term(10, 30, 70, 40, 90), term(10, 50, 30, 40, 50)]
    expected = sum(forth + back) / 5
    assert coarse_appearance_loss([(a, b)], COARSE).item() == pytest.approx(expected, abs=1e-12)


def test_global_negatives_come_from_the_other_pairs():
    here = (ViewLevel(unit(0), along_x(0)), ViewLevel(unit(10), along_x(0)))
    there = (ViewLevel(unit(90), along_x(0)), ViewLevel(unit(120), along_x(0)))
    alone = coarse_appearance_loss([here], COARSE).item()
    assert alone == pytest.approx(0.0, abs=1e-12)  # one pair in the batch, nothing else: no negatives, no error
    first = (term(10, 90, 120) + term(10, 80, 110)) / 2
    second = (term(30, 90, 80) + term(30, 120, 110)) / 2
    both = coarse_appearance_loss([here, there], COARSE).item()
    assert both == pytest.approx((first + second) / 2, abs=1e-12)


def test_coarse_loss_without_counterparts_uses_its_own_view():
    a = ViewLevel(unit(0, 90), along_x(0, 32))
    b = ViewLevel(unit(5), along_x(900))
    assert coarse_appearance_loss([(a, b)], COARSE).item() == pytest.approx(term(0, 90), abs=1e-12)


@pytest.mark.parametrize("loss", [fine_appearance_loss, coarse_appearance_loss])
def test_empty_batches_and_views_without_valid_voxels_give_zero(loss):
    assert loss([]).item() == 0
    nothing = torch.zeros(3, dtype=torch.bool)
    vectors = torch.randn(3, 4, requires_grad=True)
    view = ViewLevel(vectors, torch.zeros(3, 3), nothing)
    value = loss([(view, view)])
    value.backward()
    assert value.item() == 0


def test_one_voxel_views_work():
    a, b = (ViewLevel(unit(angle), along_x(0)) for angle in (0, 30))
    assert fine_appearance_loss([(a, b)]).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_gradients_are_the_numerical_ones(kind):
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(2, 2, 12, 3, generator=generator, dtype=torch.float64) * 60
    points[:, 1, :6] = points[:, 0, :6]  # half of the places are seen by both views
    start = torch.randn(4, 12, 3, generator=generator, dtype=torch.float64)
    outside = torch.zeros(12, dtype=torch.bool)
    outside[9:] = True

    def value(raw):
        vectors = F.normalize(raw, dim=2).view(2, 2, 12, 3)
        pairs = [
            tuple(ViewLevel(vectors[p, v], points[p, v], outside=outside) for v in (0, 1)) for p in (0, 1)
        ]  # fmt: skip
        drawing = torch.Generator().manual_seed(5)  # the same draw at every evaluation
        if kind == "fine":
            # Everything that may be a negative is one: ranks that swap under a small step would not be differentiable.
            return fine_appearance_loss(pairs, None, FineSampling(n_positive=4, n_outside=2), drawing)
        return coarse_appearance_loss(pairs, CoarseSampling(n_global=8), drawing)

    assert torch.autograd.gradcheck(value, (start.requires_grad_(),), eps=1e-6, atol=1e-6)


def test_draws_are_repeatable_and_numbers_are_kept():
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(2, 300, 8, generator=generator), dim=2)
    points = torch.rand(300, 3, generator=generator) * 200
    pair = (ViewLevel(vectors[0], points), ViewLevel(vectors[1], points))
    sampling = FineSampling(n_positive=10, n_hard=50, n_negative=20)
    values = [fine_appearance_loss([pair], None, sampling, torch.Generator().manual_seed(s)).item() for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    # Unrelated random vectors: 20 hard negatives of cosine about 0.8 against a positive of cosine about 0.
    assert math.log(1 + 20) < values[0] < math.log(1 + 20 * math.exp(4))
