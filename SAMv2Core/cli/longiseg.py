"""``samv2 track --longiseg``: what was tracked, for LongiSeg to segment the follow-ups from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.io.longiseg import ScanPair, TrackedPoint, scan_name, write_tracking

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session
    from SAMv2Core.tracking.assignment import Assignment


def add_options(parser: Any) -> None:
    """Add ``--longiseg`` and ``--patient``."""
    parser.add_argument(
        "--longiseg",
        metavar="T.json",
        type=lambda text: common.suffixed(text, (".json",)),
        help="LongiSeg's trackingTr.json, made or added to: a dictionary per consecutive pair of scans with points in "
        "voxels; a place counts as verified where --follow-up-lesions shows the lesion",
    )
    parser.add_argument("--patient", metavar="NAME", help="of --longiseg; default: the baseline's name")


def write(
    session: Session,
    findings: Sequence[s.Finding],
    volumes: Sequence[s.Volume],
    paths: Sequence[str],
    assignments: Sequence[Assignment],
) -> None:
    """Write the file.

    :param volumes: baseline first; :param paths: of the same.
    """
    known = {(finding.label, finding.study): finding for finding in findings}
    labels = list(dict.fromkeys(finding.label for finding in findings))
    merged: Dict[Tuple[str, int], str] = {
        (label, item.study): owner for item in assignments for label, owner in item.merged.items()
    }
    pairs = []
    for study in range(1, len(volumes)):
        points = []
        for label in labels:
            before, now = known[label, study - 1], known[label, study]
            partner = merged.get((label, study), "")
            # Of a merged lesion, the place of the one that it shares.
            verified: Optional[np.ndarray] = now.lps if now.state == "present" else None
            if partner:
                verified = known[partner, study].lps
            points.append(TrackedPoint(label, before.lps, now.lps, verified, now.state == "vanished", partner))
        names = [scan_name(paths[n]) for n in (study - 1, study)]
        pairs.append(ScanPair(names[0], names[1], volumes[study - 1].grid, volumes[study].grid, tuple(points)))
    patient = session.args.patient or scan_name(paths[0])
    session.results["longiseg"] = write_tracking(session.args.longiseg, patient, pairs, session.inputs)
