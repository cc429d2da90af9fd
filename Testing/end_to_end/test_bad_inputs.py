"""What users really give a program: every case ends with its exit code, one line of cause, one of remedy, no traceback.

Nothing half-written stays behind: the folder is listed before and after.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict

import numpy as np
import pytest

import SAMv2Core as s
from SAMv2Core.cli.main import main
from Testing.end_to_end import bad_volumes
from Testing.end_to_end.conftest import Ended, environment, write_points
from Testing.samples.embedding_samples import torso


def listing(folder: Path) -> Dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


@pytest.fixture
def refused(samv2, cache, tmp_path, monkeypatch, capfd):
    """Run a command that must be refused; checks what every refusal has in common and returns the line of cause.

    Within this process, which spares two seconds of imports each; with ``options`` of a process, in one of its own.
    """

    def here(*arguments) -> Ended:
        monkeypatch.chdir(tmp_path)
        for name, value in environment(cache).items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        code = main([*map(str, arguments)])
        return Ended(code, *capfd.readouterr())

    def run(code: int, *arguments, **options) -> str:
        before = listing(tmp_path)
        ended = samv2(*arguments, **options) if options else here(*arguments)
        assert ended.code == code, ended.err
        assert "Traceback" not in ended.err
        cause, remedy = ended.errors
        assert cause.startswith("error: ") and remedy.startswith("remedy: ") and len(remedy) > len("remedy: ....")
        assert listing(tmp_path) == before
        return cause

    return run


@pytest.fixture
def refused_image(refused, scans):
    def run(path) -> str:
        return refused(3, "embed", "--image", path, "--model", scans / "tiny.safetensors", "--output", "e.safetensors")

    return run


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (bad_volumes.missing, "does not exist"),
        (bad_volumes.text, "text.nii.gz"),
        (bad_volumes.truncated, "truncated"),
        (bad_volumes.empty, "empty"),
        (bad_volumes.empty_gzip, "nothing.nii.gz"),
        (bad_volumes.flat_picture, "2-D"),
        (bad_volumes.flat_nifti, "slice"),
        (bad_volumes.four_dimensions, "4"),
        (bad_volumes.vectors, "vectors"),
        (bad_volumes.constant, "constant"),
        (bad_volumes.all_nan, "nan.nii.gz"),
        (bad_volumes.zero_spacing, "spacing"),
        (bad_volumes.absurd_spacing, "spacing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_volume_that_makes_no_sense(refused_image, tmp_path, make, told):
    path = make(tmp_path)
    cause = refused_image(path)
    assert told in cause and path.name in cause


def test_folder_of_two_series_lists_them_and_takes_one(samv2, refused_image, scans, tmp_path):
    path = bad_volumes.two_series(tmp_path)
    cause = refused_image(path)
    assert "1.2.826.1" in cause and "1.2.826.2" in cause
    arguments = ["embed", "--image", path, "--model", scans / "tiny.safetensors", "--output", "e.safetensors"]
    ended = samv2(*arguments, "--series", "1.2.826.2", "--modality-image", "ct")
    # Four slices show no patient to speak of; what matters here is that the folder was read.
    assert "DICOM series" not in ended.err and "Traceback" not in ended.err
    assert ended.code in (0, 3), ended.err


def test_not_a_number_and_infinity_are_air_with_a_warning(samv2, scans, tmp_path):
    volume = torso()
    array = volume.array.astype(np.float32)
    array[18:20, 10:20, 10:20] = np.nan
    array[22, 18, 20:24] = np.inf
    array[23, 18, 20:24] = -np.inf
    s.write_volume(s.Volume(array, volume.ijk_to_lps), tmp_path / "damaged.nii.gz")
    ended = samv2(
        "match", "--template", "damaged.nii.gz", "--query", scans / "query.nii.gz", "--points", scans / "points.csv",
        "--model", scans / "tiny.safetensors", "--output", "o.csv",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert any("NaN" in line or "finite" in line for line in ended.err.splitlines() if line.startswith("warning: "))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing.csv", None, "does not exist"),
        ("columns.csv", "name,x,y,z\na,1,2,3\n", "no column"),
        ("words.csv", "label,l,p,s\na,here,2,3\n", "not a number"),
        ("none.csv", "label,l,p,s\n", "no points"),
        ("broken.mrk.json", '{"markups": [', "not a Slicer markups file"),
        ("picture.png", "x", "not a point list"),
    ],
)
def test_points_that_make_no_sense(refused, scans, tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_text(content)
    cause = refused(
        3, "match", "--template", scans / "template.nii.gz", "--query", scans / "query.nii.gz", "--points", name,
        "--model", scans / "tiny.safetensors", "--output", "o.csv",
    )  # fmt: skip
    assert told in cause


# --- models -------------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle that runs code when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def save_bomb(path: Path, mark: Path) -> None:
    with open(path, "wb") as stream:
        pickle.dump({"state_dict": {"x": Bomb(mark)}}, stream)


def save_bomb_in_zip(path: Path, mark: Path) -> None:
    import torch

    torch.save({"state_dict": {"x": Bomb(mark)}}, path)


@pytest.mark.parametrize("save", [save_bomb, save_bomb_in_zip])
@pytest.mark.parametrize("command", ["embed", "import"])
def test_code_in_a_checkpoint_does_not_run(refused, scans, tmp_path, save, command):
    mark = tmp_path / "the-code-ran"
    save(tmp_path / "evil.pth", mark)
    if command == "embed":
        arguments = ["embed", "--image", scans / "query.nii.gz", "--model", "evil.pth", "--output", "e.safetensors"]
    else:
        arguments = ["models", "import", "evil.pth"]
    assert "evil.pth" in refused(4, *arguments)
    assert not mark.exists()


def test_checkpoint_of_another_architecture(refused, scans, tmp_path):
    import torch

    state = {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}  # a 2-D ResNet
    torch.save({"state_dict": state}, tmp_path / "resnet.pth")
    arguments = ["embed", "--image", scans / "query.nii.gz", "--model", "resnet.pth", "--output", "e.safetensors"]
    assert "resnet.pth" in refused(4, *arguments)


@pytest.mark.parametrize("name", ["no-such-model", "sampp", "missing.pth"])
def test_model_that_is_not_here(refused, scans, name):
    arguments = ["embed", "--image", scans / "query.nii.gz", "--model", name, "--output", "e.safetensors"]
    assert name in refused(4, *arguments)


def test_damaged_model(refused, scans, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes((scans / "tiny.safetensors").read_bytes()[:-100])
    arguments = ["embed", "--image", scans / "query.nii.gz", "--model", "cut.safetensors", "--output", "e.safetensors"]
    assert "cut.safetensors" in refused(4, *arguments)


# --- outputs, memory, devices -------------------------------------------------------------------------------------


@pytest.fixture
def embedding(scans):
    return ["embed", "--image", scans / "query.nii.gz", "--model", scans / "tiny.safetensors", "--cache", "off"]


@pytest.mark.parametrize("output", ["missing/e.safetensors", "file/e.safetensors", "folder.safetensors"])
def test_output_that_cannot_be_written(refused, embedding, tmp_path, output):
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    assert output.split("/")[0] in refused(3, *embedding, "--output", output)


def test_output_without_permission(refused, embedding, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "permission" in refused(3, *embedding, "--output", "locked/e.safetensors")


def test_output_over_an_input(refused, scans, tmp_path):
    image = tmp_path / "image.nii.gz"
    image.write_bytes((scans / "query.nii.gz").read_bytes())
    arguments = ["register", "--fixed", scans / "template.nii.gz", "--moving", image, "--output", "t.h5"]
    cause = refused(3, *arguments, "--resampled", image, "--model", scans / "tiny.safetensors")
    assert "also an input" in cause


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_device_files_are_not_replaced(refused, scans, embedding):
    write = [*embedding, "--output", "e.safetensors", "--report", "/dev/full"]
    assert "/dev/full" in refused(3, *write)
    assert Path("/dev/full").is_char_device()


def test_full_disk(refused, embedding):
    """A limit on the size of files fails a write in its middle as a full disk does, and needs no privileges."""

    def only_64_kib() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    cause = refused(3, *embedding, "--output", "e.safetensors", preexec_fn=only_64_kib)
    assert "e.safetensors" in cause and "full" in cause


def test_truly_full_disk(samv2, embedding, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        ended = samv2(*embedding, "--output", "small/e.safetensors", "--report", "small/r.json")
        assert ended.code == 3 and "full" in ended.errors[0] and "Traceback" not in ended.err
        assert [path.name for path in small.iterdir()] in ([], ["r.json"])
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_memory_that_cannot_be_enough(refused, embedding):
    assert "GiB" in refused(5, *embedding, "--output", "e.safetensors", "--max-memory", "0.01")


@pytest.mark.parametrize("device", ["cuda:99", "quantum"])
def test_device_that_is_not_there(refused, embedding, device):
    assert device in refused(2, *embedding, "--output", "e.safetensors", "--device", device)


# --- interruption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_interruption_leaves_nothing(scans, cache, tmp_path, number):
    large = np.tile(torso().array, (5, 4, 4))
    s.write_volume(s.Volume(large, torso().ijk_to_lps), tmp_path / "large.nii.gz")
    before = listing(tmp_path)
    command = [sys.executable, "-m", "SAMv2Core", "embed", "--image", "large.nii.gz", "--log-level", "info"]
    command += ["--model", str(scans / "tiny.safetensors"), "--output", "e.safetensors", "--report", "r.json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(cache), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "embed image" in line:
            break
    time.sleep(0.5)  # well inside the network, which takes seconds
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert [line for line in err.splitlines() if not line.startswith(("info: ", "warning: "))] == [
        "Interrupted; nothing was left half-written."
    ]
    assert listing(tmp_path) == before


def test_a_reader_that_leaves_early_is_no_error(samv2, cache):
    """``samv2 models list | true``"""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "SAMv2Core", "models", "list"]
    done = subprocess.run(command, env=environment(cache), stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_points_outside_and_in_air_are_not_a_crash(samv2, scans, tmp_path):
    write_points(tmp_path / "p.csv", {"huge": (1e30, 0, 0), "far": (0, 0, -1e6)})
    ended = samv2(
        "match", "--template", scans / "template.nii.gz", "--query", scans / "query.nii.gz", "--points", "p.csv",
        "--model", scans / "tiny.safetensors", "--output", "o.csv",
    )  # fmt: skip
    assert ended.code == 6 and "Traceback" not in ended.err
