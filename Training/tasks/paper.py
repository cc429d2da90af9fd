"""The paper's four recipes as one task: self-supervised pairs, labelled scans, registered pairs (secs. 3.1 to 3.3).

``sam`` and ``aggsam`` draw the first only, ``sampp`` adds the second, ``crosssam`` the third; which are drawn in a
step is the recipe's ``parts``. Batch normalization sees one group as in the official code: all patches of a part at
once, and the two scans of a registered pair one after the other.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from SAMv2Core.errors import UsageError
from Training.data.index import Entry, Index
from Training.engine.recipe import Recipe
from Training.engine.task import Autocast, Averaged, Batch, Report, batch_rng
from Training.losses.appearance import ViewLevel, coarse_appearance_loss, fine_appearance_loss
from Training.losses.supcon import prototypical_supcon
from Training.tasks.maps import enlarged, heads, levels
from Training.tasks.networks import build
from Training.tasks.retrieval import validate
from Training.views.patches import Patch, ScanReader, draw_patches, render
from Training.views.registered import draw_registered_pair
from Training.views.semantic import draw_labelled_scans

_SCHEDULE_STREAM = 11


class PaperTask:
    """See the module's text.

    :param recipe: with ``task: paper``.
    :param index: prepared scans.
    :raises InputError: the index lacks what the recipe's parts need, or an array is missing or of a wrong shape.
    """

    def __init__(self, recipe: Recipe, index: Index, seed: int) -> None:
        self.recipe = recipe
        self.seed = seed
        self.reader = ScanReader(index)
        shares = recipe.parts.shares
        self.parts = [name for name, share in shares.items() if share > 0]
        self._shares = np.array([shares[name] for name in self.parts])
        groups = recipe.data.groups
        self._scans: Dict[str, Tuple[Entry, ...]] = {}
        if "appearance" in self.parts:
            for modality, share in (("ct", recipe.data.ct), ("mr", recipe.data.mr)):
                if share > 0:
                    self._scans[modality] = index.select(groups, "train", modality)
        self._labelled = index.select(groups, "train", labelled=True) if "semantic" in self.parts else ()
        self._pairs = index.pairs("train", registered=True) if "registered" in self.parts else ()
        self._check()

    def _check(self) -> None:
        if "semantic" in self.parts and self.recipe.network.architecture != "sampp":
            raise UsageError("Only the network sampp has a semantic head.", "Set network.architecture to sampp.")
        if "appearance" in self.parts and not self._scans:
            raise UsageError("The recipe draws no scans: data.ct and data.mr are 0.", "Give one of them a weight.")
        # Now, not after days: headers are read, nothing else.
        used: List[Sequence[Entry]] = [self._labelled, *self._pairs, *self._scans.values()]
        for entry in {entry.name: entry for entries in used for entry in entries}.values():
            self.reader.index.check(entry)

    def build_network(self) -> nn.Module:
        return build(self.recipe.network)

    def draw(self, step: int, group: int) -> Batch:
        rng = batch_rng(self.seed, step, group)
        content = {part: getattr(self, f"_draw_{part}")(rng) for part in self.parts_of(step)}
        names = sorted({view.name for part in content.values() for view in _views(part)})
        return Batch(content, int(rng.integers(2**31)), ", ".join(names))

    def parts_of(self, step: int) -> List[str]:
        """The parts that a step trains on; the same in all processes."""
        schedule = self.recipe.parts.schedule
        if schedule == "together" or len(self.parts) == 1:
            return self.parts
        if schedule == "alternate":
            return [self.parts[step % len(self.parts)]]
        rng = np.random.default_rng([self.seed, _SCHEDULE_STREAM, step])
        return [self.parts[int(rng.choice(len(self.parts), p=self._shares / self._shares.sum()))]]

    def _draw_appearance(self, rng: np.random.Generator) -> List[Tuple[Patch, Patch]]:
        recipe = self.recipe
        weights = np.array([recipe.data.ct if modality == "ct" else recipe.data.mr for modality in self._scans])
        pairs = []
        for _ in range(recipe.run.batch):
            scans = list(self._scans.values())[int(rng.choice(len(weights), p=weights / weights.sum()))]
            entry = scans[int(rng.integers(len(scans)))]
            pairs.append(draw_patches(self.reader, entry, rng, recipe.patch, recipe.intensity))
        return pairs

    def _draw_semantic(self, rng: np.random.Generator) -> List[Patch]:
        return draw_labelled_scans(self.reader, self._labelled, rng, self.recipe)

    def _draw_registered(self, rng: np.random.Generator) -> List[Tuple[Patch, Patch]]:
        trust = np.array([ct.weight for ct, _ in self._pairs])
        chosen = rng.choice(len(self._pairs), size=self.recipe.registered.n_pairs, p=trust / trust.sum())
        return [draw_registered_pair(self.reader, *self._pairs[int(k)], rng, self.recipe) for k in chosen]

    def before_step(self, step: int, averaged: Averaged) -> None:
        """Nothing is kept between steps."""

    def losses(self, net: nn.Module, batch: Batch, step: int, autocast: Autocast) -> Dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(batch.seed)
        result: Dict[str, torch.Tensor] = {}
        for part, content in batch.content.items():
            result.update(getattr(self, f"_{part}_loss")(net, content, generator, autocast))
        return result

    def _appearance_loss(
        self, net: nn.Module, pairs: List[Tuple[Patch, Patch]], generator: torch.Generator, autocast: Autocast
    ) -> Dict[str, torch.Tensor]:
        views = [view for pair in pairs for view in pair]
        maps = heads(net, render(views), ("fine", "coarse"), autocast)
        fine, coarse = ([levels(maps[h], [getattr(v, h) for v in views])] for h in ("fine", "coarse"))
        ranking = enlarged(maps["coarse"], maps["fine"])
        recipe = self.recipe
        return {
            "fine": fine_appearance_loss(_paired(fine[0]), _paired(ranking), recipe.fine, generator),
            "coarse": coarse_appearance_loss(_paired(coarse[0]), recipe.coarse, generator),
        }

    def _semantic_loss(
        self, net: nn.Module, views: List[Patch], generator: torch.Generator, autocast: Autocast
    ) -> Dict[str, torch.Tensor]:
        semantic = heads(net, render(views), ("semantic",), autocast)["semantic"]
        used = levels(semantic, [view.fine for view in views])
        keep = [level.usable() for level in used]
        vectors = torch.cat([level.vectors[rows] for level, rows in zip(used, keep)])
        labels = torch.cat([view.labels[rows] for view, rows in zip(views, keep) if view.labels is not None])
        options = self.recipe.semantic
        return {"semantic": options.weight * prototypical_supcon(vectors, labels, options.temperature)}

    def _registered_loss(
        self, net: nn.Module, pairs: List[Tuple[Patch, Patch]], generator: torch.Generator, autocast: Autocast
    ) -> Dict[str, torch.Tensor]:
        fine: List[ViewLevel] = []
        coarse: List[ViewLevel] = []
        ranking: List[torch.Tensor] = []
        for view in (view for pair in pairs for view in pair):
            maps = heads(net, render([view]), ("fine", "coarse"), autocast)
            fine += levels(maps["fine"], [view.fine])
            coarse += levels(maps["coarse"], [view.coarse])
            ranking += enlarged(maps["coarse"], maps["fine"])
        options = self.recipe.registered
        return {
            "cross_fine": fine_appearance_loss(_paired(fine), _paired(ranking), options.fine, generator),
            "cross_coarse": coarse_appearance_loss(_paired(coarse), options.coarse, generator),
        }

    def validate(self, net: nn.Module, device: torch.device, pictures: bool) -> Report:
        return validate(net, self.reader, self.recipe, device, pictures)


def _paired(items: Sequence[Any]) -> List[Tuple[Any, Any]]:
    return [(items[k], items[k + 1]) for k in range(0, len(items), 2)]


def _views(part: Sequence[Any]) -> List[Patch]:
    return [view for item in part for view in (item if isinstance(item, tuple) else (item,))]
