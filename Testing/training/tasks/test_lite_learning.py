"""The light recipe learns: a short run on two phantoms, and it finds the places of a third one."""

from __future__ import annotations

import numpy as np
import torch

from Testing.samples.training_samples import SMALL_LITE
from Training.engine.recipe import load_recipe
from Training.tasks.lite import LiteTask

N_STEPS = 60


def test_a_held_out_phantom_is_found_better_than_by_an_untrained_network(light_phantoms):
    torch.manual_seed(0)
    task = LiteTask(load_recipe("lite-ct", SMALL_LITE), light_phantoms, 0, "fp32")
    net = task.build_network().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    untrained = retrieval_mm(task, net)
    for step in range(N_STEPS):
        task.before_step(step, lambda: evaluating(net))
        losses = task.losses(net, task.draw(step, 0), step, None)
        if losses:
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    trained = retrieval_mm(task, net)
    # Seen: 27.8 mm untrained, 8.0 trained; with positives read 40 mm off 12.8, from the own map 21.5, with near
    # negatives only 11.5.
    assert untrained > 20.0 and trained < 10.0


@torch.no_grad()
def retrieval_mm(task, net, n_pairs=8):
    """Median distance (mm) from the truth of the most similar coarse voxel of another view of the held-out phantom."""
    errors = []
    for number in range(n_pairs):
        pair = task._draw(task.held_out, np.random.default_rng([1, number])).content["pair"]
        crops = torch.stack([view.context for view in pair.views])[:, None]
        maps = net.embed_context(crops)[1].flatten(2)
        bodies = [view.coarse.body.flatten() for view in pair.views]
        points = [view.coarse.points.reshape(-1, 3)[body] for view, body in zip(pair.views, bodies)]
        shown = torch.cdist(points[0], points[1]).amin(1) < 8.0
        found = (maps[0][:, bodies[0]].T[shown] @ maps[1][:, bodies[1]]).argmax(1)
        errors.append((points[1][found] - points[0][shown]).norm(dim=1))
    return float(torch.cat(errors).median())


class evaluating:
    """The network in evaluation mode, as the loop opens it."""

    def __init__(self, net):
        self.net = net

    def __enter__(self):
        return self.net.eval()

    def __exit__(self, *_):
        self.net.train()
