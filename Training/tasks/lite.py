"""The light recipe (ours) as a task of the engine; draws and losses are those of :mod:`Training.tasks.lite_losses`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from SAMv2Core.errors import UsageError
from SAMv2Core.models.checkpoints import load_state
from SAMv2Core.network.build import build_network
from SAMv2Core.network.lite import LiteConfig
from Training.data.index import LATTICE_MM, Entry, Index
from Training.engine.recipe import Recipe
from Training.engine.task import Autocast, Averaged, Batch, Report, batch_rng
from Training.export import trained_state
from Training.patients.known_points import PATHOLOGY, exact, known_points
from Training.tasks import lite_losses
from Training.tasks.landmark_error import KnownPoints
from Training.tasks.networks import WINDOWS
from Training.tasks.whole_scans import WholeScans
from Training.views.scans import Link, RegisteredLink, Scan, load_links

_VALIDATION_STREAM = 17
_MIN_BODY = 500  # voxels of 4 mm


class CpuBatch(Batch):
    """A batch whose geometry stays on the CPU: :func:`Training.tasks.lite_losses.forward_losses` moves what it
    needs."""

    def to(self, device: Any, **_: Any) -> Batch:
        return self


class LiteTask:
    """See the module's text.

    :raises InputError: no scans of the recipe's groups in the index, or no 4 mm arrays of them.
    """

    def __init__(self, recipe: Recipe, index: Index, seed: int, precision: str) -> None:
        if recipe.network.narrow != 1 or recipe.network.resnet18 is not None:
            raise UsageError("The light network cannot be narrowed or inflated.", "Leave network.* at its defaults.")
        self.recipe = recipe
        self.seed = seed
        self.bf16 = precision == "bf16"
        self.options = recipe.lite
        self.wide_views = replace(self.options.views, context_size=self.options.wide.context_size)
        entries = [e for e in index.select(recipe.data.groups, "train") if e.modality in self.options.modalities]
        self.scans = self._weighed(load_entries(index, entries))
        groups = {scan.group for scan in self.scans}
        self.held_out = self._weighed(
            load_entries(
                index,
                [
                    e
                    for e in index.entries
                    if e.split == "val" and e.group in groups and e.modality in self.options.modalities
                ],
            )
        )
        self.links: Dict[Tuple[str, str], Link] = dict(load_links(recipe.lite.links)) if recipe.lite.links else {}
        self.links.update(partner_links(index, self.scans + self.held_out))
        self.landmarks = KnownPoints(index, self.options.modalities)
        self.whole = WholeScans(index, [scan.name for scan in self.scans])
        self.shared = lite_losses.SharedPoints(self.scans, self.options.landmarks.partners)

    def _weighed(self, scans: List[Scan]) -> List[Scan]:
        """Weights: the recipe's share of each group, within it the root of the body's size."""
        totals: Dict[str, float] = {}
        for scan in scans:
            totals[scan.group] = totals.get(scan.group, 0.0) + len(scan.body_index) ** 0.5
        for scan in scans:
            share = self.options.groups.get(scan.group.split("/")[0], 1.0 / len(totals))
            scan.weight = share * len(scan.body_index) ** 0.5 / totals[scan.group]
        return scans

    def build_network(self) -> nn.Module:
        net = build_network("lite", LiteConfig(windows=WINDOWS[self.options.windows]))
        if self.recipe.network.start is not None:
            state, found, _ = trained_state(self.recipe.network.start)
            if found != "lite":
                raise UsageError(f"{self.recipe.network.start} holds a network {found}.", "Start from a light one.")
            load_state(net, lite_losses.widen(state, net), self.recipe.network.start)  # type: ignore[arg-type]
        return net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def before_step(self, step: int, averaged: Averaged) -> None:
        """Embed the training scans anew where it is time, and at the first step of a resumed run."""
        every = self.options.refresh
        if every and (step % every == 0 or self.whole.is_empty):
            with averaged() as net:
                self.whole.refresh(net)  # type: ignore[arg-type]

    def draw(self, step: int, group: int) -> Batch:
        rng = batch_rng(self.seed, step, group)
        return self._draw(self.scans, rng, is_wide=rng.random() < self.options.wide.share)

    def _draw(self, scans: List[Scan], rng: np.random.Generator, is_wide: bool = False) -> Batch:
        seed = int(rng.integers(2**31))
        generator = torch.Generator().manual_seed(seed)
        views = self.wide_views if is_wide else self.options.views
        chances = self.options.cross, self.options.landmarks.seed
        with torch.no_grad():
            pair, name = lite_losses.draw_pair(scans, self.links, chances[0], rng, generator, views, chances[1])
        return CpuBatch({"pair": pair, "is_wide": is_wide}, seed, name)

    def losses(self, net: nn.Module, batch: Batch, step: int, autocast: Autocast) -> Dict[str, torch.Tensor]:
        detail = step >= self.options.context_only and not batch.content["is_wide"]
        whole = self.whole if self.options.refresh else None
        return {name: loss for name, (loss, _) in self._forward(net, batch, detail, whole).items()}

    def _forward(
        self, net: Any, batch: Batch, detail: bool, whole: Optional[WholeScans] = None
    ) -> Dict[str, Tuple[torch.Tensor, float]]:
        generator = torch.Generator().manual_seed(batch.seed + 1)
        return lite_losses.forward_losses(
            net, batch.content["pair"], self.options, generator, detail, self.bf16, whole, self.shared
        )

    @torch.no_grad()
    def validate(self, net: nn.Module, device: torch.device, pictures: bool) -> Report:
        """The light losses' own retrieval: share of anchors whose positive beats all negatives.

        And, where the index has them, the error at known points (:mod:`Training.tasks.landmark_error`).
        """
        rates: Dict[str, List[float]] = {}
        for number in range(self.recipe.validation.pairs if self.held_out else 0):
            batch = self._draw(self.held_out, np.random.default_rng([_VALIDATION_STREAM, number]))
            for name, (_, rate) in self._forward(net, batch, detail=True).items():
                if rate == rate:  # the semantic loss has none
                    rates.setdefault(f"{name}_rate", []).append(rate)
        figures = {name: float(np.mean(found)) for name, found in rates.items()}
        figures.update(self.landmarks.figures(net))  # type: ignore[arg-type]
        return Report(figures)


def load_entries(index: Index, entries: Sequence[Entry]) -> List[Scan]:
    """Entries of an index as the light recipe's scans; those with next to no body are left out.

    :raises InputError: an entry without 4 mm arrays.
    """
    scans = []
    for entry in entries:
        body4 = np.array(index.array(entry.body_4mm))
        body_index = np.argwhere(body4 > 0)[:, ::-1].astype(np.float32)
        if len(body_index) < _MIN_BODY:
            continue
        labels = None if entry.labels is None else np.array(index.array(entry.labels))
        pathology = [int(n) for n, name in (entry.label_names or {}).items() if name in PATHOLOGY]
        ids = frozenset(int(n) for n in entry.label_names or {} if int(n) not in pathology)
        if labels is not None and pathology:
            labels[np.isin(labels, pathology)] = 0
        image, image4 = (np.array(index.array(path)) for path in (entry.image, entry.image_4mm))  # in memory, writable
        origin = np.array(entry.origin_lps)
        known = exact(known_points(index, entry)) if entry.modality == "ct" else {}
        scans.append(
            Scan(
                entry.name, image, image4, body4, body_index, labels, entry.group, 0.0, entry.modality, origin, known,
                ids if labels is not None else frozenset(),
            )
        )  # fmt: skip
    return scans


def partner_links(index: Index, scans: Sequence[Scan]) -> Dict[Tuple[str, str], Link]:
    """Both directions of every registered pair of the index, by their rigid or affine part."""
    by_name = {scan.name: scan for scan in scans}
    links: Dict[Tuple[str, str], Link] = {}
    for scan in scans:
        entry = index[scan.name]
        if entry.to_partner is None or entry.weight == 0 or entry.partner not in by_name:
            continue
        other = index[str(entry.partner)]
        to_mm = np.diag([LATTICE_MM] * 3 + [1.0])
        matrix = to_mm @ other.grid.lps_to_ijk @ entry.to_partner @ entry.grid.ijk_to_lps @ np.linalg.inv(to_mm)
        for pair, m in (((scan.name, other.name), matrix), ((other.name, scan.name), np.linalg.inv(matrix))):
            links[pair] = RegisteredLink(torch.from_numpy(m).float(), by_name[pair[1]].body4)
    return links
