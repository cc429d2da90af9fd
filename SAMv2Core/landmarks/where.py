"""Where a point lies, in words: its nearest named landmarks and the part of the body."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

import numpy as np

from SAMv2Core.landmarks.landmark import Landmark
from SAMv2Core.matching.confidence import MATCHED, UNCERTAIN

REGIONS = {
    "neck": ("vertebra_C7", "vertebra_T1", "apex_", "clavicle_"),
    "chest": (
        "vertebra_T2", "vertebra_T3", "vertebra_T4", "vertebra_T5", "vertebra_T6", "vertebra_T7", "vertebra_T8",
        "vertebra_T9", "jugular_notch", "sternal_angle", "xiphoid_", "coracoid_", "humeral_", "scapula_", "carina",
        "left_bronchus", "right_upper_bronchus", "aortic_arch", "brachiocephalic_", "left_subclavian", "aortic_valve",
        "pulmonary_", "left_atrium", "svc_", "ivc_", "azygos_", "cardiac_",
    ),
    "abdomen": (
        "vertebra_T10", "vertebra_T11", "vertebra_T12", "vertebra_L", "costophrenic_", "dome_", "liver_", "esophagus_",
        "hepatic_", "portal_", "gallbladder_", "spleen_", "right_adrenal", "left_adrenal", "right_kidney",
        "left_kidney", "left_renal", "celiac_", "sma_", "aortic_bifurcation", "umbilicus",
    ),
    "pelvis": (
        "iliac_", "asis_", "femoral_", "lesser_", "sacral_", "coccyx_", "pubic_",
    ),
}  # fmt: skip
"""Beginnings of landmarks' names by part of the body; the longest one that fits counts."""

DIRECTIONS = (("left", "right"), ("behind", "before"), ("above", "below"))  # of +x/-x, +y/-y, +z/-z in LPS
NEAR_MM = 2.0  # less is no direction worth a word
N_VOTES = 5  # nearest landmarks that say which region it is


@dataclass(frozen=True)
class Nearby:
    """One landmark near a point.

    :param name: of the landmark.
    :param distance_mm: from it.
    :param text: "12 mm left of celiac_origin, 20 mm below": where the point lies as seen from it; "30 mm before
        vertebra_L2 or vertebra_L3" where the level may be one off.
    """

    name: str
    distance_mm: float
    text: str


def region_of(name: str) -> str:
    """The part of the body that a landmark belongs to; empty when its name is not known here."""
    return _group(name)[0]


def list_order(name: str) -> Tuple[int, int, str]:
    """Sorts landmarks by part of the body, and within one as :data:`REGIONS` names them; unknown ones last."""
    region, number = _group(name)
    return (list(REGIONS).index(region) if region else len(REGIONS), number, name)


def _group(name: str) -> Tuple[str, int]:
    """The part of the body, and which of its beginnings of names is the longest that fits."""
    fits = [
        (len(start), region, number)
        for region, starts in REGIONS.items()
        for number, start in enumerate(starts)
        if name.startswith(start)
    ]
    return max(fits)[1:] if fits else ("", 0)


def where(point_lps: Sequence[float], landmarks: Sequence[Landmark], n: int = 3) -> Tuple[str, List[Nearby]]:
    """The region of a point and its nearest landmarks, among those that were found and are sure.

    A vertebra whose place is found but may be one level off is named as well, by both names; the region is that of the
    sure ones.

    :param point_lps: (3,) LPS mm.
    :param landmarks: of the same scan (:func:`SAMv2Core.landmarks.find.find_landmarks`).
    :returns: the region (empty when nothing near was found) and up to ``n`` landmarks, nearest first.
    """
    found = [one for one in landmarks if one.position_lps is not None and (one.status == MATCHED or _or_else(one))]
    if not found:
        return "", []
    offsets = np.asarray(point_lps, dtype=np.float64) - np.array([landmark.position_lps for landmark in found])
    distance = np.linalg.norm(offsets, axis=1)
    order = np.argsort(distance)
    votes = [region_of(found[i].name) for i in order if found[i].status == MATCHED][:N_VOTES]
    region = max(votes, key=lambda one: (votes.count(one), -votes.index(one)), default="")
    near = [(found[i].name, float(distance[i]), found[i].name + _or_else(found[i]), offsets[i]) for i in order[:n]]
    return region, [Nearby(name, away, _seen_from(called, offset)) for name, away, called, offset in near]


def _or_else(landmark: Landmark) -> str:
    """The other name of a vertebra whose level is not sure, as words that follow the first one."""
    is_unsure = landmark.status == UNCERTAIN and landmark.witnesses.neighbor
    return f" or {landmark.witnesses.neighbor}" if is_unsure else ""


def _seen_from(name: str, offset: np.ndarray) -> str:
    parts = [
        f"{abs(length):.0f} mm {words[0] if length > 0 else words[1]}"
        for length, words in sorted(zip(offset, DIRECTIONS), key=lambda pair: -abs(pair[0]))
        if abs(length) >= NEAR_MM
    ]
    if not parts:
        return f"at {name}"
    first, rest = parts[0], ", ".join(parts[1:])
    of = " of" if first.endswith(("left", "right")) else ""
    return f"{first}{of} {name}" + (f", {rest}" if rest else "")
