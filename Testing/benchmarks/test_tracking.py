"""The tracking benchmark: the rival without training goes through the same cases and into the same table."""

import numpy as np

from SAMv2Core.evaluation.sparse_sampling import SparseSampling
from SAMv2Core.io.lesion import lesion_at
from Testing.benchmarks.tracking import RIVAL, run_method, summarize
from Testing.benchmarks.tracking_cases import FollowUp, Patient, embedded
from Testing.samples.embedding_samples import torso


def test_the_rival_finds_the_lesions_of_an_unchanged_scan():
    volume = torso()
    lesions = [lesion_at("a", [0.0, 0.0, 140.0], 12.0), lesion_at("b", [10.0, -12.0, 150.0], 12.0)]
    truth = np.array([lesion.center_lps for lesion in lesions])
    patient = Patient("one", volume, lesions, [FollowUp("whole", volume, truth, np.array([True, True]))])
    trials = run_method(embedded(SparseSampling(), patient), RIVAL, [])
    (row,) = summarize(trials)
    assert [(t.method, t.label) for t in trials] == [(RIVAL, "a"), (RIVAL, "b")]
    assert row["n"] == 2 and row["cpm_radius"] == 1.0 and row["med_mm"] < 1.0
