"""Layouts of public collections, made of empty files: names decide, nothing is read."""

from __future__ import annotations

import json

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.io.transforms import write_transform
from Training.data.jobs import csv_rows, safe_name, stem_of, unique
from Training.data.layouts import detect_layout, find_jobs


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def by_name(jobs):
    return {job.name: job for job in jobs}


def test_total_segmentator(tmp_path):
    touch(
        tmp_path, "s0001/ct.nii.gz", "s0001/segmentations/liver.nii.gz", "s0001/segmentations/aorta.nii.gz",
        "s0002/ct.nii.gz", "s0002/segmentations/spleen.nii.gz", "s0003/ct.nii.gz", "s0004/mri.nii.gz",
    )  # fmt: skip
    (tmp_path / "meta.csv").write_text("image_id;age;split\ns0001;50;train\ns0002;60;val\ns0003;70;test\n")
    assert detect_layout(tmp_path) == "totalsegmentator"
    jobs = by_name(find_jobs(tmp_path))
    assert sorted(jobs) == ["totalsegmentator__s0001", "totalsegmentator__s0002", "totalsegmentator__s0004"]
    first, second, mr = jobs.values()
    # Ids are those of all structures of the collection, not of one scan.
    assert first.label_names == {"1": "aorta", "2": "liver"}
    assert second.label_names == {"3": "spleen"}
    assert [(one.path.name, one.value) for one in first.labels] == [("aorta.nii.gz", 1), ("liver.nii.gz", 2)]
    assert (first.split, second.split, mr.split) == ("train", "val", None)
    assert (first.modality, mr.modality) == ("ct", "mr")


def test_nih_lymph_nodes_as_nifti_and_dicom(tmp_path):
    touch(
        tmp_path, "ABD_LYMPH_001.nii.gz", "MED_ABD_LYMPH_MASKS/ABD_LYMPH_001/ABD_LYMPH_001_mask.nii.gz",
        "CT/MED_LYMPH_002/09-14-2014/1/000001.dcm", "CT/MED_LYMPH_002/09-14-2014/1/000002.dcm", "readme.txt",
    )  # fmt: skip
    assert detect_layout(tmp_path) == "nih-lymph"
    jobs = by_name(find_jobs(tmp_path))
    nifti, dicom = jobs["nih-lymph__ABD_LYMPH_001"], jobs["nih-lymph__MED_LYMPH_002"]
    assert nifti.image.name == "ABD_LYMPH_001.nii.gz"
    assert nifti.labels[0].path.name == "ABD_LYMPH_001_mask.nii.gz"
    assert nifti.labels[0].value == 1
    assert dicom.image == tmp_path / "CT/MED_LYMPH_002"
    assert not dicom.labels


def test_deep_lesion_leaves_out_the_test_patients(tmp_path):
    touch(tmp_path, *(f"Images_nifti/00000{n}_01_01_100-120.nii.gz" for n in (1, 2, 3)))
    (tmp_path / "DL_info.csv").write_text(
        "File_name,Train_Val_Test\n000001_01_01_109.png,1\n000002_01_01_110.png,2\n000003_01_01_111.png,3\n"
    )
    assert detect_layout(tmp_path) == "deeplesion"
    jobs = find_jobs(tmp_path)
    assert [(job.name, job.split) for job in jobs] == [
        ("deeplesion__000001_01_01_100-120", "train"),
        ("deeplesion__000002_01_01_100-120", "val"),
    ]


def test_pairs_with_matrix_transform_or_neither(tmp_path):
    touch(tmp_path, "a_ct.nii.gz", "a_mr.nii.gz", "b.nii.gz", "sub/b.nii.gz", "c.nii.gz", "d.nii.gz")
    matrix = np.eye(4)
    matrix[:3, 3] = 1, 2, 3
    write_transform(matrix, tmp_path / "b.tfm")
    text = " ".join(str(v) for v in matrix.ravel())
    (tmp_path / "list.csv").write_text(
        f"ct,mr,matrix,transform,split\na_ct.nii.gz,a_mr.nii.gz,{text},,train\nb.nii.gz,sub/b.nii.gz,,b.tfm,val\n"
        "c.nii.gz,d.nii.gz,,,\n"
    )
    assert detect_layout(tmp_path / "list.csv") == "ctmr-pairs"
    jobs = find_jobs(tmp_path / "list.csv")
    assert [job.modality for job in jobs] == ["ct", "mr"] * 3
    assert [job.split for job in jobs[::2]] == ["train", "val", None]
    for ct, mr in zip(jobs[::2], jobs[1::2]):
        assert (ct.partner, mr.partner) == (mr.name, ct.name)
    for ct, mr in ((jobs[0], jobs[1]), (jobs[2], jobs[3])):
        assert np.allclose(np.reshape(ct.partner_matrix, (4, 4)), matrix)
        assert np.allclose(np.reshape(ct.partner_matrix, (4, 4)) @ np.reshape(mr.partner_matrix, (4, 4)), np.eye(4))
    assert jobs[4].partner_matrix is None
    assert len({job.name for job in jobs}) == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ct,mr\n", "lists no pair"),
        ("", "lists no pair"),
        ("image,other\na,b\n", "no columns ct and mr"),
        ("ct,mr\na.nii,\n", "line 2: ct or mr is empty"),
        ("ct,mr\na.nii,a.nii\n", "the same file"),
        ("ct,mr,matrix\na.nii,b.nii,1 2 3\n", "not 16 numbers"),
        ("ct,mr,matrix\na.nii,b.nii," + "0 " * 16 + "\n", "cannot be inverted"),
        ("ct,mr,split\na.nii,b.nii,test-set\n", "split 'test-set'"),
        ("ct,mr,transform\na.nii,b.nii,gone.tfm\n", "does not exist"),
    ],
)
def test_a_bad_list_of_pairs_is_refused_with_its_line(tmp_path, content, said):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        find_jobs(tmp_path)


def test_this_projects_own_layout(tmp_path):
    touch(
        tmp_path, "ct/train/x.nii.gz", "ct/train/x_labels.nii.gz", "ct/train/x.landmarks.json", "hn/val/y.nii.gz",
        "ctmr/train/p_ct.nii.gz", "ctmr/train/p_mr.nii.gz", "mr/train/z_mr.nii.gz", "mr/train/z_mr_labels.nii.gz",
    )  # fmt: skip
    names = {"torso": {"1": "spleen"}, "hn": {"1": "brainstem"}, "further": {"210": "tumour"}}
    (tmp_path / "labels.json").write_text(json.dumps(names))
    assert detect_layout(tmp_path) == "samv2"
    jobs = by_name(find_jobs(tmp_path))
    alone = "mr__train__z_mr"  # MR without a CT of the same patient
    assert sorted(jobs) == ["ct__train__x", "ctmr__train__p_ct", "ctmr__train__p_mr", "hn__val__y", alone]
    assert jobs["ct__train__x"].label_names == jobs[alone].label_names == {"1": "spleen", "210": "tumour"}
    assert (jobs[alone].modality, jobs[alone].partner) == ("mr", None)
    assert jobs["hn__val__y"].split == "val"
    assert np.allclose(np.reshape(jobs["ctmr__train__p_mr"].partner_matrix, (4, 4)), np.eye(4))


def test_any_folder(tmp_path):
    touch(
        tmp_path, "one.nii.gz", "one_seg.nii.gz", "deep/er/two.nrrd", "deep/er/.hidden.nii", "p_ct.mha", "p_mr.mha",
        "lonely_mask.nii.gz", "notes.txt",
    )  # fmt: skip
    assert detect_layout(tmp_path) == "folder"
    jobs = by_name(find_jobs(tmp_path))
    assert sorted(jobs) == ["deep__er__two", "lonely_mask", "one", "p_ct", "p_mr"]
    assert jobs["one"].labels[0].path.name == "one_seg.nii.gz"
    assert jobs["p_ct"].partner == "p_mr"
    assert jobs["p_ct"].partner_matrix is None
    assert jobs["one"].modality == "auto"


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_jobs(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no scans of the layout folder"):
        find_jobs(tmp_path)
    (tmp_path / "a.nii").touch()
    with pytest.raises(InputError, match="holds no scans of the layout totalsegmentator"):
        find_jobs(tmp_path, "totalsegmentator")
    (tmp_path / "labels.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"labels\.json does not hold"):
        find_jobs(tmp_path)


def test_names_are_made_unique(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    jobs = [*find_jobs(touch(first, "x.nii")), *find_jobs(touch(second, "x.nii")), *find_jobs(first)]
    assert [(job.name, job.image.parent.name) for job in unique(jobs)] == [("x", "a"), ("x-2", "b")]


def test_helpers(tmp_path):
    assert stem_of(tmp_path / "A.b.nii.gz") == "A.b"
    assert safe_name("Köln/scan 1.2") == "K-ln__scan-1.2"
    (tmp_path / "t.csv").write_bytes("\ufeffA;B\n1; x \n".encode())
    assert csv_rows(tmp_path / "t.csv") == [{"a": "1", "b": "x"}]
