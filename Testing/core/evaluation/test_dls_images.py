"""How a folder of DeepLesion scans is read: found by name, its order elected over all files, one scan embedded once."""

from __future__ import annotations

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.evaluation import dls_images
from SAMv2Core.evaluation.dls_files import LesionPair
from SAMv2Core.evaluation.extractor import RecentEmbeddings
from SAMv2Core.io.volume import Volume, write_volume
from Testing.core.evaluation.test_dls_frames import half_body, lesions_of

NAMES = ("000001_01_01_001-040.nii.gz", "000001_02_01_001-040.nii.gz")


def pairs() -> list:
    """Twelve lesions of the narrowing body, in both scans."""
    return [
        LesionPair(
            key=str(n), source=NAMES[0], target=NAMES[1], source_center=(1.0, 1.0, 1.0), target_center=(1.0, 1.0, 1.0),
            source_spacing=(0.8, 0.8, 2.0), target_spacing=(0.8, 0.8, 2.0), target_box=box, source_box=box,
        )
        for n, box in enumerate(lesions_of(half_body()))
    ]  # fmt: skip


def folder_of(tmp_path, z_sign: float, reverse: bool):
    """Both scans with a header that says superior; the voxels from the feet up (right) or from the head down."""
    array = half_body().array[:: -1 if reverse else 1].copy()
    (tmp_path / "deep").mkdir()
    for place, name in zip((tmp_path, tmp_path / "deep"), NAMES):
        write_volume(Volume(array, np.diag([0.8, 0.8, 2.0 * z_sign, 1.0])), place / name)
    return tmp_path


@pytest.mark.parametrize(("reverse", "order"), [(True, "affine"), (False, "slices")])
def test_the_lesions_of_a_folder_elect_its_order(tmp_path, reverse, order):
    folder = folder_of(tmp_path, 1.0, reverse)
    files = dls_images.find_scans(folder, pairs())
    assert files[NAMES[1]] == folder / "deep" / NAMES[1]
    found = dls_images.survey(pairs(), files, "auto", lambda fraction, text: None)
    assert list(found) == ["LPS"] and found["LPS"]["files_surveyed"] == 2
    assert found["LPS"]["order"] == order
    assert found["LPS"]["votes"][order] >= 10
    assert found["LPS"]["decided_by"] == {"affine": "the header", "slices": "the votes of the lesions"}[order]
    overruled = dls_images.survey(pairs(), files, "affine", lambda fraction, text: None)["LPS"]
    assert (overruled["order"], overruled["decided_by"]) == ("affine", "the user")


def test_the_annotations_own_order_needs_no_votes(tmp_path):
    files = dls_images.find_scans(folder_of(tmp_path, -1.0, False), pairs())
    found = dls_images.survey(pairs(), files, "auto", lambda fraction, text: None)["LPI"]
    assert found["votes"] == {"affine": 0, "slices": 0} and found["order"] == "affine"


def test_folders_without_the_scans_are_refused(tmp_path):
    with pytest.raises(InputError, match="none of the 2 scans"):
        dls_images.find_scans(tmp_path, pairs())
    with pytest.raises(InputError, match="not a folder"):
        dls_images.find_scans(tmp_path / "none", pairs())


def test_recent_embeddings_are_bounded_by_their_size():
    made = []

    def make(key):
        return lambda: (made.append(key) or key, 10)

    recent = RecentEmbeddings(limit_bytes=25)
    for key in "aabacbca":
        assert recent.get(key, make(key)) == key
    # a, b fit; c drops b, the least recently used; b drops a; ...
    assert made == ["a", "b", "c", "b", "a"]
