"""Error at known points of held-out patients, measured while a light network trains (the learning curve's figure).

    python -m Training.tasks.landmark_error WEIGHTS --data INDEX [--templates train|val] [--queries train|val]

*Between patients* (CT): templates are the held-out scans and the training scans with hand-placed landmarks, queries the
held-out scans of the same group; points are sure landmarks and centroids of whole labels. *MR in CT* (for networks of
both): body points of each held-out MR in the CT that it is registered to. The coarse head's nearest neighbor on its
8 mm lattice counts: a few seconds instead of minutes, and what training changes most. The figures of a finished model
come from ``Testing/benchmarks/accuracy.py``.

The command asks the same of other sides: ``--templates train --queries train`` tells how well a network knows the
patients that it was trained on. WEIGHTS is a weights file, or a checkpoint of a light run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from SAMv2Core.network.device import resolve_device
from SAMv2Core.network.lite import CT_WINDOWS, LiteNet
from Training.data.index import Entry, Index, partner_points, read_index
from Training.engine.command import finish
from Training.export import load_trained
from Training.patients.link import Embedded, embed, landmark_path, nearest
from Training.views.geometry import DETAIL_MM

logger = logging.getLogger("Training")

N_PARTNER_POINTS = 300  # per pair
MR_IN_CT = "mr_in_ct"
BOTH = ("train", "val")


class KnownPoints:
    """The scans of an index whose known points can be compared; nothing is read before :meth:`errors`.

    :param modalities: of the network; with "mr" the pairs of CT and MR are compared instead of patients.
    :param templates: splits whose scans are templates. :param queries: splits whose scans are queries.
    """

    def __init__(
        self,
        index: Index,
        modalities: Sequence[str] = ("ct",),
        templates: Sequence[str] = BOTH,
        queries: Sequence[str] = ("val",),
    ) -> None:
        self.index = index
        self.templates = templates
        self.queries = queries
        self.by_group: Dict[str, List[Entry]] = {}
        self.pairs: List[Tuple[Entry, Entry]] = []
        for entry in index.entries:
            if "mr" in modalities:
                if entry.modality == "mr" and entry.split in queries and entry.to_partner is not None:
                    self.pairs.append((entry, index[str(entry.partner)]))
                continue
            held_out = entry.split == "val" and (entry.labels is not None or landmark_path(entry).exists())
            if entry.modality == "ct" and (held_out or landmark_path(entry).exists()):
                self.by_group.setdefault(entry.group, []).append(entry)

    def errors(self, net: LiteNet) -> Dict[str, np.ndarray]:
        """(N,) mm per group, all ordered pairs, and :data:`MR_IN_CT`; what has no pair is left out."""
        found = {group: self._group_errors(net, group) for group in self.by_group}
        if self.pairs:
            found[MR_IN_CT] = np.concatenate([partner_errors(net, self.index, *pair) for pair in self.pairs])
        return {group: errors for group, errors in found.items() if len(errors)}

    def _group_errors(self, net: LiteNet, group: str) -> np.ndarray:
        embedded = {entry.name: embed(net, self.index, entry) for entry in self.by_group[group]}
        errors: List[float] = []
        for query in (entry.name for entry in self.by_group[group] if entry.split in self.queries):
            for template in (entry.name for entry in self.by_group[group] if entry.split in self.templates):
                if template != query:
                    errors += _pair_errors(embedded[template], embedded[query])
        return np.array(errors)


def partner_errors(net: LiteNet, index: Index, mr: Entry, ct: Entry) -> np.ndarray:
    """(N,) mm: body points of an MR, always the same ones, looked for in the CT; of those that the CT shows."""
    asked, shown = embed(net, index, mr), embed(net, index, ct)
    truth = partner_points(index, mr, mr.grid.to_lps(asked.points / DETAIL_MM))
    rows = np.flatnonzero(ct.grid.contains(truth))
    rows = rows[np.linspace(0, len(rows) - 1, min(N_PARTNER_POINTS, len(rows))).astype(int)]
    columns, _ = nearest(asked.vectors[torch.from_numpy(rows)], shown.vectors)
    return np.linalg.norm(ct.grid.to_lps(shown.points[columns] / DETAIL_MM) - truth[rows], axis=1)


def _pair_errors(a: Embedded, b: Embedded) -> List[float]:
    names = [name for name in a.known if name in b.known]
    if not names:
        return []
    asked, truth = (np.array([side.known[name] for name in names]) for side in (a, b))
    rows = np.linalg.norm(a.points[None] - asked[:, None], axis=2).argmin(axis=1)
    found, _ = nearest(a.vectors[torch.from_numpy(rows)], b.vectors)
    return [float(error) for error in np.linalg.norm(b.points[found] - truth, axis=1)]


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
            for group, errors in points.errors(net).items():  # type: ignore[arg-type]
                wrong = 100 * float((errors > 40).mean())
                logger.info(
                    "%s: %d points, median %.1f mm, mean %.1f mm, %.0f %% beyond 40 mm",
                    *(group, len(errors), float(np.median(errors)), float(errors.mean()), wrong),
                )

    return finish(work, args.weights)


if __name__ == "__main__":
    sys.exit(main())
