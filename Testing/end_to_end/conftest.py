"""The command ``samv2`` as a user runs it: another process, other folder, its own cache."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import SAMv2Core as s
from SAMv2Core.io.volume import write_volume
from SAMv2Core.landmarks.atlas import exemplar, save_atlas
from SAMv2Core.models.checkpoints import save_network
from Testing.samples import forked_command
from Testing.samples.embedding_samples import small_lite, torso

ROOT = Path(__file__).resolve().parents[2]

# The query of `scans` is the template, elsewhere in the world.
SHIFT_LPS = (20.0, -10.0, 35.0)
INSIDE_LPS = {"a": (0.0, 0.0, 140.0), "b": (10.0, -12.0, 150.0)}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> List[str]:
        """stderr without warnings."""
        return [line for line in self.err.splitlines() if not line.startswith("warning: ")]


def environment(cache: Path) -> Dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    own = {"PYTHONPATH": path, "SAMV2_CACHE_DIR": str(cache), "SAMV2_MODELS_DIR": str(cache / "models")}
    return {**os.environ, "OMP_NUM_THREADS": "1", **own}


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """One embedding cache for all commands of the session: each scan is embedded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def samv2(cache, tmp_path, tmp_path_factory) -> Callable[..., Ended]:
    """Run ``samv2`` with these arguments in ``tmp_path``."""
    said_in = tmp_path_factory.mktemp("said")

    def run(*arguments: Any, **options: Any) -> Ended:
        """:param options: of ``subprocess.run``, for what a forked process cannot have."""
        texts = [str(argument) for argument in arguments]
        if options or not forked_command.is_possible():
            command = [sys.executable, "-m", "SAMv2Core", *texts]
            options = {"stdin": subprocess.DEVNULL, "capture_output": True, "encoding": "utf-8", **options}
            done = subprocess.run(command, env=environment(cache), cwd=tmp_path, timeout=300, check=False, **options)
            return Ended(done.returncode, done.stdout, done.stderr)
        said = [said_in / name for name in ("out", "err")]
        code = forked_command.run(texts, tmp_path, environment(cache), *said)
        return Ended(code, *(path.read_text(encoding="utf-8") for path in said))

    return run


@pytest.fixture(scope="session")
def scans(tmp_path_factory) -> Path:
    """A folder with template.nii.gz, query.nii.gz (the same, shifted), points.csv and a small random model."""
    folder = tmp_path_factory.mktemp("scans")
    template = torso()
    matrix = template.ijk_to_lps.copy()
    matrix[:3, 3] += SHIFT_LPS
    write_volume(template, folder / "template.nii.gz")
    write_volume(dataclasses.replace(template, ijk_to_lps=matrix), folder / "query.nii.gz")
    write_points(folder / "points.csv", INSIDE_LPS)
    save_network(small_lite(), folder / "tiny.safetensors", {"name": "tiny"})
    return folder


@pytest.fixture(scope="session")
def atlas(scans):
    """An atlas of the template's own points: the query is the same scan elsewhere."""
    emb = s.load_model(scans / "tiny.safetensors", "cpu").embed(scans / "template.nii.gz")
    own = exemplar(emb, INSIDE_LPS, "template", {})
    sure = {"bias": 4.0, "agreement": 0.0, "similarity": 0.0, "spread": 0.0, "edge": 0.0}
    path = scans / "own.landmarks.safetensors"
    save_atlas(dataclasses.replace(own, calibration=sure), path)
    return path


def write_points(path: Path, points: Dict[str, Any]) -> None:
    rows = [",".join([label, *("" if value is None else str(value) for value in lps)]) for label, lps in points.items()]
    path.write_text("\n".join(["label,l,p,s", *rows]) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{path} holds {constant}, which is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
