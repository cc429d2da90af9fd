"""The demo's other patients, and what a reader sees in them.

The four lung CTs are cut to one side of the chest, so most of the template's landmarks are *not* in them: the
right answer is then ``not_found``. What is in view was read from the slices by the project's developers (not
by a radiologist): positions in LPS mm, repeatable to some 3 mm (spleen: 8 mm, its border to the stomach is
faint). The tumors' centers are the area-weighted centers of the contours (``GTV-1``) in the same DICOM
folders.

A landmark that is neither in ``places`` nor in ``absent`` cannot be judged: a vertebra's number cannot be
counted in a scan that shows neither skull nor sacrum, and an organ's end may be cut by the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, FrozenSet, Optional, Tuple

Point = Tuple[float, float, float]

_RIGHT_CHEST_LACKS = frozenset({"Aortic arch, top", "Right lung, apex", "Left scapula, tip", "Heart, apex"})
_BELOW = frozenset({"Right kidney, upper pole", "Left adrenal gland", "Spleen, top"})


@dataclass(frozen=True)
class Patient:
    """One of the wheel's scans.

    :param folder: inside the unpacked wheel.
    :param shows: one line on the field of view, for tables and pictures.
    :param places: landmark -> LPS mm, read by eye; also such that the template's list does not have.
    :param absent: landmarks that lie outside of the scan.
    :param tumor_lps: center of the contoured tumor, LPS mm.
    :param tumor_mm: diameter of the ball of the same volume.
    """

    name: str
    folder: str
    shows: str
    places: Dict[str, Point]
    absent: FrozenSet[str]
    tumor_lps: Point
    tumor_mm: float

    def in_view(self, label: str) -> Optional[bool]:
        """Whether the landmark is in the scan; None when that cannot be said."""
        if label in self.places:
            return True
        return False if label in self.absent else None


_FOLDER = "cerr/datasets/radiomics_phantom_dicom/"

PATIENTS: Tuple[Patient, ...] = (
    Patient(
        name="Lung CT 1",
        folder=_FOLDER + "pat_1",
        shows="right side of the chest and upper abdomen",
        places={
            "Carina": (-1.0, 1.0, 49.6),
            "Right scapula, tip": (-136.5, 40.0, 2.0),
            "Right kidney, upper pole": (-51.0, 59.5, -72.0),
        },
        absent=_RIGHT_CHEST_LACKS | {"Left adrenal gland", "Spleen, top"},
        tumor_lps=(-74.5, 16.3, -18.7),
        tumor_mm=88.0,
    ),
    Patient(
        name="Lung CT 2",
        folder=_FOLDER + "pat_2",
        shows="right upper chest",
        places={"Carina": (-11.5, 2.5, -534.0)},
        absent=_RIGHT_CHEST_LACKS | _BELOW | {"Right scapula, tip", "Liver, dome", "T12, vertebral body"},
        tumor_lps=(-70.3, 23.3, -533.5),
        tumor_mm=23.0,
    ),
    Patient(
        name="Lung CT 3",
        folder=_FOLDER + "pat_3",
        shows="left side of the chest, without contrast agent",
        places={
            "Carina": (-2.5, 3.0, -351.5),
            "Aortic arch, top": (18.0, 5.0, -314.5),
            "Descending aorta, at the carina": (23.5, 34.0, -351.5),
            "Spinal canal, at the carina": (-9.5, 48.5, -351.5),
        },
        absent=_BELOW | {"Right lung, apex", "Right scapula, tip", "Liver, dome", "T12, vertebral body"},
        tumor_lps=(43.5, 16.9, -371.2),
        tumor_mm=28.0,
    ),
    Patient(
        name="Lung CT 4",
        folder=_FOLDER + "pat_4",
        shows="left side of the chest, without contrast agent",
        places={
            "Carina": (7.0, -15.0, -405.0),
            "Aortic arch, top": (32.0, -21.0, -368.0),
            "Left scapula, tip": (136.0, 34.5, -473.0),
            "Spleen, top": (80.0, 18.0, -493.5),
            "Descending aorta, at the carina": (32.5, 10.5, -404.5),
            "Spinal canal, at the carina": (5.0, 33.0, -404.5),
        },
        absent=frozenset(
            {
                "Right lung, apex",
                "Right scapula, tip",
                "Liver, dome",
                "Right kidney, upper pole",
                "Left adrenal gland",
            }
        ),
        tumor_lps=(79.8, 23.6, -436.4),
        tumor_mm=62.0,
    ),
)


def patient_named(name: str) -> Patient:
    """The patient of that name; ``KeyError`` when there is none."""
    return {patient.name: patient for patient in PATIENTS}[name]
