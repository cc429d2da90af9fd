"""The demo: real CTs from the package index, landmarks matched, pictures a reader takes in at a glance.

:func:`run` is all that the command line calls. Scans come out of two wheels (:mod:`~SAMv2Core.demo.fetch`), landmarks
from a label map (:mod:`~SAMv2Core.demo.landmarks`), the other patients and what is seen in them from
:mod:`~SAMv2Core.demo.patients`; :mod:`~SAMv2Core.demo.tour` is the course of events. Without matplotlib
(extra ``demo``) everything but the pictures is made.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from SAMv2Core.errors import UsageError
from SAMv2Core.progress import Progress

if TYPE_CHECKING:
    from SAMv2Core.io.volume import Volume

__all__ = ["DemoResult", "run"]

HOW_TO_GET_PICTURES = "No pictures were made: matplotlib is not installed. Get it with: pip install 'samv2[demo]'"


@dataclass(frozen=True)
class DemoResult:
    """What a demo made.

    :param output: the folder.
    :param page: the HTML page to open.
    :param data: everything measured, as plain data for a report.
    """

    output: Path
    page: Path
    data: Dict[str, Any] = field(default_factory=dict)


def run(
    output: Union[str, Path],
    model: Any,
    *,
    template: Optional[Volume] = None,
    query: Optional[Volume] = None,
    points: Optional[Tuple[Sequence[str], np.ndarray]] = None,
    modality_template: str = "auto",
    modality_query: str = "auto",
    method: str = "fixed-point",
    precision: str = "auto",
    max_memory_gib: Optional[float] = None,
    cache: Any = None,
    data_folder: Optional[Union[str, Path]] = None,
    with_pictures: bool = True,
    progress: Optional[Progress] = None,
    say: Callable[[str], None] = lambda line: None,
) -> DemoResult:
    """Match landmarks between real scans and write tables, pictures, points and a page into ``output``.

    :param output: folder; made when missing.
    :param model: a loaded model (:func:`SAMv2Core.load_model`).
    :param template: the user's own scan, together with ``query``; without them the demo's scans are fetched.
    :param points: labels and (N, 3) LPS mm in the user's template; without them nine points are spread
        through the body.
    :param data_folder: where the demo's scans are kept; the user's cache folder by default.
    :param progress: called with (fraction 0..1, text); may raise :class:`~SAMv2Core.errors.Cancelled`.
    :param say: gets the demo's text, line by line (tables, summaries, licenses).
    :raises UsageError: one of template and query is missing, or points without them.
    :raises InputError: the demo's scans cannot be fetched, or a scan makes no sense.
    :raises OutputError: the folder cannot be written.
    """
    from SAMv2Core.demo import outputs, tour
    from SAMv2Core.demo.page import write_page

    if (template is None) != (query is None):
        raise UsageError("The demo needs both of your scans.", "Give --template and --query, or neither.")
    if points is not None and template is None:
        raise UsageError("Points belong to a template.", "Give --template and --query with --points.")
    drawing = with_pictures and importlib.util.find_spec("matplotlib") is not None
    started = time.perf_counter()
    trip = tour.Tour(
        output=outputs.open_folder(Path(output)),
        model=model,
        method=method,
        embed_options={"precision": precision, "max_memory_gib": max_memory_gib, "cache": cache},
        with_pictures=drawing,
        progress=progress,
        say=say,
    )
    if template is not None and query is not None:
        tour.show_own(trip, template, query, points, (modality_template, modality_query))
    else:
        tour.show_all(trip, None if data_folder is None else Path(data_folder))
    trip.step(1.0, "writing the page")
    trip.seconds["total"] = time.perf_counter() - started
    page, data = write_page(trip)
    say("")
    if with_pictures and not drawing:
        say(HOW_TO_GET_PICTURES)
    say(f"Done in {trip.seconds['total']:.0f} s. Open {page}")
    return DemoResult(trip.output, page, data)
