"""What a transform node knows about the registration that made it: saved with it, shown as a card."""

from __future__ import annotations

import json
import math
from typing import Any, Dict, Optional

import numpy as np

ATTRIBUTE = "SAMv2.registration"
FAILED = "failed"


def registrationFacts(registration: Any, deformation: Any = None) -> Dict[str, Any]:
    """What the result card shows: the report of a ``SAMv2Core`` Registration with angle and length; for JSON.

    :param deformation: a ``SAMv2Core`` Deformation on top of it, or None.
    """
    facts = dict(registration.to_report())
    if deformation is not None:
        facts["deformation"] = deformation.to_report()
    matrix = np.asarray(registration.matrix, dtype=np.float64)
    cosine = (np.trace(_rotationPart(matrix[:3, :3])) - 1) / 2
    facts["rotation_deg"] = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    facts["translation_mm"] = float(np.linalg.norm(matrix[:3, 3]))
    return facts


def _rotationPart(linear: np.ndarray) -> np.ndarray:
    """The rotation nearest to a 3x3 matrix (polar decomposition)."""
    u, _, vt = np.linalg.svd(linear)
    return u @ vt


def storeRegistration(transformNode, facts: Dict[str, Any], fixedNode, movingNode) -> None:
    """Keep a registration's facts and inputs on its transform node, so that they are saved with the scene."""
    transformNode.SetAttribute(ATTRIBUTE, json.dumps(facts))
    transformNode.SetAttribute("SAMv2.status", facts["status"])
    transformNode.SetNodeReferenceID("SAMv2.fixed", fixedNode.GetID())
    transformNode.SetNodeReferenceID("SAMv2.moving", movingNode.GetID())


def loadRegistration(transformNode) -> Optional[Dict[str, Any]]:
    """The facts kept on a transform node, None when it has none that can be read."""
    text = transformNode.GetAttribute(ATTRIBUTE) if transformNode is not None else None
    if not text:
        return None
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) and "status" in facts else None
