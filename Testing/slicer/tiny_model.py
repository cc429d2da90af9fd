"""A small seeded LiteNet behind the same contract as the bundled weights.

Random convolutions are a fair descriptor of texture, and they are equivariant to translation, so between a volume and
its shifted copy the right match is known; that is all these tests need, and they do not depend on trained weights.
"""

import functools
from typing import ClassVar

import torch

from SAMv2SlicerLib.work.engine import Engine


class Info:
    """What SAMv2Core wants to know about weights."""

    name = "tiny"
    sha256 = "0" * 64
    modalities = ("ct", "mr")
    head_weights = {"fine": 0.5, "coarse": 0.3, "semantic": 0.2}


@functools.cache
def tinyModel():
    """The one tiny model of the test process, on the CPU."""
    from SAMv2Core.embedding.model import Model
    from SAMv2Core.network.lite import LiteConfig, LiteNet

    torch.manual_seed(11)
    config = LiteConfig(
        context_channels=(8, 12, 16, 16), detail_channels=(8, 16, 16), merge_channels=16, embedding_dim=32
    )
    return Model(_whitened(LiteNet(config)), Info(), "cpu")


def _whitened(net):
    """Batch norms and head biases set from one phantom: else all vectors of a random network are nearly the same."""
    from phantoms import phantom

    from SAMv2Core.io.volume import Volume
    from SAMv2Core.preprocessing.preprocess import preprocess

    x, _ = preprocess(Volume(phantom(), torch.diag(torch.tensor([2.0, 2, 2, 1])).numpy()), "ct")
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = None  # running statistics become plain averages
    net.train()
    with torch.no_grad():
        net(x)
        net.eval()
        for head in (net.fine_head, net.coarse_head, net.semantic_head):
            means = []
            handle = head.register_forward_hook(
                lambda _, __, out, means=means: means.append(out.mean(dim=(0, 2, 3, 4)))
            )
            net(x)
            handle.remove()
            head.bias -= means[0]
    return net


class TinyEngine(Engine):
    """The engine with the tiny model under every name, and counters of what was asked of it."""

    _memory: ClassVar[dict] = {}
    """Embeddings of the whole test process by content: the same phantoms come again in nearly every test."""

    def __init__(self, remembers=True):
        super().__init__()
        self.embedded = []
        """Node IDs of the volumes that the module asked an embedding for, in order."""
        self.remembers = remembers
        self.usesDiskCache = False

    def modelFor(self, modalities):
        return "tiny"

    def loadedModel(self, name, device):
        return tinyModel()

    def _embedOne(self, item, name, device, progress):
        self.embedded.append(item.nodeID)
        key = (item.volume.array.tobytes(), item.volume.ijk_to_lps.tobytes(), item.modality)
        if key not in self._memory or not self.remembers:
            self._memory[key] = super()._embedOne(item, name, device, progress)
        progress(1.0, "")
        return self._memory[key]
