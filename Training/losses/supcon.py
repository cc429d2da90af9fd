"""The prototypical supervised contrastive loss of the semantic head (arXiv 2311.15111, eq. 2)."""

from __future__ import annotations

import torch


def prototypical_supcon(features: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Prototypical supervised contrastive loss, paper eq. 2; cost O(voxels x classes), not O(voxels^2).

    Each class's prototype c is the mean of its features (not normalised again, as in the official code); its term is
    the mean over its voxels x of ``-log softmax(c . x / temperature)``, where the softmax runs over *all* voxels:
    background (label 0) enters the denominator only. The loss is the mean over classes. The paper states a
    temperature of 0.5, the official configuration uses 0.1.

    :param features: (N, C) L2-normalised.
    :param labels: (N,) integer; 0 is background.
    :param temperature: divides the dot products.
    :return: scalar; 0 (with gradient) when no voxel is labelled.
    """
    classes, index = torch.unique(labels[labels > 0], return_inverse=True)
    if len(classes) == 0:
        return features.sum() * 0.0
    foreground = features[labels > 0]
    counts = torch.zeros(len(classes), dtype=features.dtype, device=features.device)
    counts.index_add_(0, index, torch.ones_like(index, dtype=features.dtype))
    sums = torch.zeros(len(classes), features.shape[1], dtype=features.dtype, device=features.device)
    prototypes = sums.index_add(0, index, foreground) / counts[:, None]
    log_denominator = torch.logsumexp(prototypes @ features.T / temperature, dim=1)
    # The mean over a class's voxels of c . x / T is c . c / T, since c is their mean.
    return (log_denominator - (prototypes * prototypes).sum(1) / temperature).mean()
