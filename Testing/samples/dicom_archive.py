"""A patient in DICOM: a study with a report of two lesions, and the same body a year later, elsewhere in the world."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, Tuple

import numpy as np

from SAMv2Core.io.structured_report import ReportedLesion, Study, new_tracking_uid, write_report
from SAMv2Core.io.volume import Volume
from Testing.samples.dicom_series import writeSeries
from Testing.samples.embedding_samples import torso

SHIFT_LPS = (20.0, -10.0, 35.0)
LESIONS_LPS: Dict[str, Tuple[float, float, float]] = {"liver": (0.0, 0.0, 140.0), "node": (10.0, -12.0, 150.0)}
TRACKING_UIDS = {label: new_tracking_uid() for label in LESIONS_LPS}


def write_archive(folder: Path, patient: str = "P1") -> None:
    """``prior/`` with ``prior.dcm``, and ``new/``; every lesion moves by SHIFT_LPS."""
    folder.mkdir(exist_ok=True)
    body = torso()
    body = Volume(np.rint(body.array), body.ijk_to_lps)
    files = writeSeries(folder / "prior", patient, "20230301", volume=body)
    matrix = body.ijk_to_lps.copy()
    matrix[:3, 3] += SHIFT_LPS
    writeSeries(folder / "new", patient, "20240301", volume=dataclasses.replace(body, ijk_to_lps=matrix))
    lesions = [
        ReportedLesion(label, TRACKING_UIDS[label], lps, "baseline", diameter_mm=12.0, organ=label)
        for label, lps in LESIONS_LPS.items()
    ]
    write_report(str(folder / "prior.dcm"), Study(tuple(files), "Baseline", 0), lesions, "test", "0")
