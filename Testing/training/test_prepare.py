"""Preparation end to end on small synthetic patients: arrays, labels, bad files, resuming, processes."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from SAMv2Core.errors import InputError, OutputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.volume import Volume, read_volume, write_volume
from SAMv2Core.preprocessing.preprocess import preprocess_report
from Testing.samples.synthetic import make_body_volume
from Training import prepare as module
from Training.data.index import read_index, to_network
from Training.data.jobs import Job, Labels
from Training.data.prepare_scan import fingerprint, halve, merged_labels, resample_labels
from Training.prepare import main, prepare

SHAPE, SPACING = (24, 40, 44), (5.0, 4.0, 5.0)


def save(folder, name, seed=0, modality="ct", **options):
    folder.mkdir(parents=True, exist_ok=True)
    volume = make_body_volume(SHAPE, SPACING, seed=seed, modality=modality, **options)
    write_volume(volume, folder / f"{name}.nii.gz")
    return volume


def save_labels(path, volume, array=None, shift=0.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = volume.ijk_to_lps.copy()
    matrix[0, 3] += shift
    array = (volume.array > 300).astype(np.uint8) * 3 if array is None else array
    write_volume(Volume(array, matrix), path)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "scans"
    volume = save(folder, "a")
    save_labels(folder / "a_labels.nii.gz", volume)
    save(folder, "p_ct", seed=1)
    save(folder, "p_mr", seed=1, modality="mr")
    (folder / "labels.json").write_text('{"3": "bone", "4": "unused"}')
    return folder


def reasons(out):
    return {p["source"].split("/")[-1]: p for p in map(json.loads, (out / "skipped.jsonl").read_text().splitlines())}


def test_arrays_are_what_the_model_sees(source, tmp_path):
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), "--jobs", "1"]) == 0
    index = read_index(out)
    assert [entry.name for entry in index.entries] == ["a", "p_ct", "p_mr"]
    assert [entry.modality for entry in index.entries] == ["ct", "ct", "mr"]
    for entry in index.entries:
        index.check(entry)
        expected = preprocess_report(read_volume(entry.source), entry.modality)
        image = index.array(entry.image)
        assert image.dtype == np.int16
        assert np.abs(to_network(image.astype(np.float32)) - expected.x[0, 0].numpy()).max() <= 255 / 4095 / 2 + 1e-4
        assert np.array_equal(index.array(entry.body) > 0, expected.body)
        assert np.allclose(entry.grid.ijk_to_lps, expected.grid.ijk_to_lps, atol=1e-5)
        assert index.array(entry.image_4mm).shape == tuple(n // 2 for n in entry.shape_zyx)
    assert index["p_ct"].partner == "p_mr"
    assert index.pairs()[0][0].name == "p_ct"
    assert (out / "skipped.jsonl").read_text() == ""


def test_labels_lie_where_the_anatomy_lies(source, tmp_path):
    """Bone is labelled by its HU; on the 2 mm lattice the labels must find bone again."""
    prepare([source], tmp_path / "out")
    index = read_index(tmp_path / "out")
    entry = index["a"]
    labels, image = index.array(entry.labels), index.array(entry.image)
    assert entry.label_names == {"3": "bone"}
    assert image[labels == 3].mean() > 450
    assert image[labels == 0].mean() < 0
    table = index.array(entry.body)[image > 300].mean()
    assert table > 0.99


def test_oblique_flipped_scans_keep_their_place(tmp_path):
    """A left-handed scan, turned by 4 degrees: label and body points map to the same world points as in the file."""
    angle = np.deg2rad(4)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    volume = save(tmp_path / "s", "o", direction=turn @ np.diag([-1.0, 1.0, -1.0]))
    save_labels(tmp_path / "s/o_labels.nii.gz", volume)
    prepare([tmp_path / "s"], tmp_path / "out")
    index = read_index(tmp_path / "out")
    entry = index["o"]
    own = np.argwhere(index.array(entry.labels) == 3)[:, ::-1]
    theirs = np.argwhere(volume.array > 300)[:, ::-1]
    apart = entry.grid.to_lps(own).mean(0) - volume.grid.to_lps(theirs).mean(0)
    assert np.linalg.norm(apart) < 1.5, "half a slice of 5 mm less half a sample of 2 mm"


def test_total_segmentator_structures_are_merged(tmp_path):
    root = tmp_path / "ts"
    volume = save(root / "s0001", "ct")
    save_labels(root / "s0001/segmentations/bone.nii.gz", volume, (volume.array > 300).astype(np.uint8))
    save_labels(root / "s0001/segmentations/lung.nii.gz", volume, (np.abs(volume.array + 820) < 60).astype(np.uint8))
    prepare([root], tmp_path / "out")
    index = read_index(tmp_path / "out")
    entry = index.entries[0]
    assert entry.label_names == {"1": "bone", "2": "lung"}
    labels, image = index.array(entry.labels), index.array(entry.image)
    assert image[labels == 1].mean() > 450
    assert image[labels == 2].mean() < -700


def test_bad_files_are_listed_and_skipped(source, tmp_path, caplog):
    (source / "text.nii.gz").write_text("no scan")
    whole = (source / "p_ct.nii.gz").read_bytes()
    (source / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_volume(Volume(np.zeros(SHAPE, np.int16), np.eye(4)), source / "flat.nii.gz")
    air = np.full(SHAPE, -1000, np.int16)
    air[0, 0, 0] = -990
    write_volume(Volume(air, np.diag([5.0, 4, 5, 1])), source / "nobody_ct.nii.gz")
    with caplog.at_level(logging.INFO):
        assert main([str(source), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    found = reasons(tmp_path / "out")
    assert sorted(found) == ["cut.nii.gz", "flat.nii.gz", "nobody_ct.nii.gz", "text.nii.gz"]
    assert "truncated" in found["cut.nii.gz"]["reason"]
    assert "single value" in found["flat.nii.gz"]["reason"]
    assert "no body" in found["nobody_ct.nii.gz"]["reason"]
    assert {p["what"] for p in found.values()} == {"scan"}
    assert len(read_index(tmp_path / "out")) == 3
    assert "3 scans (2 CT, 1 MR, 1 with labels); skipped: 4 scans, 0 label files." in caplog.text


def bad_labels(kind, path, volume):
    if kind == "moved":
        save_labels(path, volume, shift=60.0)
    elif kind == "other_size":
        save_labels(path, volume, np.ones((24, 20, 44), np.uint8))
    elif kind == "negative":
        save_labels(path, volume, np.full(SHAPE, -1, np.int16))
    elif kind == "fractions":
        save_labels(path, volume, np.full(SHAPE, 0.5, np.float32))
    elif kind == "unreadable":
        path.write_bytes(b"123")


@pytest.mark.parametrize(
    ("kind", "said"),
    [("moved", "another geometry"), ("other_size", "another geometry"), ("negative", "no label map"),
     ("fractions", "no label map"), ("unreadable", "")],
)  # fmt: skip
def test_a_bad_label_map_is_skipped_and_its_image_kept(tmp_path, kind, said):
    volume = save(tmp_path / "s", "a")
    bad_labels(kind, tmp_path / "s/a_labels.nii.gz", volume)
    prepare([tmp_path / "s"], tmp_path / "out")
    assert read_index(tmp_path / "out")["a"].labels is None
    problem = reasons(tmp_path / "out")["a_labels.nii.gz"]
    assert problem["what"] == "labels"
    assert said in problem["reason"]
    # Asked again, the scan is not read again, and the problem is not forgotten.
    prepare([tmp_path / "s"], tmp_path / "out")
    assert "a_labels.nii.gz" in reasons(tmp_path / "out")


def test_a_missing_label_file_of_a_list_is_named(tmp_path):
    save(tmp_path, "c")
    save(tmp_path, "m", modality="mr")
    (tmp_path / "list.csv").write_text("ct,mr,ct_labels\nc.nii.gz,m.nii.gz,gone.nii.gz\n")
    prepare([tmp_path / "list.csv"], tmp_path / "out")
    assert len(read_index(tmp_path / "out")) == 2
    assert "does not exist" in reasons(tmp_path / "out")["gone.nii.gz"]["reason"]


def test_a_pair_with_one_bad_side_is_no_pair(tmp_path):
    save(tmp_path, "c")
    (tmp_path / "list.csv").write_text("ct,mr\nc.nii.gz,gone.nii.gz\n")
    prepare([tmp_path / "list.csv"], tmp_path / "out")
    index = read_index(tmp_path / "out")
    assert [entry.partner for entry in index.entries] == [None]
    with pytest.raises(InputError, match="no CT-MR pair"):
        index.pairs()


def test_nothing_usable_is_an_error(tmp_path, capsys):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.nii.gz").write_text("no scan")
    assert main([str(tmp_path / "s"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 3
    assert "No scan could be used" in capsys.readouterr().err
    assert main([str(tmp_path / "gone"), "--out", str(tmp_path / "out")]) == 3
    (tmp_path / "empty.csv").write_text("ct,mr\n")
    assert main([str(tmp_path / "empty.csv"), "--out", str(tmp_path / "out")]) == 3
    assert "lists no pair" in capsys.readouterr().err


def counted(monkeypatch):
    done = []
    real = module.prepare_scan
    monkeypatch.setattr(module, "prepare_scan", lambda job, out: done.append(job.name) or real(job, out))
    return done


def test_only_what_changed_is_read_again(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare([source], out)
    before = read_index(out).entries
    done = counted(monkeypatch)
    prepare([source], out)
    assert done == []
    assert read_index(out).entries == before
    save(source, "p_mr", seed=2, modality="mr")
    (out / "arrays/p_ct.body.npy").unlink()
    prepare([source], out)
    assert sorted(done) == ["p_ct", "p_mr"]


def test_an_interrupted_run_goes_on_where_it_was(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    real = module.prepare_scan

    def stop_at_second(job, out):
        if job.name == "p_ct":
            raise KeyboardInterrupt
        return real(job, out)

    monkeypatch.setattr(module, "prepare_scan", stop_at_second)
    assert main([str(source), "--out", str(out), "--jobs", "1"]) == 130
    assert not (out / "index.jsonl").exists()
    with open(out / "journal.jsonl", "a") as stream:
        stream.write('{"name": "torn')  # as a power cut leaves it
    monkeypatch.setattr(module, "prepare_scan", real)
    done = counted(monkeypatch)
    assert main([str(source), "--out", str(out), "--jobs", "1"]) == 0
    assert sorted(done) == ["p_ct", "p_mr"]
    assert len(read_index(out)) == 3
    assert not (out / "journal.jsonl").exists()


def test_a_full_disk_ends_the_run(source, tmp_path, monkeypatch):
    def full(job, out):
        raise OutputError("The disk is full.", "Free some space.")

    monkeypatch.setattr(module, "prepare_scan", full)
    assert main([str(source), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 3


def test_scans_of_another_source_stay(source, tmp_path):
    prepare([source], tmp_path / "out")
    save(tmp_path / "more", "z")
    prepare([tmp_path / "more"], tmp_path / "out")
    assert [entry.name for entry in read_index(tmp_path / "out").entries] == ["a", "p_ct", "p_mr", "z"]


@pytest.mark.slow
def test_processes_give_the_same_index(source, tmp_path):
    prepare([source], tmp_path / "one")
    prepare([source], tmp_path / "two", n_processes=2)
    one, two = read_index(tmp_path / "one"), read_index(tmp_path / "two")
    assert one.entries == two.entries
    assert np.array_equal(one.array(one["a"].image), two.array(two["a"].image))


def test_dicom_series_of_one_folder_are_told_apart(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from Testing.core.io.test_dicom import write_slice

    volume = make_body_volume((12, 40, 44), (5.0, 4.0, 5.0), table=False)
    for series in ("1.2.3", "1.2.4"):
        for n, plane in enumerate(volume.array):
            position = volume.grid.to_lps(np.array([0, 0, n]))
            path = tmp_path / "s/case" / f"{series}-{n}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_slice(path, plane, position, series=series, spacing=(4.0, 5.0))
    write_slice(tmp_path / "s/case/scout.dcm", volume.array[0], (0, 0, 0), series="1.2.5")
    prepare([tmp_path / "s"], tmp_path / "out")
    entries = read_index(tmp_path / "out").entries
    assert [(entry.name, entry.modality) for entry in entries] == [("case__0", "ct"), ("case__1", "ct")]
    assert pydicom is not None


def test_fingerprint_follows_files_and_names(tmp_path):
    save(tmp_path, "a")
    job = Job("a", "g", tmp_path / "a.nii.gz")
    first = fingerprint(job)
    assert first == fingerprint(job)
    missing = Job("a", "g", tmp_path / "a.nii.gz", labels=(Labels(tmp_path / "gone.nii"),))
    seen = {first, fingerprint(missing), fingerprint(Job("a", "g", tmp_path / "a.nii.gz", label_names={"1": "x"}))}
    (tmp_path / "gone.nii").write_text("here")
    seen.add(fingerprint(missing))
    assert len(seen) == 4


def test_halves_and_nearest_labels():
    array = np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5)
    assert halve(array).shape == (2, 3, 2)
    assert halve(array)[0, 0, 0] == array[:2, :2, :2].mean()
    assert halve(np.ones((1, 4, 4))).shape == (1, 2, 2)
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    finer = np.diag([1.0, 1.0, 1.0, 1.0])
    finer[:3, 3] = -0.5
    out = resample_labels(array, Grid(array.shape, matrix), Grid((8, 12, 10), finer))
    assert np.array_equal(out, array.repeat(2, 0).repeat(2, 1).repeat(2, 2))


def test_label_ids_beyond_a_byte(tmp_path):
    volume = save(tmp_path, "a")
    save_labels(tmp_path / "l.nii.gz", volume, (volume.array > 300).astype(np.uint16) * 4000)
    job = Job("a", "g", tmp_path / "a.nii.gz", labels=(Labels(tmp_path / "l.nii.gz"),))
    labels, problems = merged_labels(job, volume.grid, volume.grid)
    assert problems == []
    assert labels is not None
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == {0, 4000}
