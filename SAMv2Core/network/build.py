"""The networks: the paper's, in the layout of the released checkpoints, and the light one of the bundled
weights.

``output.NetworkOutput`` is what every network returns, ``fuse.fuse_for_inference`` makes one faster. Every
network has ``forward``, ``forward_in_slabs``, ``peak_bytes``, ``heads``, ``level_stride``, ``embedding_dim``
and ``architecture``. Importing this package does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from SAMv2Core.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from SAMv2Core.network.lite import LiteConfig

ARCHITECTURES = ("sam", "sampp", "crosssam", "lite")


def build_network(name: str, config: Optional[LiteConfig] = None) -> nn.Module:
    """A network with fresh (random) weights, in evaluation mode.

    Parameters
    ----------
    name : {"sam", "sampp", "crosssam", "lite"}
        The first three have the layout of the released checkpoints.
    config : LiteConfig, optional
        Of the light network only.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ModelError
        No architecture of that name.

    Examples
    --------
    >>> import SAMv2Core as s
    >>> s.build_network("lite").heads
    ('fine', 'coarse', 'semantic')
    """
    if name not in ARCHITECTURES:
        raise ModelError(f"There is no network named {name!r}.", f"Use one of {', '.join(ARCHITECTURES)}.")
    if name == "lite":
        from SAMv2Core.network.lite import LiteNet

        return LiteNet(config).eval()
    from SAMv2Core.network.official import OfficialNet

    return OfficialNet(name).eval()
