"""The troublesome files of ../shared/cases: each is read as its README says, or refused by its true name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.io.lesions import read_lesions
from SAMv2Core.io.points import read_points
from SAMv2Core.io.transforms import read_transform
from SAMv2Core.io.volume import Volume, read_volume


@pytest.fixture(scope="module")
def case(shared, tmp_path_factory):
    """A case's file by "04/phases.dcm"; a zip becomes the folder of its content."""
    if not (shared / "cases").is_dir():
        pytest.skip("../shared/cases is not here")

    def find(name: str) -> Path:
        number, file = name.split("/")
        (folder,) = (shared / "cases").glob(f"{number}-*")
        path = folder / file
        if path.suffix != ".zip":
            return path
        out = tmp_path_factory.mktemp(number)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(out)
        return out

    return find


@pytest.fixture(scope="module")
def base(case) -> Volume:
    return read_volume(case("07/base.nii.gz"))


def is_base(volume: Volume, base: Volume) -> bool:
    """The same voxels at the same places."""
    return np.allclose(volume.ijk_to_lps, base.ijk_to_lps, atol=0.01) and np.array_equal(volume.array, base.array)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("01/ct_and_seg.zip", ""),
        ("02/random.dcm", ""),
        ("10/twice.zip", "copies of others"),
        ("21/bad.zip", "cannot be read"),
        ("26/dim4_zero.nii.gz", ""),
        ("28/stray.zip", "left out"),
    ],
)
def test_the_scan_is_read_where_it_lies(case, base, name, word):
    volume = read_volume(case(name))
    assert is_base(volume, base), (volume.grid, volume.warnings)
    assert word in " ".join(volume.warnings) and (word or not volume.warnings)


def test_rounded_orientations_are_one_series(case):
    volume = read_volume(case("05/c0.0125_2e-06.zip"))
    assert volume.array.shape[0] == 35 and not volume.warnings


@pytest.mark.parametrize("number", [1, 2])
def test_phases_and_acquisitions_are_told_and_chosen(case, base, number):
    for name in ("04/phases.dcm", "11/mixed.zip"):
        path = case(name)
        with pytest.raises(InputError, match=r"2 volumes: :1 .*:2 ") as caught:
            read_volume(path)
        assert ":1" in caught.value.remedy
        assert read_volume(path, f":{number}").array.shape == base.array.shape


def test_what_was_moved_or_is_missing_is_told(case, base):
    moved = read_volume(case("06/mid.zip"))
    assert any("IM0012" in warning for warning in moved.warnings)
    gap = read_volume(case("02/gap.dcm"))
    assert any("3 slices are missing" in warning for warning in gap.warnings)
    assert gap.array.shape == base.array.shape


def test_headers_that_leave_something_open_are_told(case, base):
    unit = read_volume(case("07/unit_columns.nii.gz"))
    assert np.allclose(unit.grid.spacing_ijk_mm, 8.0) and any("pixdim" in warning for warning in unit.warnings)
    scanner = read_volume(case("08/scanner-xyz.nrrd"))
    assert is_base(scanner, base) and any("scanner-xyz" in warning for warning in scanner.warnings)
    assert any("no orientation" in w for w in read_volume(case("09/nrrd_spacings_only.nrrd")).warnings)
    assert any("cm" in warning for warning in read_volume(case("25/cm.nrrd")).warnings)


@pytest.mark.parametrize(("name", "word"), [("19/PixelSpacing.zip", "PixelSpacing"), ("27/jxl.zip", "JPEG XL")])
def test_refused_by_its_true_name(case, name, word):
    with pytest.raises(InputError, match=word):
        read_volume(case(name))


def test_points_lesions_and_transforms(case):
    matrix = read_transform(case("12/matrixoffset.tfm"))
    assert np.array_equal(matrix[:3, :3], np.eye(3)) and np.allclose(matrix[:3, 3], (5, 6, 7))
    points = read_points(case("13/slicer.csv"))
    assert [p.position_lps is None for p in points].count(True) == 1
    assert len(read_points(case("14/two_lines.fcsv"))) == 2
    assert all(p.position_lps is not None for p in read_points(case("24/german.csv")))
    assert [lesion.label for lesion in read_lesions(case("20/overlap.seg.nrrd"))] == ["Liver met", "inner"]
    assert len(read_lesions(next(p for p in case("01/ct_and_seg.zip").rglob("*") if "seg" in p.name.lower()))) == 2
