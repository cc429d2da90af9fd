"""What the engine asks of a task, and the batch that travels between them."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, Callable, ContextManager, Dict, Mapping, Optional, Protocol

import numpy as np
import torch
from torch import nn

from Training.views.patches import moved

Autocast = Callable[[], ContextManager[Any]]
"""Opens the number format of the run; the network runs inside, losses outside."""

Averaged = Callable[[], ContextManager[nn.Module]]
"""Opens the network with the moving average of its weights, in evaluation mode."""

NOTHING = "nothing"
"""Name of the loss of a batch without any."""

_PARTS = 7  # seeds: [seed, _PARTS, step, group] for batches; other streams use other second numbers


class Batch:
    """What one group of a step consists of: nested lists, dicts and dataclasses with tensors.

    Deliberately no dataclass or mapping: Fabric would convert the coordinates in it to half precision.

    :param content: by the name of the part.
    :param seed: of the random choices that the losses make.
    :param about: names of the scans, for messages.
    """

    def __init__(self, content: Mapping[str, Any], seed: int, about: str = "") -> None:
        self.content = dict(content)
        self.seed = seed
        self.about = about

    def to(self, device: Any, **_: Any) -> Batch:
        """The batch with its tensors on a device."""
        return Batch(moved(self.content, torch.device(device)), self.seed, self.about)

    def plain(self) -> Dict[str, Any]:
        """The batch as lists, dicts, tensors and numbers, to be stored."""
        return {"seed": self.seed, "about": self.about, "content": _plain(self.content)}


class Task(Protocol):
    """One kind of training; its methods are pure functions of their arguments, apart from caches of files."""

    def build_network(self) -> nn.Module:
        """A network with starting weights, drawn from torch's global generator."""

    def draw(self, step: int, group: int) -> Batch:
        """A group's batch, on the CPU; depends on the recipe's seed, the step and the group's number alone."""

    def before_step(self, step: int, averaged: Averaged) -> None:
        """Called before each step, in order: for what a task keeps between steps (nothing, as a rule)."""

    def losses(self, net: nn.Module, batch: Batch, step: int, autocast: Autocast) -> Dict[str, torch.Tensor]:
        """Scalar losses by name, to be added; empty when the batch allows none."""

    def validate(self, net: nn.Module, device: torch.device, pictures: bool) -> Report:
        """Figures on held-out scans, always the same pairs; ``net`` is in evaluation mode."""


class Report:
    """:param figures: name to number; :param pictures: name to (h, w, 3) uint8."""

    def __init__(self, figures: Dict[str, float], pictures: Optional[Dict[str, np.ndarray]] = None) -> None:
        self.figures = figures
        self.pictures = pictures or {}


class Objective(nn.Module):
    """Network and losses as one module whose forward pass gives the losses.

    Processes must agree on which parameters a step uses; wrapped like this, DistributedDataParallel sees exactly those
    that the losses reach.
    """

    def __init__(self, net: nn.Module, task: Task) -> None:
        super().__init__()
        self.net = net
        self._task = [task]  # hidden from nn.Module

    def forward(self, batch: Batch, step: int, autocast: Autocast) -> Dict[str, torch.Tensor]:
        """The losses; one of value 0 named :data:`NOTHING` where the batch allows none, since every process must go
        the way back through this module in every step."""
        with no_autocast():
            losses = self._task[0].losses(self.net, batch, step, autocast)
        return losses or {NOTHING: next(self.net.parameters()).sum() * 0.0}


@contextlib.contextmanager
def no_autocast() -> Any:
    """Full precision, whatever is open around it."""
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def batch_rng(seed: int, step: int, group: int) -> np.random.Generator:
    """The random numbers of a group: a function of these three alone, so that any run can be resumed or split."""
    return np.random.default_rng([seed, _PARTS, step, group])


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, np.ndarray):
        return torch.from_numpy(np.array(content))
    if dataclasses.is_dataclass(content):
        return {key: _plain(value) for key, value in vars(content).items()}
    is_simple = content is None or isinstance(content, (torch.Tensor, bool, int, float, str))
    return content if is_simple else repr(content)
