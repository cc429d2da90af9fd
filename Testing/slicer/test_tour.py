"""The tour on two real CT scans with the bundled weights: load, click, see, save, reopen, and look at it."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import tour
import tour_more

from SAMv2Core.models.library import list_models


@pytest.mark.slow
def test_tour_on_real_scans(scene, shared, tmp_path):
    if not any(info.is_ready and "ct" in info.modalities for info in list_models()):
        pytest.skip("no model for CT is bundled")
    report = tour.run(tour.TEMPLATE, tour.QUERY, tmp_path, nPoints=3, nFollowed=2)
    assert len(report["points"]) == 3 and report["reopened_equal"]
    assert all(row[1].split()[-1] in ("matched", "uncertain", "found") for row in report["points"])
    image = qt.QImage(str(tmp_path / "match.png")).convertToFormat(qt.QImage.Format_Grayscale8)
    gray = np.array(image.constBits()).reshape(image.height(), image.bytesPerLine())[:, : image.width()]
    assert (gray > 40).mean() > 0.1  # anatomy in all the rows, not a black picture
    assert (gray[: gray.shape[0] // 2] > 40).any() and (gray[gray.shape[0] // 2 :] > 40).any()


@pytest.mark.slow
def test_scans_as_they_come(scene, shared):
    """The same voxels and geometry, so the same numbers: rounding of float16 vectors and of matrices only."""
    report = tour_more.geometryTour(("under a transform", "left-handed"))
    assert set(report) == {"under a transform", "left-handed"}
    for found in report.values():
        assert found["largest_mm"] < 0.01 and set(found["statuses"]) != {"not_found"}


@pytest.mark.slow
def test_tour_of_ct_and_mr(scene, shared, tmp_path):
    """That the scene does what was computed; how good that is, Testing/benchmarks/ctmr.py says."""
    report = tour_more.ctmrTour(tmp_path)
    assert report["before_mm"] > 30 and report["parent_kept"]
    assert report["after_mm"] < 0.6 * report["before_mm"] and "aligned with CT" in report["status"]
    assert report["undone_mm"] == pytest.approx(report["before_mm"])
    assert report["reopened_mm"] == pytest.approx(report["after_mm"], abs=1e-3) and report["reopened_card"]
    assert len(report["match"]) == 3 and (tmp_path / "ctmr.png").is_file()
