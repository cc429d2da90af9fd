"""Error at known points of held-out patients, measured while a light network trains (the learning curve's figure).

    python -m Training.tasks.landmark_error WEIGHTS --data INDEX [--templates train|val] [--queries train|val]

*Between patients* (CT): templates are all scans of a group with known points, queries the held-out ones; points are
sure landmarks, or centroids of whole labels where a scan has none. Landmarks are told by region, domes apart from all
others (:func:`Training.data.landmarks.region_of`). *MR in CT* (for networks of both): body points of each held-out MR
in the CT that it is registered to. The coarse head's nearest neighbor on its 8 mm lattice counts: a few seconds instead
of minutes, and what training changes most. The figures of a finished model come from
``Testing/benchmarks/accuracy.py``.

With queries of training patients (``train_...``, ``--queries train``) the same tells how well a network knows the
patients that it was trained on. WEIGHTS is a weights file, or a checkpoint of a light run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.network.device import resolve_device
from SAMv2Core.network.lite import CT_WINDOWS, LiteNet
from Training.data.index import Entry, Index, partner_points, read_index
from Training.data.landmarks import DOMES, other_side, region_of
from Training.engine.command import finish
from Training.export import load_trained
from Training.patients.link import Embedded, embed, nearest
from Training.views.geometry import DETAIL_MM

logger = logging.getLogger("Training")

N_PARTNER_POINTS = 300  # per pair
MR_IN_CT = "mr_in_ct"
BOTH = ("train", "val")
FAR_MM = 40.0


class Found(NamedTuple):
    """A known point searched in another scan.

    :param split: of the query.
    :param confused: nearer to the point of the other side than to the true one; None for points without sides.
    """

    group: str
    split: str
    template: str
    query: str
    label: str
    error_mm: float
    confused: Optional[bool] = None

    @property
    def region(self) -> str:
        """Of a landmark; of a label the group."""
        return self.group if self.label.startswith("label ") else region_of(self.label)


class KnownPoints:
    """The scans of an index whose known points can be compared; nothing is read before :meth:`find`.

    :param modalities: of the network; with "mr" the pairs of CT and MR are compared instead of patients.
    :param templates: splits whose scans are templates. :param queries: splits whose scans are queries.
    """

    def __init__(
        self,
        index: Index,
        modalities: Sequence[str] = ("ct",),
        templates: Sequence[str] = BOTH,
        queries: Sequence[str] = BOTH,
    ) -> None:
        self.index = index
        self.templates = templates
        self.queries = queries
        self.by_group: Dict[str, List[Entry]] = {}
        self.pairs: List[Tuple[Entry, Entry]] = []
        for entry in index.entries:
            if "mr" in modalities:
                if entry.modality == "mr" and entry.split == "val" and entry.to_partner is not None:
                    self.pairs.append((entry, index[str(entry.partner)]))
                continue
            held_out = entry.split == "val" and (entry.labels is not None or entry.landmarks)
            if entry.modality == "ct" and (held_out or entry.landmarks):
                self.by_group.setdefault(entry.group, []).append(entry)

    def find(self, net: LiteNet) -> List[Found]:
        """Every known point of every ordered pair."""
        found: List[Found] = []
        for entries in self.by_group.values():
            embedded = {entry.name: embed(net, self.index, entry) for entry in entries}
            for query in entries:
                for template in entries if query.split in self.queries else ():
                    if template.name != query.name and template.split in self.templates:
                        found += search_known(template, query, embedded[template.name], embedded[query.name])
        for mr, ct in self.pairs:
            errors = partner_errors(net, self.index, mr, ct)
            found += [Found(MR_IN_CT, "val", mr.name, ct.name, f"label {n}", float(e)) for n, e in enumerate(errors)]
        return found

    def figures(self, net: LiteNet) -> Dict[str, float]:
        """Median and mean (mm) by group (domes apart) and region of held-out queries, and ``train_...`` of others."""
        figures: Dict[str, float] = {}
        for name, part in by_name(self.find(net)).items():
            errors = np.array([one.error_mm for one in part])
            figures[f"{name}_median_mm"] = float(np.median(errors))
            figures[f"{name}_mean_mm"] = float(np.mean(errors))
            sided = [one.confused for one in part if one.confused is not None]
            if sided and name.endswith("ct"):
                figures[f"{name}_left_right"] = float(np.mean(sided))
        return figures


def by_name(found: Sequence[Found]) -> Dict[str, List[Found]]:
    """Groups (domes left out) and regions, those of training queries with ``train_`` before."""
    parts: Dict[str, List[Found]] = {}
    for one in found:
        before = "" if one.split == "val" else "train_"
        if one.region != DOMES:
            parts.setdefault(f"{before}{one.group}", []).append(one)
        if one.region != one.group:
            parts.setdefault(f"{before}{one.group}_{one.region}", []).append(one)
    return parts


def partner_errors(net: LiteNet, index: Index, mr: Entry, ct: Entry) -> np.ndarray:
    """(N,) mm: body points of an MR, always the same ones, looked for in the CT; of those that the CT shows."""
    asked, shown = embed(net, index, mr), embed(net, index, ct)
    truth = partner_points(index, mr, mr.grid.to_lps(asked.points / DETAIL_MM))
    rows = np.flatnonzero(ct.grid.contains(truth))
    rows = rows[np.linspace(0, len(rows) - 1, min(N_PARTNER_POINTS, len(rows))).astype(int)]
    columns, _ = nearest(asked.vectors[torch.from_numpy(rows)], shown.vectors)
    return np.linalg.norm(ct.grid.to_lps(shown.points[columns] / DETAIL_MM) - truth[rows], axis=1)


def search_known(template: Entry, query: Entry, a: Embedded, b: Embedded) -> List[Found]:
    """Every point known in both scans, from the first in the second."""
    names = [name for name in a.known if name in b.known]
    if not names:
        return []
    asked, truth = (np.array([side.known[name] for name in names]) for side in (a, b))
    rows = np.linalg.norm(a.points[None] - asked[:, None], axis=2).argmin(axis=1)
    found, _ = nearest(a.vectors[torch.from_numpy(rows)], b.vectors)
    results = []
    for name, place, true in zip(names, b.points[found], truth):
        error = float(np.linalg.norm(place - true))
        other = b.known.get(other_side(name) or "")
        confused = None if other is None else bool(np.linalg.norm(place - other) < error)
        split = str(query.split)
        results.append(Found(query.group, split, template.name, query.name, name, error, confused))
    return results


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--templates", choices=BOTH, nargs="+", default=BOTH)
    parser.add_argument("--queries", choices=BOTH, nargs="+", default=("val",))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)

    def work() -> None:
        net = load_trained(args.weights, "lite").to(resolve_device(args.device))
        index = read_index(args.data)
        both = net.config.windows != CT_WINDOWS  # type: ignore[union-attr]
        for modalities in (("ct",), ("ct", "mr")) if both else (("ct",),):
            points = KnownPoints(index, modalities, args.templates, args.queries)
            for name, part in by_name(points.find(net)).items():  # type: ignore[arg-type]
                errors = np.array([one.error_mm for one in part])
                wrong = 100 * float((errors > FAR_MM).mean())
                logger.info(
                    "%s: %d points, median %.1f mm, mean %.1f mm, %.0f %% beyond 40 mm",
                    *(name, len(errors), float(np.median(errors)), float(errors.mean()), wrong),
                )

    return finish(work, args.weights)


if __name__ == "__main__":
    sys.exit(main())
