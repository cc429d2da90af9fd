"""``samv2 register`` as users run it: CT with MR, and what can be written besides the transform."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

import SAMv2Core as s
from SAMv2Core.evaluation.baselines import _as_ants, _as_itk
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.points import read_points
from SAMv2Core.io.transforms import read_transform, write_transform
from Testing.end_to_end.conftest import SHIFT_LPS
from Testing.samples.limb_phantom import body_grid, error_mm, limb


@pytest.fixture(scope="module")
def limb_files(tmp_path_factory):
    """CT, cropped MR whose header lies elsewhere, and how it was moved."""
    folder = tmp_path_factory.mktemp("limb")
    motion = np.eye(4)
    motion[:3, :3] = [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]  # 90 degrees: beyond the search
    motion[:3, 3] = (40.0, -30.0, 55.0)
    s.write_volume(limb("ct"), folder / "ct.nii.gz")
    s.write_volume(limb("mr", (-40.0, 60.0), motion=motion, half_width_mm=70.0), folder / "mr.nii.gz")
    write_transform(motion, folder / "guess.tfm")
    return folder, motion


def test_ct_with_mr_from_a_guess_writes_transform_inverse_and_points(samv2, scans, limb_files, tmp_path):
    folder, motion = limb_files
    ended = samv2(
        "register", "--fixed", folder / "ct.nii.gz", "--moving", folder / "mr.nii.gz", "--modality-moving", "mr",
        "--model", scans / "tiny.safetensors", "--initial-transform", folder / "guess.tfm", "--output", "t.h5",
        "--inverse", "i.tfm", "--matched-points", "p.mrk.json", "--report", "r.json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    matrix, inverse = read_transform(tmp_path / "t.h5"), read_transform(tmp_path / "i.tfm")
    np.testing.assert_allclose(matrix @ inverse, np.eye(4), atol=1e-6)
    assert error_mm(inverse, motion, body_grid((-20.0, 41.0))) < 3.0  # voxels of 3 mm
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["intensity"]["score"] > 0.5 and report["intensity"]["runner_up"] < 1
    assert (tmp_path / "p-fixed.mrk.json").exists() and (tmp_path / "p-moving.mrk.json").exists()


@pytest.mark.parametrize("program", ["elastix", "ants"])
def test_another_program_starts_from_the_inverse_as_the_help_says(limb_files, tmp_path, program):
    """With the MR fixed. From centers alone neither comes within 30 mm, since the header is turned by 90 degrees."""
    folder, motion = limb_files
    start = np.linalg.inv(motion)
    start[:3, 3] += (9.0, -8.0, 6.0)
    write_transform(start, tmp_path / "I.tfm")
    fixed, moving = s.read_volume(folder / "mr.nii.gz"), s.read_volume(folder / "ct.nii.gz")
    found = {"elastix": refined_by_elastix, "ants": refined_by_ants}[program](fixed, moving, tmp_path / "I.tfm")
    points = body_grid((-20.0, 41.0))
    assert error_mm(start, motion, points) > 13.0
    # Mutual information alone lets the phantom slide along its axis by some 5 mm.
    assert error_mm(found, motion, points) < 8.0


def refined_by_elastix(fixed, moving, start):
    itk = pytest.importorskip("itk")
    if not hasattr(itk, "ElastixRegistrationMethod"):
        pytest.skip("itk-elastix is not installed")
    file = start.with_name("start.txt")
    file.write_text(f'(Transform "File")\n(TransformFileName "{start}")\n')
    rigid = itk.ParameterObject.New()
    levels = rigid.GetDefaultParameterMap("rigid", 2)
    levels["AutomaticTransformInitialization"] = levels["WriteResultImage"] = ["false"]
    levels["RandomSeed"] = ["1"]
    rigid.AddParameterMap(levels)
    method = itk.ElastixRegistrationMethod.New(_as_itk(itk, fixed), _as_itk(itk, moving))
    method.SetParameterObject(rigid)
    method.SetInitialTransformParameterFileName(str(file))  # what -t0 sets
    method.UpdateLargestPossibleRegion()
    found = method.GetCombinationTransform()
    return matrix_of(lambda point: found.TransformPoint(point))


def refined_by_ants(fixed, moving, start):
    ants = pytest.importorskip("ants")
    result = ants.registration(
        _as_ants(ants, fixed), _as_ants(ants, moving), type_of_transform="Rigid", initial_transform=str(start),
        random_seed=1,
    )  # fmt: skip
    matrix = np.eye(4)
    for file in reversed(result["fwdtransforms"]):
        found = ants.read_transform(file)
        matrix = matrix_of(lambda point, found=found: found.apply_to_point(point)) @ matrix
    return matrix


def matrix_of(move):
    """(4, 4) of what moves points."""
    origin = np.array(move([0.0, 0.0, 0.0]))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    matrix[:3, :3] = np.stack([np.array(move(axis)) - origin for axis in np.eye(3).tolist()], axis=1)
    return matrix


def test_matched_points_are_a_pair_that_the_transform_connects(samv2, scans, tmp_path):
    ended = samv2(
        "register", "--fixed", scans / "template.nii.gz", "--moving", scans / "query.nii.gz",
        "--model", scans / "tiny.safetensors", "--output", "t.tfm", "--matched-points", "p.csv",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    fixed, moving = read_points(tmp_path / "p-fixed.csv"), read_points(tmp_path / "p-moving.csv")
    assert fixed.labels == moving.labels and len(fixed) > 100
    apart = transform_points(read_transform(tmp_path / "t.tfm"), fixed.positions_lps) - moving.positions_lps
    assert np.linalg.norm(apart, axis=1).max() <= 12.0


def test_a_deformation_is_read_by_simpleitk(samv2, scans, tmp_path):
    pytest.importorskip("convexAdam")
    ended = samv2(
        "register", "--fixed", scans / "template.nii.gz", "--moving", scans / "query.nii.gz",
        "--model", scans / "tiny.safetensors", "--output", "t.tfm", "--deformable", "d.h5", "--resampled", "r.nii.gz",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    deformation = sitk.ReadTransform(str(tmp_path / "d.h5"))
    moved = np.array(deformation.TransformPoint((0.0, 0.0, 140.0)))
    np.testing.assert_allclose(moved, np.add((0.0, 0.0, 140.0), SHIFT_LPS), atol=4.0)
    assert s.read_volume(tmp_path / "r.nii.gz").array.shape == s.read_volume(scans / "template.nii.gz").array.shape


def test_dicom_output_from_other_files_is_refused_before_the_work(samv2, scans, tmp_path):
    pytest.importorskip("pydicom")
    ended = samv2(
        "register", "--fixed", scans / "template.nii.gz", "--moving", scans / "query.nii.gz",
        "--model", scans / "tiny.safetensors", "--output", "t.tfm", "--sro", "s.dcm",
    )  # fmt: skip
    assert ended.code == 3 and "no DICOM folder" in ended.err
    assert not (tmp_path / "t.tfm").exists()
