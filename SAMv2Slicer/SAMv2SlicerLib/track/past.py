"""What a report said of the lesions before this scene: kept beside the lesion list, counted in sums, reported again.

The report's own study is the baseline of the scene; studies before it have no scan here, only readings.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, field
from typing import Dict, Tuple

from SAMv2Core.io.report_reader import PastLesion
from SAMv2Core.io.structured_report import PastReading
from SAMv2SlicerLib import texts

ATTRIBUTE = "SAMv2.past"


@dataclass(frozen=True, eq=False)
class Past:
    """Readings of a report.

    :param order: number of the report's own study, the scene's baseline; so many studies were before.
    :param lesions: by Tracking UID.
    """

    order: int = 0
    lesions: Dict[str, PastLesion] = field(default_factory=dict)

    def nameOf(self, order: int) -> str:
        """What a study was called; the usual name when the report does not say."""
        names = (past.time_point for lesion in self.lesions.values() for past in lesion.readings if past.order == order)
        return next((name for name in names if name), texts.roleName(order))

    def statesNow(self) -> Dict[str, str]:
        """What the report says of the lesions in its own study, by Tracking UID; those that were seen are left out."""
        last = {uid: one.readings[-1] for uid, one in self.lesions.items() if one.readings}
        return {uid: one.state for uid, one in last.items() if one.order == self.order and one.state != "present"}


def remember(listNode, past: Past) -> None:
    """Keep it with a lesion list."""
    lesions = [
        {
            "uid": uid,
            "label": one.label,
            "organ": one.organ,
            "role": one.role,
            "readings": [*map(astuple, one.readings)],
        }
        for uid, one in past.lesions.items()
    ]
    listNode.SetAttribute(ATTRIBUTE, json.dumps({"order": past.order, "lesions": lesions}))


def pastOf(listNode) -> Past:
    """What is kept with a lesion list; nothing where no report was read, or the scene is damaged."""
    text = listNode.GetAttribute(ATTRIBUTE) if listNode is not None else None
    try:
        kept = json.loads(text) if text else {"order": 0, "lesions": []}
        lesions = {item["uid"]: _lesionOf(item) for item in kept["lesions"]}
        return Past(int(kept["order"]), lesions)
    except (ValueError, KeyError, TypeError):
        return Past()


def _lesionOf(item: dict) -> PastLesion:
    readings: Tuple[PastReading, ...] = tuple(PastReading(*values) for values in item["readings"])
    return PastLesion(item["label"], item["uid"], item["organ"], item["role"], readings)
