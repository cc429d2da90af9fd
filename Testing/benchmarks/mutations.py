"""Damaged files by the thousand: seeded mutations of every format that is read, in processes of their own.

A reader must answer with a value or a typed error: no other exception, no death of the process, no more than ten
seconds, no more memory than the limit, no file written anywhere. A failing case is named by format and seed and can be
repeated: ``python -m Testing.benchmarks.mutations dicom-folder 17 1``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

SECONDS, MEMORY = 10, 4 << 30


class Format(NamedTuple):
    """How its sound file (or folder) is made, and how it is read."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


class Outcome(NamedTuple):
    """What became of the mutations of one format."""

    read: int
    refused: int
    failures: List[str]
    slowest: float


def formats() -> Dict[str, Format]:
    import SimpleITK as sitk

    import SAMv2Core as s
    from SAMv2Core.batch.table import COMMANDS, Studies
    from SAMv2Core.io.points import Point, PointList, read_points, write_points
    from SAMv2Core.io.safetensors import read_safetensors, write_safetensors
    from SAMv2Core.io.transforms import read_transform, write_transform
    from SAMv2Core.io.volume import read_volume, write_volume
    from SAMv2Core.matching.confidence import UncertaintyModel
    from SAMv2Core.models.records import bundled_folder, read_record
    from SAMv2Core.tracking.confidence import TrackUncertainty
    from Testing.files import dicom, nrrd, tables
    from Testing.files.scan import SCAN

    points = PointList((Point("a", (1.0, 2.0, 3.0), "x"), Point("b", None)))

    def volume(suffix: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            write_volume(SCAN, folder / f"a{suffix}")
            return folder / f"a{suffix}"

        return make

    def points_file(suffix: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            write_points(points, folder / f"p{suffix}")
            return folder / f"p{suffix}"

        return make

    def transform(suffix: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            write_transform(np.eye(4), folder / f"t{suffix}")
            return folder / f"t{suffix}"

        return make

    def segmentation(folder: Path) -> Path:
        path = nrrd.write(folder / "s.seg.nrrd", ["space: LPS"])
        head, _, body = path.read_bytes().partition(b"\n\n")
        label = int(SCAN.array[6, 5, 4])
        pairs = f"\nSegment0_ID:=a\nSegment0_Name:=b\nSegment0_LabelValue:={label}\nSegment0_Layer:=0".encode()
        path.write_bytes(head + pairs + b"\n\n" + body)
        return path

    def checkpoint(folder: Path) -> Path:
        import torch

        torch.save({"state_dict": {"w": torch.zeros(3, 4), "b": torch.zeros(3)}}, folder / "c.pth")
        return folder / "c.pth"

    def tensors(folder: Path) -> Path:
        write_safetensors(folder / "t.safetensors", {"a": np.zeros((3, 4), np.float32)}, {"k": "v"})
        return folder / "t.safetensors"

    def embedding(folder: Path) -> Path:
        from SAMv2Core.embedding.file import save_embedding
        from Testing.samples.embedding_samples import random_embedding

        save_embedding(random_embedding(), folder / "e.safetensors")
        return folder / "e.safetensors"

    def read_checkpoint(path: Path) -> Any:  # loads torch
        from SAMv2Core.models import checkpoints

        return checkpoints.read_checkpoint(path)

    def read_embedding(path: Path) -> Any:  # loads torch
        from SAMv2Core.embedding.file import load_embedding

        return load_embedding(path)

    def cache_entry(folder: Path) -> Path:
        from Testing.samples.embedding_samples import random_embedding

        s.Cache(folder).store("0" * 64, random_embedding())
        return s.Cache(folder).path_of("0" * 64)

    def read_entry(path: Path) -> Any:  # a damaged one is dropped, and none at all
        return s.Cache(path.parent).load("0" * 64)

    def record(folder: Path) -> Path:
        told = json.loads((bundled_folder() / "lite-ct.json").read_text(encoding="utf-8"))
        (folder / "m.json").write_text(json.dumps({**told, "file": "m.json"}), encoding="utf-8")
        return folder / "m.json"

    def read_calibration(path: Path) -> Any:
        calibration = read_record(path).get("calibration", {})
        return UncertaintyModel.from_metadata(calibration), TrackUncertainty.from_metadata(calibration)

    def batch(folder: Path) -> Path:
        (folder / "b.csv").write_text("name;fixed;moving\na;x.nii;y.nii\nb;x.nii;z.nii\n")
        return folder / "b.csv"

    def tiff(folder: Path) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(SCAN.array), str(folder / "a.tif"))
        return folder / "a.tif"

    def rle(folder: Path) -> Path:
        import pydicom

        dicom.write_slices(folder / "d", slices=range(4))
        for path in (folder / "d").iterdir():
            image = pydicom.dcmread(path)
            image.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
            image.save_as(path)
        return folder / "d"

    found = {
        "dicom-folder": Format(lambda folder: dicom.write_slices(folder / "d", slices=range(4)), read_volume),
        "dicom-multiframe": Format(dicom.frames_in_any_order, read_volume),
        "dicom-seg": Format(lambda f: dicom.write_segmentation(f / "s.dcm", dicom.two_lesions()), s.read_lesions),
        "dicom-compressed": Format(rle, read_volume),
        "nii": Format(volume(".nii"), read_volume),
        "nii.gz": Format(volume(".nii.gz"), read_volume),
        "nrrd": Format(volume(".nrrd"), read_volume),
        "nrrd-raw": Format(lambda folder: nrrd.write(folder / "a.nrrd", ["space: LPS"]), read_volume),
        "seg.nrrd": Format(segmentation, s.read_lesions),
        "mha": Format(volume(".mha"), read_volume),
        "tiff": Format(tiff, read_volume),
        "mrk.json": Format(points_file(".mrk.json"), read_points),
        "fcsv": Format(tables.fcsv_with_lines, read_points),
        "csv": Format(tables.slicers_csv, read_points),
        "tfm": Format(transform(".tfm"), read_transform),
        "h5": Format(transform(".h5"), read_transform),
        "safetensors": Format(tensors, read_safetensors),
        "checkpoint": Format(checkpoint, read_checkpoint),
        "batch": Format(batch, lambda path: Studies(path, COMMANDS["register"], path.parent, lambda arguments: None)),
        "embedding": Format(embedding, read_embedding),
        "cache entry": Format(cache_entry, read_entry),
        "model record": Format(record, read_calibration),
    }
    return found


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to a few changes of the kinds that happen: bits, lost and doubled pieces, large numbers, other bytes."""
    raw = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if not raw:
            break
        # Headers decide more than voxels: half of the changes are in the first kilobyte.
        reach = len(raw) if rng.random() < 0.5 else min(len(raw), 1024)
        at, kind = int(rng.integers(reach)), int(rng.integers(7))
        n = int(rng.integers(1, 9))
        if kind == 0:
            raw[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            raw[at : at + n] = rng.integers(0, 256, n, dtype=np.uint8).tobytes()
        elif kind == 2:
            del raw[at:]
        elif kind == 3:
            del raw[at : at + n * n]
        elif kind == 4:
            raw[at:at] = raw[at : at + n * n]
        elif kind == 5:
            raw[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80"])
        else:
            raw[at : at + n] = rng.choice([b"9" * 9, b"-1", b"nan", b"inf", b"\\", b'"', b"\0", b"1e400", b"{", b"::"])[
                :n
            ]
    return bytes(raw)


def mutate(sound: Path, target: Path, rng: np.random.Generator) -> Path:
    """A damaged copy of a file, or of a folder in which one file is damaged."""
    if sound.is_file():
        target.mkdir(parents=True, exist_ok=True)
        (target / sound.name).write_bytes(mutated(sound.read_bytes(), rng))
        return target / sound.name
    files = sorted(sound.iterdir())
    chosen = files[int(rng.integers(len(files)))]
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = file.read_bytes()
        (target / file.name).write_bytes(mutated(content, rng) if file == chosen else content)
    return target


def work(name: str, start: int, count: int) -> None:
    """In a process of its own: a line of JSON per seed."""
    from SAMv2Core.errors import SAMv2Error

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY + (2 << 30), MEMORY + (2 << 30)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGPROF, _too_long)
    fmt = formats()[name]
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        sound = fmt.make(Path(folder))
        with contextlib.suppress(SAMv2Error):  # a checkpoint of no known network
            fmt.read(sound)
        for seed in range(start, start + count):
            path = mutate(sound, Path(folder, "m"), np.random.default_rng([seed, len(name)]))
            before = sorted(entry.name for entry in os.scandir(folder))
            print(json.dumps({"seed": seed}), flush=True)
            began, answer = time.process_time(), "read"
            # Ten seconds of computing, or six times as many of waiting: the machine has others to serve.
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(6 * SECONDS)
            try:
                fmt.read(path)
            except SAMv2Error as error:
                answer = "refused" if error.cause and "\n" not in error.cause else "an error of several lines"
            except TooLong:
                answer = f"more than {SECONDS} s"
            except BaseException as error:
                answer = f"{type(error).__name__}: {str(error)[:120]}"
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            if sorted(entry.name for entry in os.scandir(folder)) != before:
                answer = "a file was written"
            print(json.dumps({"seed": seed, "answer": answer, "seconds": time.process_time() - began}), flush=True)


class TooLong(BaseException):
    """No reader catches it."""


def _too_long(*_: Any) -> None:
    raise TooLong


def run_format(name: str, count: int, start: int = 0) -> Outcome:
    """All mutations of a format; a process that dies is started again behind the seed that killed it."""
    n_read, n_refused, failures, slowest, seed = 0, 0, [], 0.0, start
    while seed < start + count:
        command = [sys.executable, "-m", "Testing.benchmarks.mutations", name, str(seed), str(start + count - seed)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        answers, last = _answers(done.stdout)
        for one, answer, seconds in answers:
            slowest = max(slowest, seconds)
            n_read += answer == "read"
            n_refused += answer == "refused"
            if answer not in ("read", "refused"):
                failures.append(f"{name} {one}: {answer}")
        if len(answers) == start + count - seed:
            break
        if last is None:
            raise RuntimeError(f"{name}: {done.stderr[-400:]}")
        failures.append(f"{name} {last}: the process died ({done.returncode})")
        seed = last + 1
    return Outcome(n_read, n_refused, failures, slowest)


def _answers(text: str) -> Tuple[List[Tuple[int, str, float]], Any]:
    """What the process said, and the seed that it began last."""
    found, last = [], None
    for line in _lines(text):
        last = line["seed"]
        if "answer" in line:
            found.append((line["seed"], line["answer"], line["seconds"]))
    return found, last


def _lines(text: str) -> Iterator[Dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith('{"seed"'):
            yield json.loads(line)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
