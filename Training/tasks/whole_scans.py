"""The training scans as wholes: where negatives beyond the crops come from, and another patient's points are sought.

*Coarse* maps of all scans are embedded anew every so many steps by the averaged network, as matching would see them.
A *fine* map of a whole scan would cost as much as dozens of steps; instead the fine vectors of the crops drawn since
the last renewal are kept, which by and by cover the scan. Both are emptied and filled at the same steps, so that a run
resumed there goes on as if nothing had happened.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

import torch

from SAMv2Core.network.lite import LiteNet
from Training.data.index import Index
from Training.losses.infonce import Far
from Training.patients.link import embed
from Training.views.pairs import Level

N_KEPT = 1500  # fine voxels of a view
N_VIEWS = 24  # of a scan, the newest


class WholeScans:
    """See the module's text; empty until the first :meth:`refresh`.

    :param names: of the training scans.
    """

    def __init__(self, index: Index, names: Sequence[str]) -> None:
        self._index = index
        self._names = tuple(names)
        self._coarse: Dict[str, Far] = {}
        self._fine: Dict[str, List[Far]] = {}

    @property
    def is_empty(self) -> bool:
        return not self._coarse

    def refresh(self, net: LiteNet) -> None:
        """Embed all scans with a network in evaluation mode; forget the fine vectors."""
        device = next(net.parameters()).device
        for name in self._names:
            scan = embed(net, self._index, self._index[name])
            points = torch.from_numpy(scan.points).float().to(device)
            self._coarse[name] = Far(scan.vectors.clone(), points)  # bfloat16: a clone is no inference tensor
        self._fine.clear()

    def coarse(self, name: str) -> Optional[Far]:
        """The whole scan at 8 mm, or None."""
        found = self._coarse.get(name)
        return None if found is None else Far(found.vectors.float(), found.points)

    def fine(self, name: str) -> Optional[Far]:
        """What is known of the scan at 4 mm, or None."""
        views = self._fine.get(name)
        if not views:
            return None
        return Far(torch.cat([v.vectors for v in views]).float(), torch.cat([v.points for v in views]))

    @torch.no_grad()
    def keep(self, name: str, features: torch.Tensor, level: Level, generator: torch.Generator) -> None:
        """Keep fine vectors (C, d, h, w) of a view of the scan."""
        index = torch.nonzero(level.body.reshape(-1))[:, 0]
        index = index[torch.randperm(len(index), generator=generator)[:N_KEPT]]
        vectors = features.detach().reshape(features.shape[0], -1).T[index.to(features.device)]
        views = self._fine.setdefault(name, [])
        views.append(Far(vectors.bfloat16(), level.points.reshape(-1, 3)[index].to(features.device)))
        del views[:-N_VIEWS]
