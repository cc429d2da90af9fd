"""Fixtures of all tests, and where the material outside the repository is found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout that these tests belong to."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference vectors and scans: ``$SAMV2_SHARED``, else ``../shared``; skips without it."""
    folder = Path(os.environ.get("SAMV2_SHARED") or REPO_ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"reference vectors and scans are not at {folder} (set SAMV2_SHARED)")
    return folder


@pytest.fixture(scope="session")
def aligned(tmp_path_factory):
    """An index of two aligned synthetic CT-MR pairs."""
    from Testing.samples.training_pairs import aligned_pairs

    return aligned_pairs(tmp_path_factory.mktemp("aligned"))


@pytest.fixture(scope="session")
def displaced(aligned, tmp_path_factory):
    """The same with the second scans displaced."""
    from Training.crosssam.displaced import displace

    return displace(aligned, tmp_path_factory.mktemp("displaced"), seed=3)


def pytest_collection_modifyitems(items):
    """Mark what needs the shared material, so that ``-m "not shared"`` leaves it out."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.shared)


@pytest.fixture(scope="session")
def light_phantoms(tmp_path_factory):
    """An index of two training phantoms and a held-out one."""
    from SAMv2Core.io.volume import write_volume
    from Testing.samples.synthetic import make_body_volume
    from Testing.samples.training_samples import SHAPE, SPACING
    from Training.data.index import read_index
    from Training.prepare import prepare

    source = tmp_path_factory.mktemp("light_phantoms")
    for seed in range(3):
        folder = source / "ct" / ("train" if seed < 2 else "val")
        folder.mkdir(parents=True, exist_ok=True)
        write_volume(make_body_volume(SHAPE, SPACING, seed=seed), folder / f"p{seed}.nii.gz")
    prepare([source], source / "out")
    return read_index(source / "out")
