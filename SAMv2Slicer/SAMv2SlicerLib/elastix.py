"""Handing a registration over to the module Elastix (extension SlicerElastix), which refines it by intensities.

Nothing of that extension is needed or called: its panel is opened and its selectors are set, as the user would.
"""

from __future__ import annotations

import slicer
import slicer.util

MODULE = "Elastix"
FIXED, MOVING, START = "fixedVolumeSelector", "movingVolumeSelector", "initialTransformSelector"


def startFrom(transformNode, fixedNode, movingNode) -> bool:
    """Open Elastix with two scans and a transform as its start; False when it is not installed or has no window.

    The moving scan is under that transform already, and Elastix works on the scans' own voxels: so it begins where the
    scans lie now.
    """
    if not hasattr(slicer.modules, MODULE.lower()) or slicer.util.mainWindow() is None:
        return False
    widgets = slicer.util.getModuleWidget(MODULE).ui
    slicer.util.selectModule(MODULE)
    for name, node in ((FIXED, fixedNode), (MOVING, movingNode), (START, transformNode)):
        selector = getattr(widgets, name, None)
        if selector is None:
            return False
        selector.setCurrentNode(node)
    return True
