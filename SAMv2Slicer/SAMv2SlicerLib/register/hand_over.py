"""Handing a registration over to a module that refines it by intensities: Elastix, or ANTs of either extension.

Nothing of those extensions is needed or called: the module's panel is opened and its selectors are set, as the user
would. The names are those of SlicerElastix, SlicerANTs (antsRegistration) and SlicerANTsPy (ANTsRegistration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import slicer
import slicer.util


@dataclass(frozen=True)
class Target:
    """A module, and what its selectors are called.

    :param kind: combo box that says where to begin, empty when there is none; :param kindIndex: "at a transform".
    """

    module: str
    title: str
    fixed: str
    moving: str
    start: str
    kind: str = ""
    kindIndex: int = 0


_ANTS = ("fixedImageNodeComboBox", "movingImageNodeComboBox", "initialTransformNodeComboBox")
_ANTS_KIND = ("initialTransformTypeComboBox", 1)

TARGETS = (
    Target("Elastix", "Elastix", "fixedVolumeSelector", "movingVolumeSelector", "initialTransformSelector"),
    Target("antsRegistration", "ANTs", *_ANTS, *_ANTS_KIND),
    Target("ANTsRegistration", "ANTsPy", *_ANTS, *_ANTS_KIND),
)


def installed() -> List[Target]:
    """The targets that this Slicer has; none without a window.

    By exact names: in slicer.modules, where they are in lower case, the two ANTs modules are one.
    """
    names = slicer.util.moduleNames() if slicer.util.mainWindow() is not None else ()
    return [target for target in TARGETS if target.module in names]


def startFrom(target: Target, transformNode, fixedNode, movingNode) -> bool:
    """Open a module with two scans and a transform as its start; False when its panel is not the one that we know.

    The moving scan is under that transform already, and these modules work on the scans' own voxels: so they begin
    where the scans lie now.
    """
    widgets = slicer.util.getModuleWidget(target.module).ui
    names = (target.fixed, target.moving, target.start)
    selectors = [getattr(widgets, name, None) for name in names]
    kind = getattr(widgets, target.kind, None) if target.kind else None
    slicer.util.selectModule(target.module)
    if None in selectors or (target.kind and kind is None):
        return False
    for selector, node in zip(selectors[:2], (fixedNode, movingNode)):
        selector.setCurrentNode(node)
    if kind is not None:
        kind.currentIndex = target.kindIndex  # before the transform: it enables that selector
    selectors[2].setCurrentNode(transformNode)
    return True
