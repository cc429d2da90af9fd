"""What is known about one match: the proposal with its evidence, and what the user decided about it.

Stands in the description of the match's control point as ``key=value; ...``, so a scene opened without this module
still shows it, and so does the ``.mrk.json`` file. Pure values; the lists that hold them are in match_list.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional, Tuple

MATCHED, UNCERTAIN, NOT_FOUND = "matched", "uncertain", "not_found"

ACCEPTED, MOVED, REJECTED = "accepted", "moved", "rejected"
"""What a user can decide about a match; empty is: nothing yet."""

SEGMENTED, VANISHED, MERGED, NEW = "segmented", "vanished", "merged", "new"
"""What a segmentation of the follow-up says about a lesion's place; empty where there is none."""

LOOKED_AT = (VANISHED, MERGED, NEW)
"""What a person should look at, however sure the place is."""


@dataclass(frozen=True)
class PointResult:
    """The facts of one match, without its position (that is the control point's).

    :param templatePoint: control point ID in the template list.
    :param status: ``matched``, ``uncertain`` or ``not_found`` as the matcher judged it, also after an edit.
    :param decision: the user accepted, moved (or placed) or rejected it; a rerun keeps it. Empty without a decision.
    :param diameterMm: size of a lesion as the tracker proposes it; NaN when not known.
    :param shortMm: short axis of the same, :param volumeMl: volume, from a segmentation; NaN when not known.
    :param looks: what has become of the lesion by both scans at its place, as in SAMv2Core.tracking.presence; empty
        where nothing was compared. :param looksConfidence: of that, :param looksReason: for people.
    :param presence: what a segmentation of the study says: lesion there, vanished, merged with another, or new.
    :param state: what the user says of the lesion itself where it is not measured, as in SAMv2Core.tracking.recist:
        ``vanished``, ``too_small``, ``not_evaluable`` or ``progressed``; empty otherwise.
    :param templates: how many scans it was looked for from; 0 for the template alone.
    :param orElse: of a vertebra among the landmarks, the other one that it may be.
    :param proposed: where the matcher put it, world LPS mm; None when nowhere. Stays when the point is moved.
    """

    templatePoint: str
    status: str
    similarity: float = math.nan
    cycleErrorMm: float = math.nan
    fixedPoints: int = 0
    confidence: float = math.nan
    decision: str = ""
    reason: str = ""
    diameterMm: float = math.nan
    presence: str = ""
    proposed: Optional[Tuple[float, ...]] = None
    state: str = ""
    shortMm: float = math.nan
    volumeMl: float = math.nan
    looks: str = ""
    looksConfidence: float = math.nan
    looksReason: str = ""
    templates: int = 0
    orElse: str = ""

    @property
    def edited(self) -> bool:
        """Whether the user has decided."""
        return bool(self.decision)

    @property
    def needsALook(self) -> bool:
        return (self.status != MATCHED or self.presence in LOOKED_AT) and not self.edited

    def toDescription(self) -> str:
        """One line for the control point's description, see the module's text."""
        facts = {
            "status": self.status,
            "similarity": _number(self.similarity, 3),
            "cycle_error_mm": _number(self.cycleErrorMm, 2),
            "fixed_points": str(self.fixedPoints),
            "confidence": _number(self.confidence, 3),
            "diameter_mm": _number(self.diameterMm, 1),
            "short_mm": _number(self.shortMm, 1),
            "volume_ml": _number(self.volumeMl, 3),
            "presence": self.presence,
            "looks": self.looks,
            "looks_confidence": _number(self.looksConfidence, 3),
            "looks_reason": _plain(self.looksReason),
            "templates": str(self.templates) if self.templates else "",
            "or_else": self.orElse,
            "template_point": self.templatePoint,
            "decision": self.decision,
            "state": self.state,
            "proposed": "" if self.proposed is None else " ".join(f"{x:.3f}" for x in self.proposed),
            "reason": _plain(self.reason),
        }
        return "; ".join(f"{key}={value}" for key, value in facts.items() if value != "")

    @staticmethod
    @lru_cache(maxsize=4096)  # each point of a list is read many times over while others are written
    def fromDescription(description: str) -> Optional[PointResult]:
        """The facts in a description, or None when it is not one of ours (a point the user added to the list)."""
        facts = factsOf(description)
        if "template_point" not in facts or "status" not in facts:
            return None
        proposed = tuple(toFloat(x) for x in facts.get("proposed", "").split())
        return PointResult(
            templatePoint=facts["template_point"],
            status=facts["status"],
            similarity=toFloat(facts.get("similarity")),
            cycleErrorMm=toFloat(facts.get("cycle_error_mm")),
            fixedPoints=int(toFloat(facts.get("fixed_points", "0"))),
            confidence=toFloat(facts.get("confidence")),
            decision=facts.get("decision", ""),
            reason=facts.get("reason", ""),
            diameterMm=toFloat(facts.get("diameter_mm")),
            presence=facts.get("presence", ""),
            state=facts.get("state", ""),
            shortMm=toFloat(facts.get("short_mm")),
            volumeMl=toFloat(facts.get("volume_ml")),
            looks=facts.get("looks", ""),
            looksConfidence=toFloat(facts.get("looks_confidence")),
            looksReason=facts.get("looks_reason", ""),
            templates=int(toFloat(facts.get("templates", "0"))),
            orElse=facts.get("or_else", ""),
            proposed=proposed if len(proposed) == 3 and all(map(math.isfinite, proposed)) else None,
        )

    @staticmethod
    def fromMatch(templatePoint: str, match: Any) -> PointResult:
        """From a ``SAMv2Core`` Match, or a Finding of its tracker."""
        diameter = getattr(match, "diameter_mm", None)
        return PointResult(
            templatePoint=templatePoint,
            status=match.status,
            similarity=_orNaN(match.similarity),
            cycleErrorMm=_orNaN(match.cycle_error_mm),
            fixedPoints=int(getattr(match, "fixed_points", 0)),
            confidence=_orNaN(match.confidence),
            reason=match.reason or "",
            diameterMm=_orNaN(diameter),
            shortMm=_orNaN(getattr(match, "short_mm", None)),
            volumeMl=_orNaN(getattr(match, "volume_ml", None)),
            templates=len(getattr(match, "exemplars", ())),
        )


def factsOf(description: str) -> dict:
    """The ``key=value`` parts of a description."""
    return dict(part.split("=", 1) for part in description.split("; ") if "=" in part)


def _plain(text: str) -> str:
    """A text that does not end the fact that it is."""
    return text.replace(";", ",").replace("\n", " ")


def _orNaN(value: Any) -> float:
    return math.nan if value is None else float(value)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def toFloat(text: Optional[str]) -> float:
    """A number, NaN for anything else."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
