"""Losses on cases small enough to compute by hand, and against a plain double loop."""

import math

import pytest
import torch
import torch.nn.functional as F

from Training.losses.infonce import info_nce
from Training.losses.supcon import prototypical_supcon


def test_info_nce_by_hand():
    positive = torch.tensor([[0.9]])
    negatives = torch.tensor([[0.1, float("-inf")]])
    expected = -math.log(math.exp(9) / (math.exp(9) + math.exp(1)))
    assert info_nce(positive, negatives, 0.1).item() == pytest.approx(expected, rel=1e-4)


def plain_supcon(features, labels, temperature):
    """Paper eq. 2 term by term."""
    per_class = []
    for label in sorted(set(labels.tolist()) - {0}):
        members = features[labels == label]
        prototype = members.mean(0)
        terms = []
        for x in members:
            log_sum = torch.logsumexp(torch.stack([prototype @ y / temperature for y in features]), 0)
            terms.append(log_sum - prototype @ x / temperature)
        per_class.append(torch.stack(terms).mean())
    return torch.stack(per_class).mean()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_supcon_equals_the_double_loop(temperature):
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(60, 8, generator=generator), dim=1).double()
    labels = torch.randint(0, 4, (60,), generator=generator)
    assert prototypical_supcon(features, labels, temperature).item() == pytest.approx(
        plain_supcon(features, labels, temperature).item(), abs=1e-9
    )


def test_supcon_gradient_is_the_numerical_one():
    generator = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(12, 4, generator=generator), dim=1).double().requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 0, 1])
    assert torch.autograd.gradcheck(lambda f: prototypical_supcon(f, labels, 0.5), (features,))


def test_supcon_without_labels_is_zero_and_differentiable():
    features = torch.randn(5, 3, requires_grad=True)
    loss = prototypical_supcon(features, torch.zeros(5, dtype=torch.long), 0.1)
    loss.backward()
    assert loss.item() == 0


def test_a_class_absent_from_the_batch_changes_nothing():
    features = F.normalize(torch.randn(30, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    dense = torch.arange(30) % 4
    # Ids 1 and 117 of a hundred classes, the others absent: the mean is over the classes that occur.
    sparse = torch.tensor([0, 1, 50, 117])[dense]
    assert torch.equal(prototypical_supcon(features, sparse, 0.5), prototypical_supcon(features, dense, 0.5))


def test_supcon_equals_the_reference_vectors(shared):
    import numpy as np

    stored = np.load(shared / "reference" / "losses.npz")
    features = torch.tensor(stored["supcon_feat"])[:, 0]
    labels = torch.tensor(stored["supcon_labels"]).reshape(-1)
    for temperature, expected in ((0.1, 4.7082486), (0.5, 5.7566690)):
        assert prototypical_supcon(features, labels, temperature).item() == pytest.approx(expected, abs=1e-5)
