"""What ``samv2 track`` says on whether the lesions are still there, from the scans at the places found."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.io.files import write_text
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.tables import table_text

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.tracking.assignment import Assignment
    from SAMv2Core.tracking.presence import Presence

Key = Tuple[str, int]
"""(label, study)."""

COLUMNS = ("label", "study", "presence", "confidence", "growth", "partner", "reason")


def add_option(parser: Any) -> None:
    """Add ``--presence``."""
    parser.add_argument(
        "--presence",
        metavar="P.csv",
        type=lambda text: common.suffixed(text, (".csv",)),
        help="table of what has become of each lesion by the scans at its place: unchanged, changed, vanished, merged, "
        "split or unknown, with a confidence (scans of one modality; it is in the report, too)",
    )


def of_all(
    findings: Sequence[s.Finding], lesions: Sequence[Lesion], volumes: Sequence[s.Volume], modalities: Sequence[str]
) -> Dict[Key, Presence]:
    """By label and study; empty between CT and MR, whose brightness compares nothing.

    :param volumes: baseline first; :param modalities: of them.
    """
    from SAMv2Core.tracking.presence import presences

    found: Dict[Key, Presence] = {}
    for study, volume in enumerate(volumes[1:], 1):
        if modalities[study] == modalities[0]:
            mine = [finding for finding in findings if finding.study == study]
            said = presences(lesions, mine, volumes[0], volume)
            found.update({(label, study): presence for label, presence in said.items()})
    return found


def of_new(
    session: Session,
    assignments: Sequence[Assignment],
    embeddings: Sequence[s.Embedding],
    volumes: Sequence[s.Volume],
) -> Dict[Key, Presence]:
    """Whether what a segmentation shows as new was there in the baseline, by the new label and study."""
    from SAMv2Core.tracking.presence import presence_before
    from SAMv2Core.tracking.reading import new_label

    found: Dict[Key, Presence] = {}
    track = common.functions(session).track
    for item in assignments:
        n = item.study
        inside = [part for part in item.new if volumes[n].grid.contains(part.center_lps)[0]]
        if not inside or embeddings[n].modality != embeddings[0].modality:
            continue
        places = {f.label: f.lps for f in track(embeddings[n], [embeddings[0]], inside) if f.study == 1}
        for number, part in enumerate(item.new, 1):
            place = places.get(part.label)
            if place is not None:
                found[new_label(n, number), n] = presence_before(part, place, volumes[n], volumes[0])
    return found


def write(session: Session, found: Dict[Key, Presence]) -> None:
    """The results into the report, the table where it is asked for."""
    rows = [{"label": label, "study": study, **as_report(found[label, study])} for label, study in found]
    session.results["presence"] = rows
    path: Optional[str] = session.args.presence
    if path:
        cells: List[List[Any]] = [[row[name] for name in COLUMNS] for row in rows]
        write_text(path, table_text(COLUMNS, cells), session.inputs)
    for row in rows:
        if row["presence"] not in ("unchanged", "unknown"):
            session.say(f"follow-up {row['study']}, {row['label']}: {row['presence']} ({row['confidence']:.2f})?")


def as_report(presence: Presence) -> Dict[str, Any]:
    def number(value: float) -> Optional[float]:
        return round(value, 4) if math.isfinite(value) else None

    return {
        "presence": presence.state,
        "confidence": number(presence.confidence),
        "growth": number(presence.growth),
        "partner": presence.partner or None,
        "reason": presence.reason,
    }
