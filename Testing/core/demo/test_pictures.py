"""Pictures show what they claim: upright planes, the mark on the point, no mark without a match, gray agreement."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from SAMv2Core.demo.cases import Case, Finding, RegistrationCase, Scan, slug
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume

pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra demo)")
from matplotlib.figure import Figure
from matplotlib.image import imread

from SAMv2Core.demo import pictures

POINT = np.array([10.0, -5.0, 40.0])
LEFT, POSTERIOR, SUPERIOR = np.eye(3)


def rotation(axis, degrees):
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    a = np.radians(degrees)
    return np.eye(3) + np.sin(a) * k + (1 - np.cos(a)) * k @ k


# index axes -> LPS, with spacing (0.9, 1.3, 2.0): straight, all axes flipped (left-handed), permuted, oblique
MATRICES = {
    "straight": np.diag([0.9, 1.3, 2.0]),
    "left-handed": np.diag([-0.9, -1.3, -2.0]),
    "sagittal": np.array([[0, 0, 2.0], [0.9, 0, 0], [0, -1.3, 0]]),
    "oblique": rotation([1, 2, 3], 35) @ np.diag([0.9, 1.3, 2.0]),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("plane", "to_the_right", "to_the_bottom"),
    [("axial", LEFT, POSTERIOR), ("coronal", LEFT, -SUPERIOR), ("sagittal", POSTERIOR, -SUPERIOR)],
)
def test_planes_are_upright_and_true_to_scale(name, plane, to_the_right, to_the_bottom):
    shape, middle, slope = (44, 60, 70), np.array([12.0, -30.0, 700.0]), np.array([4.0, 2.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = MATRICES[name]
    matrix[:3, 3] = middle - MATRICES[name] @ ((np.array(shape[::-1]) - 1) / 2)
    grid = Grid(shape, matrix)
    z, y, x = np.indices(shape)
    points = grid.to_lps(np.stack([x, y, z], -1).reshape(-1, 3))
    array = ((points - middle) @ slope).reshape(shape).astype(np.float32)
    pixels = pictures.cut(array, grid, plane, middle, 20.0)
    # a linear field is reproduced by linear interpolation up to float32 rounding
    step = 20.0 / pictures.PIXELS
    np.testing.assert_allclose(np.diff(pixels, axis=1), step * slope @ to_the_right, atol=1e-3)
    np.testing.assert_allclose(np.diff(pixels, axis=0), step * slope @ to_the_bottom, atol=1e-3)
    assert pixels.mean() == pytest.approx(0.0, abs=1e-2)


def test_outside_the_scan_is_nan_and_the_outer_half_voxel_is_not_lost():
    grid = Grid((3, 4, 5), np.diag([2.0, 2.0, 10.0, 1.0]))
    pixels = pictures.cut(np.ones((3, 4, 5), np.int16), grid, "coronal", np.array([4.0, 3.0, 10.0]), 50.0)
    # 5 voxels of 2 mm and 3 of 10 mm, give or take the pixel on each border
    per_mm = pictures.PIXELS / 50.0
    assert np.isfinite(pixels).any(axis=0).sum() == pytest.approx(10 * per_mm, abs=2)
    assert np.isfinite(pixels).any(axis=1).sum() == pytest.approx(30 * per_mm, abs=2)


def test_a_plane_at_or_beyond_the_border_is_cut_too():
    array, grid = np.arange(60, dtype=np.float32).reshape(3, 4, 5), Grid((3, 4, 5), np.eye(4))
    at_the_top = pictures.cut(array, grid, "axial", np.array([2.0, 1.0, 2.4]), 1.0)
    assert at_the_top[170, 170] == pytest.approx(array[2, 1, 2], abs=0.1)
    assert np.isnan(pictures.cut(array, grid, "axial", np.array([2.0, 1.0, 2.6]), 1.0)).all()


def ball_scan(name, center):
    """A 110 mm body with a bright ball of 12 mm radius at ``center``."""
    shape = (40, 60, 60)
    matrix = np.diag([2.5, 2.5, 3.0, 1.0])
    matrix[:3, 3] = [-70, -75, -20]
    z, y, x = np.indices(shape)
    points = np.stack([x, y, z], -1) @ matrix[:3, :3].T + matrix[:3, 3]
    array = np.full(shape, -1000, np.int16)
    array[4:-4, 8:-8, 8:-8] = 0
    body = array > -500
    array[np.linalg.norm(points - center, axis=-1) < 12] = 200
    volume = Volume(array, matrix, name, "ct")
    embedding = SimpleNamespace(body=body, fine=SimpleNamespace(grid=volume.grid))
    return Scan(name, volume, embedding, "ct", "never seen")


def match(query_lps, status="matched"):
    return SimpleNamespace(
        template_lps=POINT,
        query_lps=query_lps,
        similarity=0.91,
        cycle_error_mm=1.2,
        fixed_points=80,
        confidence=0.9,
        status=status,
        reason="" if status == "matched" else "The way back misses the point.",
    )


@pytest.fixture(scope="module")
def case():
    there = POINT + np.array([6.0, 8.0, -5.0])
    findings = (
        Finding("Ball", POINT, "soft tissue", match(there), there + np.array([4.0, 0, 0]), "exact", True),
        Finding("Elsewhere", POINT, "bone", match(None, "not_found"), None, "", False),
    )
    return Case("pair", "One scan to another", ball_scan("first", POINT), ball_scan("second", there), findings)


def similarity_of(scan):
    return pictures.Similarity(np.where(scan.array > 100, 0.9, 0.1).astype(np.float32), scan.grid)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, on their way to the file."""
    kept = []
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda figure, *rest: kept.append(figure) or save(figure, *rest))
    return kept


def words_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def marks_of(ax):
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_markeredgecolor()) for line in ax.lines]


def test_card_of_a_match(case, tmp_path, figures):
    path = pictures.match_card(tmp_path / "card.png", case, case.findings[0], similarity_of(case.query))
    rows = np.array(figures[0].axes[:12]).reshape(3, 4)
    for ax in rows[0, 1:]:
        assert marks_of(ax) == [(0, 0, pictures.YELLOW)]
    for ax, truth_x in zip(rows[1:, 1:].T.ravel(), (4, 4, 4, 4, 0, 0)):  # 4 mm to the left: not seen from the side
        assert marks_of(ax) == [(0, 0, pictures.BLUE)] and [tuple(ring.center) for ring in ax.patches] == [(truth_x, 0)]
        ball = ax.images[0].get_array()
        assert ball[170, 170] == 200 and ball[170, 100] == 0  # pixels of 0.4 mm: 28 mm beside the point
    assert all(len(ax.images) == 2 for ax in rows[2, 1:])
    words = words_of(figures[0])
    for expected in ("Matched", "4.0 mm from the true place", "W 400  L 40", "similarity  0.91", "S 40 mm", "I", "P"):
        assert expected in words
    assert imread(path).shape[0] > 1000 and [file.name for file in tmp_path.iterdir()] == ["card.png"]


def test_card_without_a_match_marks_nothing_in_the_query(case, tmp_path, figures):
    pictures.match_card(tmp_path / "none.png", case, case.findings[1], similarity_of(case.query))
    rows = np.array(figures[0].axes[:8]).reshape(2, 4)
    assert not any(ax.lines for ax in rows[1])
    words = words_of(figures[0])
    assert "Not found" in words and "The way back misses the" in words and "whole scan in projection" in words


def test_overview(case, tmp_path, figures):
    path = pictures.overview_sheet(tmp_path / "overview.png", case)
    assert [(len(ax.lines), len(ax.patches)) for ax in figures[0].axes] == [(1, 0), (1, 1), (1, 0), (0, 0)]
    words = words_of(figures[0])
    assert "1 matched, 1 not found of 2" in words and "no position" in words and "(not in this scan)" in words
    picture = imread(path)[..., :3]
    for color in (pictures.YELLOW, pictures.BLUE, pictures.RED):
        near = np.abs(picture - [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]).max(axis=-1) < 0.15
        assert near.sum() > 50, color


def test_similarity_colors_nothing_below_what_stands_out(case):
    similarity = similarity_of(case.query)
    low, high = similarity.limits
    assert 0.1 <= low < high == pytest.approx(0.9)
    ax = Figure().subplots()
    pictures._heat(ax, np.array([[low - 0.05, np.nan, high]]), (30, 10), similarity)
    assert ax.images[0].get_alpha()[0] == pytest.approx([0, 0, 0.7])


def test_magnetic_resonance_gets_a_window_of_its_own(case):
    low, high, words = pictures.window_of(replace(case.template, modality="mr"), "soft tissue")
    assert low < high and "%" in words


def test_agreement_of_two_scans_is_gray_and_disagreement_is_not():
    both, fixed, moving = pictures.fused(np.array([[0.6, 1.0, 0.0]]), np.array([[0.6, 0.0, 1.0]]))[0]
    assert np.ptp(both) < 1e-9
    assert fixed.tolist() == [1.0, 0.5, 0.0] and moving.tolist() == [0.0, 0.5, 1.0]  # orange, blue


def test_registration_sheet_turns_gray_when_the_matrix_is_right(case, tmp_path, figures):
    shift = np.eye(4)
    shift[:3, 3] = [6.0, 8.0, -5.0]
    result = SimpleNamespace(
        matrix=shift,
        transform="rigid",
        status="registered",
        inliers=90,
        points_sampled=100,
        residual_mm={"mean": 1.0, "median": 1.0, "p95": 2.0},
        overlap=0.9,
    )
    done = RegistrationCase(
        "registration", "Registration", case.template, case.query, result, np.array([11.2]), np.array([0.1])
    )
    pictures.registration_sheet(tmp_path / "sheet.png", done)
    inner = slice(pictures.PIXELS // 4, 3 * pictures.PIXELS // 4)
    images = [ax.images[0].get_array()[inner, inner] for ax in figures[0].axes]
    colored = [int((np.ptp(image, axis=-1) > 0.25).sum()) for image in images]
    assert sum(colored[:3]) > 900 and sum(colored[3:]) < sum(colored[:3]) / 10
    words = words_of(figures[0])
    assert "As scanned" in words and "Registered" in words and "11.2 mm before, 0.1 mm after" in words


def test_slug():
    assert slug("Right kidney, upper pole") == "right-kidney-upper-pole"
    assert slug("../../etc") == "etc" and slug("\u00e9") == "unnamed"
