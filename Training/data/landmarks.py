"""Hand-placed landmarks beside a scan (``NAME.landmarks.json``), and the parts of the body that errors are told by.

The file holds ``{"landmarks": {name: {"lps": [x, y, z], "sure": 0..1}}}``; LPS mm. ``sure`` of 1 is seen plainly, 0.75
is soft in one direction by some 4 mm, less is a plausible place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, Optional, Tuple

from SAMv2Core.errors import InputError
from Training.data.jobs import stem_of

MIN_SURE = 0.75

CHEST, ABDOMEN, BONES, DOMES = "chest", "abdomen", "bones", "domes"
REGIONS = (CHEST, ABDOMEN, BONES, DOMES)

_DOMES = ("dome_", "liver_dome", "costophrenic_")
_BONES = ("vertebra_", "jugular_notch", "sternal_", "xiphoid_", "clavicle_", "coracoid_", "humeral_", "scapula_",
          "iliac_crest", "asis_", "femoral_", "lesser_trochanter", "sacral_", "coccyx_", "pubic_")  # fmt: skip
_CHEST = ("apex_", "carina", "left_bronchus", "right_upper_bronchus", "aortic_arch", "brachiocephalic",
          "left_subclavian", "aortic_valve", "pulmonary_", "left_atrium", "svc_", "ivc_right_atrium", "azygos",
          "cardiac_", "esophagus_")  # fmt: skip


def region_of(landmark: str) -> str:
    """``chest``, ``abdomen`` (pelvis included), ``bones`` (vertebrae included) or ``domes``.

    Domes and costophrenic angles are extremes of flat surfaces, which lie on other anatomy in another patient: they are
    told apart from points that can be found.
    """
    for region, beginnings in ((DOMES, _DOMES), (BONES, _BONES), (CHEST, _CHEST)):
        if landmark.startswith(beginnings):
            return region
    return ABDOMEN


def other_side(landmark: str) -> Optional[str]:
    """The name of the same landmark on the other side; None for one in the midline."""
    for side, other in (("left", "right"), ("right", "left")):
        if side in landmark:
            return landmark.replace(side, other)
    return None


def landmark_file(image: Path) -> Path:
    """Where the landmarks of a volume file lie, if it has any."""
    return image.with_name(stem_of(image) + ".landmarks.json")


def read_landmarks(path: Path) -> Dict[str, Tuple[float, float, float, float]]:
    """All landmarks of a file: name to x, y, z (LPS mm) and ``sure``.

    :raises InputError: not such a file.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["landmarks"]
        found = {}
        for name, entry in entries.items():
            x, y, z = (float(v) for v in entry["lps"])
            found[str(name)] = (x, y, z, float(entry["sure"]))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds no landmarks ({error}).", 'Write {"landmarks": {name: {"lps": [x, y, z], '
                         '"sure": 1}}}.') from error  # fmt: skip
