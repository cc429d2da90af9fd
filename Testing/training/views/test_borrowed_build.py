"""A share of another patient's build in a view: the right shape, and correspondences that stay exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from Training.views.borrowed_build import borrow_build
from Training.views.geometry import ViewOptions, draw_map, inside_box
from Training.views.scans import ScanLink

LATTICE = (12, 14, 14)  # 16 mm apart
OPTIONS = ViewOptions(
    context_size=(32, 40, 40), rotation=0.0, scale=(1.0, 1.0), stretch=0.0, deformation_mm=0.0
)  # no randomness of its own
STRETCH = torch.tensor([1.2, 0.9, 1.1])
OFFSET = torch.tensor([9.0, -6.0, 4.0])


def truth(points: torch.Tensor) -> torch.Tensor:
    """A to B: other proportions, moved, and a belly."""
    bulge = 10.0 * torch.exp(-((points - 100.0) ** 2).sum(-1, keepdim=True) / (2 * 60.0**2))
    return points * STRETCH + OFFSET + bulge * torch.tensor([0.0, -1.0, 0.0])


def inverse(points: torch.Tensor) -> torch.Tensor:
    found = (points - OFFSET) / STRETCH
    for _ in range(30):
        found = found + (points - truth(found)) / STRETCH
    return found


def link(function, supported: float = 2.0) -> ScanLink:
    axes = [torch.arange(n) * 16.0 for n in LATTICE]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    target = function(torch.stack((x, y, z), dim=-1))
    return ScanLink(target.numpy(), np.full(LATTICE, supported, np.float32))


@pytest.mark.parametrize(("share", "largest_mm"), [(1.0, 2.5), (0.0, 1e-3)])
def test_the_view_has_the_other_patients_build(share, largest_mm):
    base = draw_map(np.random.default_rng(0), np.array([96.0, 96.0, 88.0]), OPTIONS)
    view = borrow_build(base, link(truth), link(inverse), share)
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 110 + 40
    there = truth(points) - truth(base.centre[None])
    wanted = share * there + (1 - share) * (points - base.centre)
    u = view.to_view(points)
    assert (view.to_scan(u) - points).norm(dim=1).max() < 0.05  # still exact
    inside = inside_box(u, OPTIONS.context_size, 4.0, torch.zeros(3))
    assert inside.sum() > 300
    assert (u - wanted).norm(dim=1)[inside].median() < largest_mm
    if share:
        assert (points - base.centre - wanted).norm(dim=1)[inside].median() > 8  # it was another build


def test_links_that_support_little_or_are_wild_change_nothing():
    base = draw_map(np.random.default_rng(0), np.array([96.0, 96.0, 88.0]), OPTIONS)
    assert borrow_build(base, link(truth), link(inverse, supported=0.5), 1.0) is base
    assert borrow_build(base, link(truth, supported=0.5), link(inverse), 1.0) is base
    assert borrow_build(base, link(truth), link(lambda points: 3.0 * points), 1.0) is base
    far = replace(base, centre=torch.tensor([1e4, 0.0, 0.0]))
    assert borrow_build(far, link(truth), link(inverse), 1.0) is far


def test_a_link_trusts_nothing_beyond_its_lattice():
    # Half a lattice step outside, the interpolated support is still above 1 and the place is thousands of mm off.
    last = (torch.tensor(LATTICE[::-1]) - 1) * 16.0
    moved, trusted = link(truth).transfer(torch.stack((last, last + 4.0, torch.full((3,), -4.0))))
    assert trusted.tolist() == [True, False, False]
    assert (moved[0] - truth(last[None])[0]).norm() < 0.1
