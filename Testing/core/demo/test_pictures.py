"""Pictures show what they claim: the mark on the point, no mark without a match, text of the right status."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from SAMv2Core.demo import canvas as c
from SAMv2Core.demo.cases import Case, Finding, RegistrationCase, Scan, slug
from SAMv2Core.errors import UsageError
from SAMv2Core.io.volume import Volume

pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra demo)")
from PIL import Image

from SAMv2Core.demo import overlay, panels, pictures

POINT = np.array([10.0, -5.0, 40.0])


def ball_scan(name, center):
    """A 120 mm body with a bright ball of 12 mm radius at ``center``."""
    shape = (40, 60, 60)
    matrix = np.diag([2.5, 2.5, 3.0, 1.0])
    matrix[:3, 3] = [-70, -75, -20]
    z, y, x = np.indices(shape)
    points = np.stack([x, y, z], -1) @ matrix[:3, :3].T + matrix[:3, 3]
    array = np.full(shape, -1000, np.int16)
    array[4:-4, 8:-8, 8:-8] = 0
    array[np.linalg.norm(points - center, axis=-1) < 12] = 200
    return Scan(name, Volume(array, matrix, name, "ct"), None, "ct", "never seen")


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
    return panels.Similarity(np.where(scan.array > 100, 0.9, 0.1).astype(np.float32), scan.grid)


def pixels_of(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def close_to(picture, color, tolerance=40):
    return np.abs(picture - c.rgb(color).astype(int)).max(axis=-1) < tolerance


def test_card_of_a_match(case, tmp_path):
    path = pictures.match_card(tmp_path / "card.png", case, case.findings[0], similarity_of(case.query))
    picture = pixels_of(path)
    width, height = Image.open(path).size
    assert (width, height) == (picture.shape[1], picture.shape[0])
    # the crosshairs are centered in their panels: the ball's bright gray at the center, the arms at 12 pixels
    for row, color in enumerate((c.YELLOW, c.BLUE, c.BLUE)):
        for x in pictures.COLUMNS:
            middle_x = x + (pictures.PANEL - 1) / 2
            middle_y = pictures.HEADER + row * (pictures.PANEL + pictures.GAP) + (pictures.PANEL - 1) / 2
            arm = picture[int(middle_y) : int(middle_y) + 2, int(middle_x) + 12]
            assert close_to(arm, color).any(), (row, x)
            if row < 2:
                center = picture[int(middle_y), int(middle_x)]
                assert center.min() > 200 and np.ptp(center) < 6
    assert not list(tmp_path.glob("*.part"))


def test_card_without_a_match_marks_nothing_in_the_query(case, tmp_path):
    path = pictures.match_card(tmp_path / "none.png", case, case.findings[1], similarity_of(case.query))
    picture = pixels_of(path)
    query_row = picture[pictures.HEADER + pictures.PANEL + pictures.GAP :, pictures.COLUMNS[0] :]
    for color in (c.YELLOW, c.BLUE, c.ORANGE):
        assert not close_to(query_row, color, 12).any(), color


def test_overview(case, tmp_path):
    picture = pixels_of(pictures.overview_sheet(tmp_path / "overview.png", case))
    assert close_to(picture, c.YELLOW).sum() > 100 and close_to(picture, c.BLUE).sum() > 100
    assert close_to(picture, c.RED).sum() > 50  # the words "Not found"


def test_gray_marks_what_is_outside():
    picture = panels.gray(np.array([[np.nan, -160.0, 240.0, 9999.0]]), -160, 240)
    assert (picture[0, 0] == c.rgb(c.OUTSIDE)).all()
    assert picture[0, 1:, 0].tolist() == [0, 255, 255]


def test_heat_leaves_the_background_alone():
    gray = np.full((1, 3, 3), 90, np.uint8)
    painted = panels.heat(gray, np.array([[0.1, np.nan, 0.9]]), 0.5, 0.9)
    assert (painted[0, :2] == 90).all() and np.ptp(painted[0, 2]) > 50


def test_magnetic_resonance_gets_a_window_of_its_own(case):
    scan = replace(case.template, modality="mr")
    low, high, words = panels.window_of(scan, "soft tissue")
    assert low < high and "%" in words


def test_agreement_of_two_scans_is_gray_and_disagreement_is_not():
    a = np.array([[100.0, 100.0, -1000.0, np.nan]])
    b = np.array([[100.0, -1000.0, 100.0, 100.0]])
    picture = overlay.fused(a, b, (-160, 240), (-160, 240)).astype(int)
    assert np.ptp(picture[0, 0]) <= 2
    assert picture[0, 1, 0] > picture[0, 1, 2] + 100  # only the fixed scan: orange
    assert picture[0, 2, 2] > picture[0, 2, 0] + 100  # only the moving scan: blue
    assert picture[0, 3, 2] > picture[0, 3, 0] + 100


def test_registration_sheet_turns_gray_when_the_matrix_is_right(case, tmp_path):
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
    picture = pixels_of(overlay.registration_sheet(tmp_path / "sheet.png", done))
    panel = pictures.PANEL
    rows = [overlay.HEADER + 26, overlay.HEADER + 26 + panel + pictures.GAP + 26]
    half = slice(panel // 4, 3 * panel // 4)
    colored = [
        int((np.ptp(picture[y : y + panel, pictures.MARGIN : pictures.MARGIN + panel][half, half], axis=-1) > 60).sum())
        for y in rows
    ]
    assert colored[0] > 300 and colored[1] < colored[0] / 10


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(c, "pictures_available", lambda: False)
    with pytest.raises(UsageError, match=r"samv2\[demo\]"):
        c.Canvas(10, 10)


def test_slug():
    assert slug("Right kidney, upper pole") == "right-kidney-upper-pole"
    assert slug("../../etc") == "etc" and slug("\u00e9") == "unnamed"
