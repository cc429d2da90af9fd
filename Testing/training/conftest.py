"""Fixtures that several unit tests share."""

from __future__ import annotations

import pytest


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
