"""Sums of the lesions' diameters per study, of what a person measured or a segmentation gave; never of proposals.

A sum says something only when it adds up the same lesions: those that have a size in the baseline. Where one of them
has none (not found, rejected, not measured), there is no sum, and what is missing is told. No judgment follows from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Sequence

from SAMv2SlicerLib.track.findings import Finding


@dataclass(frozen=True)
class StudySum:
    """The sum of one study.

    :param volumeID: of the study.
    :param sized: how many of the :param wanted: lesions have a size here.
    :param sumMm: NaN unless all of them do.
    :param change: share by which it differs from the baseline's sum, NaN where one is not known.
    :param isEstimated: some of it was computed from a segmentation.
    """

    volumeID: str
    sized: int
    wanted: int
    sumMm: float
    change: float
    isEstimated: bool


def sums(rows: Sequence[Sequence[Finding]]) -> List[StudySum]:
    """One per study, baseline first; none when no lesion has a size in the baseline."""
    wanted = [row for row in rows if row and row[0].isBaseline and math.isfinite(row[0].sizeMm)]
    found: List[StudySum] = []
    for findings in zip(*wanted):
        sizes = [finding.sizeMm for finding in findings if math.isfinite(finding.sizeMm)]
        total = sum(sizes) if len(sizes) == len(wanted) else math.nan
        change = total / found[0].sumMm - 1 if found else math.nan
        isEstimated = any(not finding.isMeasured for finding in findings)
        found.append(StudySum(findings[0].volumeID, len(sizes), len(wanted), total, change, isEstimated))
    return found
