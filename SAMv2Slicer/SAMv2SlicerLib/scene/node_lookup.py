"""Nodes as users name them in scripts: a node, its ID or its name."""

from __future__ import annotations

import slicer

from SAMv2Core.errors import InputError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import node_geometry


def resolve(reference, className: str):
    """A node of the scene from a node, an ID or a name.

    :raises InputError: there is no such node, or it is of another kind.
    """
    node = reference
    if isinstance(reference, str):
        node = slicer.mrmlScene.GetNodeByID(reference) or slicer.mrmlScene.GetFirstNode(reference, className)
        if node is None:
            raise InputError(texts.noNodeCause(reference), texts.noNodeRemedy())
    if className == "vtkMRMLScalarVolumeNode":
        node_geometry.checkVolumeNode(node)
    elif node is None:
        raise InputError(texts.noPointsCause(None), texts.noPointsRemedy())
    elif not node.IsA(className):
        raise InputError(*texts.wrongNode(node.GetName(), className))
    return node
