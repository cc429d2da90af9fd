"""The tour on two real CT scans with the bundled weights: load, click, see, save, reopen, and look at it."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")
pytest.importorskip("torch")

import qt
import tour

from SAMv2Core.models import list_models


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
