"""``samv2 prior``: the latest earlier study of a patient that shows a point.

Where an earlier series lies in the study's own frame of reference, geometry decides. Where it does not, the point is
matched, as ``samv2 match`` does it, and the study counts when it is found there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np

import SAMv2Core as s
from SAMv2Core.cli import common
from SAMv2Core.errors import InputError, SAMv2Error, UnreliableResultError
from SAMv2Core.io.archive import ArchivedSeries, earlier_series, study_of

if TYPE_CHECKING:
    from SAMv2Core.cli.session import Session

GEOMETRY, MATCHING = "geometry", "matching"


def add_subparser(subparsers: Any) -> None:
    """Add ``prior`` to the parser."""
    parser = subparsers.add_parser(
        "prior", help="find the latest earlier study that shows a point", description=__doc__
    )
    parser.add_argument(
        "--point",
        required=True,
        metavar="L,P,S",
        type=common.position,
        help="mm, LPS; write --point=-12,30,80 (with =)",
    )
    common.add_input(parser, "study", "the study that the point was set in: a folder of DICOM")
    common.add_series_option(parser)
    parser.add_argument("--archive", required=True, metavar="FOLDER|DICOMDIR", help="where the earlier studies are")
    common.add_computing_options(parser)
    common.add_reporting_options(parser)
    parser.set_defaults(run=run)


def run(session: Session) -> None:
    """Read headers, ask the earlier series from the latest on; unreliable when none shows the point."""
    args = session.args
    session.declare(inputs=[args.study])
    point = np.array(args.point)
    with session.stage("read", 0.0, 0.3) as progress:
        wanted = args.series_study or args.series
        study = study_of(args.study, wanted)
        if not study.shows(point):
            raise InputError(f"The point {args.point} lies outside {args.study}.", "Give L,P,S in mm of this study.")
        candidates = earlier_series(study, args.archive, progress)
    tried: List[Dict[str, Any]] = []
    session.results["tried"] = tried
    finder = _Finder(session, study, point)
    for number, series in enumerate(candidates):
        found = finder.look(series, number, len(candidates))
        tried.append({"path": str(series.folder), "series": series.series_uid, "study_date": series.date, **found})
        if found["position"] is not None:
            session.results.update(tried[-1])
            session.say(f"{series.folder}")
            session.say(f"date: {_dashed(series.date)}; series {series.series_uid}")
            place = ", ".join(f"{value:.1f}" for value in found["position"])
            session.say(f"decided by {found['decided_by']}: the point lies at ({place}) mm there, {found['status']}")
            return
    raise UnreliableResultError(
        f"None of the patient's {len(candidates)} earlier series in {args.archive} shows the point.",
        "The report lists what was tried.",
    )


class _Finder:
    """Asks series after series; the study itself is embedded when the first of another frame comes up."""

    def __init__(self, session: Session, study: ArchivedSeries, point: np.ndarray) -> None:
        self._session, self._study, self._point = session, study, point
        self._volume: Optional[s.Volume] = None
        self._embeddings: Dict[str, s.Embedding] = {}  # of the study, by model: MR and CT may need another one

    def look(self, series: ArchivedSeries, number: int, count: int) -> Dict[str, Any]:
        """What is said of one series; ``position`` is null where it does not show the point."""
        frame = self._study.frame_of_reference_uid
        if frame and series.frame_of_reference_uid == frame:
            is_there = series.shows(self._point)
            position = [float(value) for value in self._point] if is_there else None
            status = "same frame of reference" if is_there else "outside its field of view"
            return {"decided_by": GEOMETRY, "position": position, "status": status, "confidence": 1.0}
        low, step = 0.3, 0.7 / count
        try:
            return self._match(series, f"prior_{number + 1}", low + number * step, step)
        except SAMv2Error as error:  # one odd series among many is no reason to stop
            self._session.warn(f"{series.folder}: {error.cause}")
            return {"decided_by": MATCHING, "position": None, "status": "could not be read", "confidence": None}

    def _match(self, series: ArchivedSeries, name: str, low: float, step: float) -> Dict[str, Any]:
        session = self._session
        volume = s.read_volume(series.folder, series.series_uid)
        if self._volume is None:
            self._volume = s.read_volume(self._study.folder, self._study.series_uid)
            session.add_volume("study", self._volume)
        session.add_volume(name, volume)
        setattr(session.args, f"modality_{name}", "auto")
        model = common.load_model(session, {"study": self._volume, name: volume})
        if model.info.sha256 not in self._embeddings:
            own = common.embed(session, model, "study", self._volume, low, low + 0.4 * step)
            self._embeddings[model.info.sha256] = own
        emb = common.embed(session, model, name, volume, low + 0.4 * step, low + 0.9 * step)
        (match,) = s.match(self._embeddings[model.info.sha256], emb, [common.triple(self._point)])
        position = None if match.query_lps is None else [float(value) for value in match.query_lps]
        facts = {"status": match.status, "confidence": match.confidence}
        return {"decided_by": MATCHING, "position": position, **facts}


def _dashed(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date
