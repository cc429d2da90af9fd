"""Names of organs as DICOM codes: the finding site of a lesion.

Codes are of SNOMED CT as DICOM PS3.16 lists them; a name that is not known here keeps its words under a coding scheme
of our own, so that nothing a reader wrote is lost.
"""

from __future__ import annotations

import re
from typing import Dict, NamedTuple, Tuple

SCHEME = "99SAMV2"
"""Coding scheme of what no standard scheme has codes for."""

CODE_LENGTH, MEANING_LENGTH = 16, 64
"""Of DICOM's value representations SH and LO."""


class Site(NamedTuple):
    """One coded concept."""

    code: str
    scheme: str
    meaning: str


ORGANS: Dict[str, str] = {
    "adrenal gland": "23451007", "aorta": "15825003", "bladder": "89837001", "bone": "272673000", "brain": "12738006",
    "breast": "76752008", "colon": "71854001", "esophagus": "32849002", "gallbladder": "28231008", "heart": "80891009",
    "kidney": "64033007", "liver": "10200004", "lung": "39607008", "lymph node": "59441001",
    "mediastinum": "72410000", "muscle": "71616004", "ovary": "15497006", "pancreas": "15776009", "pleura": "3120008",
    "prostate": "41216001", "rectum": "34402009", "retroperitoneum": "82849001", "skin": "39937001",
    "small intestine": "30315005", "soft tissue": "87784001", "spleen": "78961009", "stomach": "69695003",
    "uterus": "35039007", "vertebra": "51282000",
}  # fmt: skip

REGIONS: Dict[str, str] = {
    "abdomen": "818981001", "chest": "816094009", "head": "69536005", "neck": "45048000", "pelvis": "816092008",
}  # fmt: skip
"""Parts of the body, as landmarks tell them (:mod:`SAMv2Core.landmarks.where`): a site, but no organ."""

_OTHER_NAMES = {
    "adrenal": "adrenal gland", "bones": "bone", "lungs": "lung", "node": "lymph node", "oesophagus": "esophagus",
    "osseous": "bone", "renal": "kidney", "hepatic": "liver", "suprarenal gland": "adrenal gland",
    "urinary bladder": "bladder", "bowel": "small intestine", "spine": "vertebra",
}  # fmt: skip

NOWHERE = Site("123037004", "SCT", "Body structure")
"""Slicer's importer wants a site in every group; this one says nothing."""


def site_of(name: str) -> Site:
    """The code of an organ or a part of the body by its English name; "" gives :data:`NOWHERE`."""
    plain = " ".join(name.lower().split())
    if not plain:
        return NOWHERE
    for candidate in (plain, _OTHER_NAMES.get(plain, ""), plain[:-1] if plain.endswith("s") else ""):
        code = ORGANS.get(candidate) or REGIONS.get(candidate)
        if code:
            return Site(code, "SCT", candidate.capitalize())
    slug = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:CODE_LENGTH]
    return Site(slug or "site", SCHEME, " ".join(name.split())[:MEANING_LENGTH])


def organ_of(site: Tuple[str, str, str]) -> str:
    """What :func:`site_of` coded, back as the name of an organ; "" for a part of the body, or nothing said.

    :param site: (code, scheme, meaning), of whatever scheme: another program's words are taken as they are.
    """
    code, _, meaning = site
    if code == NOWHERE.code or code in REGIONS.values():
        return ""
    return next((name for name, known in ORGANS.items() if known == code), meaning)
