"""AdaReg: known displacements are found again, results become an index that is right, rounds survive interruption."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SAMv2Core.embedding.load import load_model
from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.geometry.grid import Grid, transform_points
from SAMv2Core.io.volume import write_volume
from Testing.samples.synthetic import make_body_volume
from Testing.samples.training_pairs import SHAPE, SPACING, known, truths
from Training.crosssam import deformable
from Training.crosssam.adareg import (
    AdaRegOptions,
    PairResult,
    apply_results,
    body_points,
    box_around,
    field_doubt,
    lattice_points,
    moved_by,
    register_pair,
    volume_of,
)
from Training.crosssam.deformable import DEEDS_GRID, bend, field_lattice, inverted, read_deeds
from Training.crosssam.displaced import Displacement, displace, random_rigid, read_truth
from Training.crosssam.displaced import main as displace_command
from Training.crosssam.rounds import errors, initial_errors, row, to_csv, to_markdown
from Training.data.index import Index, field_at, moved_to, partner_points, read_index, write_index
from Training.prepare import prepare


def test_displacement_is_what_the_truth_says(aligned, displaced):
    """The MR's values at moved points equal those at the points before, up to interpolation."""
    for first, second in displaced.pairs(split=None):
        truth = truths(displaced)[first.name]
        assert np.allclose(truth[:3, :3] @ truth[:3, :3].T, np.eye(3), atol=1e-9)
        before = aligned[second.name]
        points = body_points(aligned, before)
        moved, wrong = transform_points(truth, points), transform_points(np.linalg.inv(truth), points)
        values = [
            ndimage.map_coordinates(
                index.array(e.image).astype(float), e.grid.to_ijk(p).T[::-1], order=1, mode="nearest"
            )
            for index, e, p in ((aligned, before, points), (displaced, second, moved), (displaced, second, wrong))
        ]
        assert np.corrcoef(values[0], values[1])[0, 1] > 0.95
        assert np.corrcoef(values[0], values[2])[0, 1] < 0.7
        inside = ndimage.map_coordinates(
            displaced.array(second.body).astype(float), second.grid.to_ijk(moved).T[::-1], order=0
        )
        assert inside.mean() > 0.95
        assert first.partner_matrix is None


def test_displacements_stay_within_their_limits():
    rng = np.random.default_rng(0)
    center = np.array([10.0, -20, 300])
    for _ in range(50):
        move = random_rigid(rng, center, Displacement())
        angles = Rotation.from_matrix(move[:3, :3]).as_euler("xyz", degrees=True)
        assert np.abs(angles).max() <= 20 + 1e-9
        assert np.linalg.norm(transform_points(move, center[None])[0] - center) <= 60 + 1e-9


def test_displacing_needs_aligned_pairs(displaced, tmp_path):
    with pytest.raises(InputError, match="no aligned pair"):
        displace(displaced, tmp_path)
    with pytest.raises(InputError, match="cannot be read as true transforms"):
        read_truth(tmp_path / "gone.json")


def test_displacing_as_a_command(aligned, displaced, tmp_path, capsys):
    """The same seed moves the same scans in the same way; what cannot be displaced ends with exit code 3."""
    source = tmp_path / "aligned"
    source.mkdir()
    entries = [dataclasses.replace(e, **moved_to(e, aligned.folder, source)) for e in aligned.entries]
    write_index(source, entries)
    assert displace_command(["--data", str(source), "--out", str(tmp_path / "out"), "--seed", "3"]) == 0
    again = read_index(tmp_path / "out")
    assert [e.name for e in again.entries] == [e.name for e in displaced.entries]
    for name, truth in truths(displaced).items():
        assert np.allclose(truths(again)[name], truth)
    assert displace_command(["--data", str(tmp_path / "out"), "--out", str(tmp_path / "twice")]) == 3
    assert "no aligned pair" in capsys.readouterr().err


def test_results_become_an_index(displaced, tmp_path):
    """Transforms both ways, the larger scan cropped with everything still in place, failed pairs kept at weight 0."""
    results = known(displaced)
    results[1] = replace(results[1], status="failed", weight=0.0, reasons=("no match",))
    write_index(tmp_path, apply_results(displaced, results, tmp_path, AdaRegOptions(margin_mm=4.0)))
    index = read_index(tmp_path)
    assert len(index) == len(displaced)
    assert [a.name for a, _ in index.pairs(split=None, registered=True)] == [results[0].first]
    assert "no match" in index[results[1].first].warnings
    for entry in index.entries:
        index.check(entry)
        old = displaced[entry.name]
        i, j, k = np.array(entry.shape_zyx[::-1]) // 2
        world = entry.grid.to_lps(np.array([[i, j, k]]))
        oi, oj, ok = np.round(old.grid.to_ijk(world)[0]).astype(int)
        assert index.array(entry.image)[k, j, i] == displaced.array(old.image)[ok, oj, oi]
        assert index.array(entry.image_4mm).shape == tuple(n // 2 for n in entry.shape_zyx)
    first, second = index.pairs(split=None, registered=True)[0]
    points = body_points(displaced, displaced[second.name], 200)
    there = partner_points(index, second, points)
    assert np.abs(partner_points(index, first, there) - points).max() < 1e-6


def test_the_larger_scan_is_cropped_to_the_smaller_ones_region(tmp_path):
    """A CT of 24 slices beside an MR that shows 10 of them: the CT is cut, the MR's body and a margin remain."""
    volume = make_body_volume(SHAPE, SPACING, seed=0)
    write_volume(volume, tmp_path / "p_ct.nii.gz")
    part = make_body_volume(SHAPE, SPACING, seed=0, modality="mr")
    matrix = part.ijk_to_lps.copy()
    matrix[:3, 3] += 8 * matrix[:3, 2]
    write_volume(type(part)(part.array[8:18], matrix), tmp_path / "p_mr.nii.gz")
    prepare([tmp_path], tmp_path / "out")
    index = read_index(tmp_path / "out")
    result = PairResult("p_ct", "p_mr", tuple(np.eye(4).ravel().tolist()), "registered", 1.0)
    entries = {e.name: e for e in apply_results(index, [result], tmp_path / "new", AdaRegOptions(margin_mm=10.0))}
    ct, mr = entries["p_ct"], entries["p_mr"]
    assert mr.shape_zyx == index["p_mr"].shape_zyx
    assert ct.shape_zyx[0] == pytest.approx((10 * 5 + 2 * 10) / 2, abs=2)
    low, high = (f(index["p_mr"].grid.corners_lps()[:, 2]) for f in (np.min, np.max))
    z = ct.grid.corners_lps()[:, 2]
    assert z.min() == pytest.approx(low - 10, abs=4.1)
    assert z.max() == pytest.approx(high + 10, abs=4.1)


def test_box_around_points():
    grid = Grid((50, 60, 70), np.diag([2.0, 2.0, 2.0, 1.0]))
    low, high = box_around(grid, np.array([[40.0, 40, 40], [60, 60, 60]]), 7.0)
    assert low.tolist() == [16, 16, 16]
    assert high.tolist() == [35, 35, 35]
    assert box_around(grid, grid.corners_lps(), 10.0) is None


def smooth_field(points):
    """A smooth displacement of some 6 mm at LPS points (..., 3)."""
    return np.stack([6 * np.sin(points[..., (a + 1) % 3] / 40) for a in range(3)], axis=-1)


def test_fields_go_both_ways_on_cropped_scans(displaced, tmp_path):
    results = known(displaced)
    first, second = displaced.pairs(split=None)[0]
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/f.npy", smooth_field(lattice_points(first.grid)).astype(np.float32))
    results[0] = replace(results[0], field="arrays/f.npy")
    write_index(tmp_path, apply_results(displaced, results, tmp_path, AdaRegOptions(margin_mm=4.0)))
    index = read_index(tmp_path)
    points = body_points(displaced, first, 300)
    ct, mr = index[first.name], index[second.name]
    points = points[ct.grid.contains(points, -4)]
    there = partner_points(index, ct, points)
    matrix = truths(displaced)[first.name]
    assert np.abs(there - transform_points(matrix, points) - smooth_field(points)).max() < 0.3
    inside = mr.grid.contains(there, -4)
    back = partner_points(index, mr, there[inside])
    assert np.linalg.norm(back - points[inside], axis=1).max() < 0.5


def test_inverse_of_a_field():
    matrix = random_rigid(np.random.default_rng(1), np.zeros(3), Displacement())
    points = np.random.default_rng(2).uniform(-80, 80, (100, 3))
    q = transform_points(matrix, points) + smooth_field(points)
    back = transform_points(np.linalg.inv(matrix), q) + inverted(smooth_field, matrix, q)
    assert np.abs(back - points).max() < 0.01


def test_doubtful_fields_are_dropped(displaced):
    first = displaced.pairs(split=None)[0][0]
    points = lattice_points(first.grid)
    options = AdaRegOptions()
    assert field_doubt(smooth_field(points), displaced, first, options) is None
    assert "folded" in str(field_doubt(20 * np.sin(points / 8), displaced, first, options))
    assert "bends the body by 40 mm" in str(field_doubt(np.full(points.shape, 40 / 3**0.5), displaced, first, options))


def test_deeds_files_are_read_by_their_layout():
    """Blocks along y, x, z; x fastest; point k at voxel k n / (n // grid): a field linear in the position is exact."""
    shape = (18, 21, 24)
    small = tuple(n // DEEDS_GRID for n in shape)
    z, y, x = np.meshgrid(*(np.arange(m) * n / m for m, n in zip(small, shape)), indexing="ij")
    blocks = np.stack([0.1 * y, 0.2 * x + 1, -0.3 * z])  # along y, x, z
    full = read_deeds(blocks.astype(np.float32).ravel(), shape)
    at = np.stack(np.meshgrid(*(np.arange(n - DEEDS_GRID) for n in shape), indexing="ij"), -1)
    inner = full[tuple(slice(n - DEEDS_GRID) for n in shape)]
    expected = np.stack([-0.3 * at[..., 0], 0.1 * at[..., 1], 0.2 * at[..., 2] + 1], -1)
    assert np.abs(inner - expected).max() < 1e-4
    with pytest.raises(InputError, match="wrote 5 values"):
        read_deeds(np.zeros(5, np.float32), shape)


def test_deeds_is_called_and_its_answer_brought_to_the_field(displaced, monkeypatch, tmp_path):
    """A stand-in for the program that answers with one displacement of 1, 2, 3 voxels along x, y, z."""
    program = tmp_path / "deedsBCV"
    program.write_text(
        "#!/usr/bin/env python3\nimport gzip, struct, sys\n"
        "a = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "head = gzip.open(a['-F']).read(348)\n"
        "assert head == gzip.open(a['-M']).read(348), 'one lattice'\n"
        "dim = struct.unpack('<8h', head[40:56])\n"
        "n = (dim[1] // 3) * (dim[2] // 3) * (dim[3] // 3)\n"
        "values = struct.pack(f'<{3 * n}f', *[2.0] * n, *[1.0] * n, *[3.0] * n)\n"
        "open(a['-O'] + '_displacements.dat', 'wb').write(values)\n"
    )
    program.chmod(0o755)
    with pytest.raises(UsageError, match="not on PATH"):
        deformable.check_method("deeds")
    monkeypatch.setenv("PATH", f"{tmp_path}:{shutil.os.environ['PATH']}")
    first, second = displaced.pairs(split=None)[0]
    matrix = truths(displaced)[first.name]
    volumes = volume_of(displaced, first), volume_of(displaced, second)
    bodies = displaced.array(first.body), displaced.array(second.body)
    field = bend(volumes, bodies, matrix, "deeds")
    assert field.shape[:3] == field_lattice(first.grid).shape_zyx
    middle = field_at(field, first.grid, first.grid.corners_lps().mean(axis=0)[None])[0]
    assert np.allclose(middle, matrix[:3, :3] @ [2.0, 4.0, 6.0], atol=0.05)
    program.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    with pytest.raises(InputError, match="no licence"):
        bend(volumes, bodies, matrix, "deeds")


def test_errors_and_table(displaced):
    first = displaced.pairs(split=None)[0][0]
    found = [errors(displaced, result, truths(displaced)[result.first]) for result in known(displaced, offset_mm=5.0)]
    assert [e.rigid_mm for e in found] == pytest.approx([5.0, 5.0])
    # A field that takes the offset back.
    field = np.zeros((*field_lattice(first.grid).shape_zyx, 3)) - np.array([5.0, 0, 0])
    result = known(displaced, offset_mm=5.0)[0]
    assert errors(displaced, result, truths(displaced)[first.name], field).deformable_mm == pytest.approx(0, abs=1e-6)
    rows = [row("initial", [], initial_errors(displaced, truths(displaced))), row("start", known(displaced), found)]
    assert rows[0]["rigid_median_mm"] > 15
    assert rows[1]["used_near"] == 1.0
    assert to_csv(rows).splitlines()[2].startswith("start,2,2,0,0,")
    assert "| start | 2 | 2 / 0 / 0 |" in to_markdown(rows)


def test_lite_ct_finds_a_displaced_cropped_limb(shared, tmp_path):
    """A real limb CT and its copy, turned by up to 20 degrees, moved by up to 60 mm, 70 % of its length kept."""
    source = shared / "data/ctmr/train/STS_002_ct.nii.gz"
    prepare([source], tmp_path / "a")
    entry = read_index(tmp_path / "a").entries[0]
    same = tuple(np.eye(4).ravel())
    pair = (replace(entry, partner="copy", partner_matrix=same), replace(entry, name="copy"))
    index = displace(Index(tmp_path / "a", pair), tmp_path / "b", 0, Displacement(keep=0.7))
    truth = truths(index)[entry.name]
    model = load_model("lite-ct", "cpu")
    result = register_pair(index, (index[entry.name], index["copy"]), model, AdaRegOptions(), tmp_path / "b")
    assert initial_errors(index, truths(index))[0].rigid_mm > 20
    assert errors(index, result, truth).rigid_mm < 5.0
    assert result.status == "registered"
    assert result.weight == 1.0
    assert PairResult.from_json(json.loads(json.dumps(dataclasses.asdict(result)))) == result
    assert moved_by(index, index["copy"], truth, result.to_second) < 5.0


@pytest.mark.parametrize("error", [InputError("no body was found.", ""), ValueError("no body")])
def test_a_pair_that_cannot_be_registered_comes_back_as_failed(displaced, tmp_path, error):
    class Broken:
        def embed(self, volume, modality):
            raise error

    result = register_pair(displaced, displaced.pairs(split=None)[0], Broken(), AdaRegOptions(), tmp_path)
    assert (result.status, result.weight) == ("failed", 0.0)
    assert "no body" in result.reasons[0]
