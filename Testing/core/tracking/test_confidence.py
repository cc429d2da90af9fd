"""What a tracked lesion's reason names, and in which order."""

import itertools
import math

import pytest

from SAMv2Core.tracking.confidence import TrackEvidence, TrackUncertainty

#: Strongest first: cycle 60/15, scatter 25/10, chain 12/10.
DOUBTS = {"cycle_error_mm": (60.0, "matched back"), "scatter_mm": (25.0, "parts"), "chain_mm": (12.0, "study before")}


@pytest.mark.parametrize("named", [n for k in (1, 2, 3) for n in itertools.combinations(DOUBTS, k)])
def test_the_two_strongest_doubts_are_named_whatever_is_unknown(named):
    """Unknown evidence is NaN, and a list sorted with NaN in it has any order."""
    values = {"scatter_mm": 0.0, "cycle_error_mm": 0.0, "chain_mm": math.nan, "field_mm": math.nan}
    values.update({name: DOUBTS[name][0] for name in named})
    evidence = TrackEvidence(similarity=0.9, fixed_points=20, margin=0.2, **values)
    _, _, reason = TrackUncertainty(matched_above=1.1, not_found_below=-1.0).verdict(evidence, 0.0)
    places = [reason.find(DOUBTS[name][1]) for name in DOUBTS if name in named][:2]
    assert min(places) > 0 and places == sorted(places), reason
