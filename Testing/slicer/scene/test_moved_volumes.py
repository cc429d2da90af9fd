"""A scan that was moved since its matches were found, and one that was not."""

import json

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6-Essentials is not installed")

import slicer.util
from phantoms import addPoints, addVolume

from SAMv2SlicerLib.scene import match_list, moved_volumes

SHAPE = (7, 9, 11)


def put(node, ijkToRAS):
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.array(ijkToRAS, float)))


@pytest.fixture
def matched(scene):
    template, query = (addVolume(name, np.zeros(SHAPE, np.int16), np.eye(4)) for name in ("A", "B"))
    leftHanded = [[-2, 0, 0, 10], [0, -2, 0, 20], [0, 0, -3, 30], [0, 0, 0, 1]]
    for node in (template, query):
        put(node, leftHanded)
    points = addPoints(scene, [(0.0, 0.0, 20.0)])
    listNode = match_list.ensureMatchList(points, template, query)
    moved_volumes.remember(listNode)
    return listNode, template, query


def test_a_scan_whose_slices_are_reversed_when_it_is_read_again_was_not_moved(matched):
    listNode, template, query = matched
    put(query, [[-2, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30 - 3 * (SHAPE[0] - 1)], [0, 0, 0, 1]])
    assert moved_volumes.movedVolume(listNode) is None
    put(query, [[-2, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 31 - 3 * (SHAPE[0] - 1)], [0, 0, 0, 1]])
    assert moved_volumes.movedVolume(listNode) is query


def test_a_scan_turned_by_half_about_its_center_was_moved(matched):
    """Its box lies where it lay."""
    listNode, _, query = matched
    across = [2 * (SHAPE[2] - 1), 2 * (SHAPE[1] - 1)]
    put(query, [[2, 0, 0, 10 - across[0]], [0, 2, 0, 20 - across[1]], [0, 0, -3, 30], [0, 0, 0, 1]])
    assert moved_volumes.movedVolume(listNode) is query


@pytest.mark.parametrize("shift, isMoved", [(0.0, False), (0.5, True)])
def test_lists_of_older_scenes_remember_four_corners(matched, shift, isMoved):
    listNode, template, _ = matched
    origin, sides = np.array([10.0, 20.0, 30.0]), np.diag([-20.0, -16.0, -18.0])
    four = np.vstack([origin, origin + sides]) + [shift, 0, 0]
    listNode.SetAttribute(moved_volumes.ATTRIBUTE, json.dumps({match_list.ROLE_TEMPLATE: four.tolist()}))
    assert (moved_volumes.movedVolume(listNode) is template) == isMoved
