"""Looks of other acquisitions: borders stay, air stays dark, and CT and MR of one patient are paired where they lie."""

import numpy as np
import pytest
import torch

from Training.data.index import AIR
from Training.losses.infonce import LevelOptions, _tolerance
from Training.views.geometry import DETAIL_MM, ViewOptions
from Training.views.intensity import BRIGHTEST, apply_look, draw_ct_look, draw_look
from Training.views.pairs import draw_cross_pair
from Training.views.scans import RegisteredLink, Scan

SMALL = ViewOptions(context_size=(24, 32, 32), detail_size=(16, 24, 24), cut_probability=0.0, other_contrast=0.5)


def tissues():
    """Air, fat, muscle and cortical bone in blocks of 8 voxels."""
    hu = np.repeat(np.array([-1024.0, -105.0, 50.0, 1100.0]), 8)
    return torch.tensor(np.broadcast_to(hu, (16, 16, 32)).copy()).float()


@pytest.mark.parametrize("seed", range(8))
def test_a_ct_shown_as_mr_keeps_air_dark_and_cortex_darker_than_marrow_and_fat(seed):
    draw = draw_look("ct", 1.0, np.random.default_rng(seed))
    levels = np.interp([-1024, -105, 50, 300, 1100], draw.knots, draw.values)
    assert levels[0] == AIR and np.all(levels <= BRIGHTEST)
    assert levels[4] <= AIR + 0.16 * (BRIGHTEST - AIR)
    assert np.all(np.diff(draw.knots) > 0)
    shown = apply_look(tissues(), draw, 1.0, torch.Generator().manual_seed(seed))
    assert torch.isfinite(shown).all() and shown.shape == (16, 16, 32)


def test_contrasts_of_fat_and_muscle_come_in_both_orders():
    brighter = []
    for seed in range(60):
        draw = draw_look("ct", 1.0, np.random.default_rng(seed))
        fat, muscle = np.interp([-105, 50], draw.knots, draw.values)
        brighter.append(fat > muscle)
    assert 0.5 < np.mean(brighter) < 0.95  # as in T1 mostly, the other way round with fat suppression


@pytest.mark.parametrize("strong", [0.0, 1.0])
def test_an_mr_keeps_its_background_dark_and_its_curve_single_valued(strong):
    for seed in range(30):
        draw = draw_look("mr", strong, np.random.default_rng(seed))
        assert draw.values[0] == AIR and np.all(np.diff(draw.knots) >= 0)
        assert draw.values.max() <= BRIGHTEST + 1e-6


def test_without_other_contrasts_a_ct_looks_as_before():
    one = draw_look("ct", 0.0, np.random.default_rng(5))
    other = draw_ct_look(np.random.default_rng(5))
    np.testing.assert_array_equal(one.values, other.values)
    assert one.noise_hu == other.noise_hu and one.bias == 0


def scan(name, shape, origin, modality):
    body4 = np.ones([n // 2 for n in shape], np.uint8)
    z, y, x = np.meshgrid(*[np.arange(n) * DETAIL_MM + o for n, o in zip(shape, origin[::-1])], indexing="ij")
    hu = (200 * np.sin(x / 25) + 150 * np.cos(y / 20) + 3 * z).astype(np.int16)
    index = np.argwhere(body4)[:, ::-1].astype(np.float32)
    return Scan(name, hu, hu[::2, ::2, ::2], body4, index, None, "limbs", 1.0, modality, np.array(origin, float))


def linked(a, b):
    """Both ways between two scans that share the world's coordinates."""
    links = {}
    for source, target in ((a, b), (b, a)):
        matrix = torch.eye(4)
        matrix[:3, 3] = torch.from_numpy(source.origin - target.origin).float()
        links[source.name, target.name] = RegisteredLink(matrix, target.body4)
    return links


def test_ct_and_mr_of_one_patient_are_linked_by_their_places_in_the_world():
    ct, mr = scan("p1_ct", (40, 40, 48), (0, 0, 0), "ct"), scan("p1_mr", (24, 28, 32), (12, 8, 20), "mr")
    links = linked(ct, mr)
    moved, trusted = links["p1_ct", "p1_mr"].transfer(torch.tensor([[30.0, 20.0, 40.0], [2.0, 2.0, 2.0]]))
    assert torch.allclose(moved[0], torch.tensor([18.0, 12.0, 20.0])) and trusted.tolist() == [True, False]

    generator = torch.Generator().manual_seed(0)
    pair = draw_cross_pair(
        (ct, mr), (links["p1_ct", "p1_mr"], links["p1_mr", "p1_ct"]), np.random.default_rng(0), generator, SMALL
    )
    here = pair.views[0].fine.points.reshape(-1, 3)
    there, trusted = pair.transfer(0, here)
    # One place of the world, whatever was drawn for either view.
    assert torch.allclose(
        (here + torch.tensor(ct.origin).float())[trusted], (there + torch.tensor(mr.origin).float())[trusted]
    )
    assert int(trusted.sum()) > 50


def test_registered_scans_leave_less_room_than_two_patients():
    options = LevelOptions(1, 1, ignore_mm=8.0, cross_ignore_mm=20.0, search_mm=5.0, temperature=0.1, registered_mm=3.0)
    links = linked(scan("a_ct", (8, 8, 8), (0, 0, 0), "ct"), scan("a_mr", (8, 8, 8), (0, 0, 0), "mr"))
    assert _tolerance(None, options) == (0.0, 8.0, 8.0)
    assert _tolerance(links["a_ct", "a_mr"], options) == (3.0, 11.0, 11.0)
