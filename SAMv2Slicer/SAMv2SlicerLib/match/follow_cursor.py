"""Follow the cursor: while the mouse moves over the template, show the same place in the query, without placing points.

Slicer has a single crosshair, so the place in the query is shown by a point of a hidden, unsaved list. As with live
matching one match is in flight at a time and the latest cursor position wins. When the match is not reliable the glyph
disappears and the views stay: a wrong place that looks right is worse than none.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.live_matching import LiveInputs
from SAMv2SlicerLib.scene import hierarchy, match_list, node_geometry, slice_views
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.worker import Job

SCROLLED_MM = 0.5
"""Less is no scrolling: views are modified for many reasons."""

GLYPH_SCALE = 2.0
"""Of a point: the place under the cursor is found at a glance."""


class CursorFollower(VTKObservationMixin):
    """Shows in the query what is under the cursor in the template, while it is on.

    :param moving: entered while views are moved.
    :ivar onError: called with each error.
    """

    def __init__(self, logic, moving: Callable[[], ContextManager[None]] = nullcontext) -> None:
        VTKObservationMixin.__init__(self)
        self._logic, self._moving = logic, moving
        self._inputs = LiveInputs()
        self._wanted: Optional[np.ndarray] = None
        self._job: Optional[Job] = None
        self._glyphID = ""
        self._isSought = False
        self.onError: Optional[Callable[[BaseException], None]] = None

    def start(self, inputs: LiveInputs) -> bool:
        """Begin to follow; False when there is no crosshair node or the inputs are incomplete.

        A quick search is used whatever was chosen for points (Engine.follow): following needs many places per second.
        """
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        self.stop()
        if crosshair is None or not inputs.isComplete():
            return False
        self._inputs = inputs
        self.addObserver(crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onCursorMoved)
        return True

    def seek(self, inputs: LiveInputs, world: np.ndarray) -> None:
        """Show where one world RAS position (3,) is; for whoever watches the cursor in its place."""
        self._inputs, self._wanted, self._isSought = inputs, world, True
        self._flush()

    def hide(self) -> None:
        """Show no place until the next one is sought."""
        self._wanted = None
        self._isSought = False
        glyph = self.glyph()
        if glyph is not None and glyph.GetDisplayVisibility():
            glyph.SetDisplayVisibility(False)

    def stop(self) -> None:
        """Stop following and remove the glyph."""
        self.removeObservers()
        self._isSought = False
        if self._job is not None:
            self._job.cancel()
        self._job, self._wanted = None, None
        glyph = slicer.mrmlScene.GetNodeByID(self._glyphID) if self._glyphID else None
        if glyph is not None:
            hierarchy.removeNode(glyph)
        self._glyphID = ""

    def isFollowing(self) -> bool:
        return bool(self.Observations) or self._isSought

    def glyph(self):
        """The hidden list with the one point, None while there is none."""
        return slicer.mrmlScene.GetNodeByID(self._glyphID) if self._glyphID else None

    def _onCursorMoved(self, crosshair, event=None) -> None:
        view = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0])  # None where the cursor is in no slice view
        if view is not None and view not in slice_views.sliceNodesShowing(self._inputs.templateNode):
            return  # over the query someone looks at the place that was found, and it must not run away
        position = [0.0, 0.0, 0.0]
        if crosshair.GetCursorPositionRAS(position):  # else it has left the view, and what it showed last stays
            self._wanted = np.array(position)
            self._flush()

    def _flush(self) -> None:
        if self._job is not None or self._wanted is None:
            return
        world, self._wanted = self._wanted, None
        try:
            self._job = self._logic.startPosition(self._inputs, world, self._show, self._onEnd)
        except SAMv2Error as error:
            if self.onError is not None:
                self.onError(error)

    def _onEnd(self, job: Job) -> None:
        if job is not self._job:
            return
        self._job = None
        if job.error is not None and not job.isCancelled() and self.onError is not None:
            self.onError(job.error)
        self._flush()

    def _show(self, computed: engine.Computed) -> Any:
        """Move the glyph and the query's views; the commit of a position job."""
        self._logic.keepEmbeddings(computed)
        foundLPS, queryNode = computed.results[0], self._inputs.queryNode
        if not self.isFollowing() or queryNode is None or queryNode.GetScene() is None:
            return None
        if foundLPS is None:
            glyph = self.glyph()
            if glyph is not None:
                glyph.SetDisplayVisibility(False)
            return None
        world = node_geometry.volumeLPSToWorld(queryNode, np.asarray(foundLPS))[0]
        glyph = self._ensureGlyph()
        glyph.SetNthControlPointPositionWorld(0, *world)
        glyph.SetDisplayVisibility(True)
        with self._moving():
            slice_views.jump(queryNode, world, centered=False)
        return world

    def _ensureGlyph(self):
        glyph = self.glyph()
        if glyph is None:
            glyph = slicer.mrmlScene.CreateNodeByClass("vtkMRMLMarkupsFiducialNode")
            glyph.UnRegister(None)
            glyph.SetName(texts.cursorName())
            glyph.SetHideFromEditors(True)
            glyph.SetSaveWithScene(False)
            glyph = slicer.mrmlScene.AddNode(glyph)
            glyph.CreateDefaultDisplayNodes()
            glyph.GetDisplayNode().SetSaveWithScene(False)
            glyph.GetDisplayNode().SetSelectedColor(*match_list.COLOR_MATCHED)
            glyph.GetDisplayNode().SetPointLabelsVisibility(False)
            glyph.GetDisplayNode().SetGlyphType(glyph.GetDisplayNode().Cross2D)  # no match, and nothing to drag
            glyph.GetDisplayNode().SetGlyphScale(GLYPH_SCALE * glyph.GetDisplayNode().GetGlyphScale())
            glyph.SetNodeReferenceID(match_list.ROLE_QUERY, self._inputs.queryNode.GetID())  # see own_views.py
            glyph.AddControlPoint(vtk.vtkVector3d(0, 0, 0), "")
            glyph.SetLocked(True)
            self._glyphID = glyph.GetID()
        return glyph


class ScrollFollower(CursorFollower):
    """Scrolls the query with the template: its views go where the middle of the template's view is found.

    :param group: the one that it belongs to, where each scan can be the template of the others.
    """

    def __init__(self, logic, group: Optional[ScrollGroup] = None) -> None:
        super().__init__(logic)
        self._group = group
        self._middles: Dict[str, np.ndarray] = {}
        """Of each view of the template."""
        self._scrolled: Any = None  # the view that was scrolled last

    def start(self, inputs: LiveInputs) -> bool:
        """Begin to follow; False when the inputs are incomplete or no view shows the template."""
        self.stop()
        views = slice_views.sliceNodesShowing(inputs.templateNode)
        if not views or inputs.queryNode is None or inputs.templateNode is inputs.queryNode:
            return False
        self._inputs = inputs
        for node in views:
            self._middles[node.GetID()] = slice_views.middleOf(node)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onScrolled)
        return True

    def _onScrolled(self, sliceNode, event=None) -> None:
        middle = slice_views.middleOf(sliceNode)
        before = self._middles.get(sliceNode.GetID())
        if self._group is not None and self._group.isHeld():
            self._middles[sliceNode.GetID()] = middle  # the module moved the view
        elif before is None or np.linalg.norm(middle - before) > SCROLLED_MM:
            if self._group is not None:
                self._group.leader = self._inputs.templateNode
            self._middles[sliceNode.GetID()] = self._wanted = middle
            self._scrolled = sliceNode
            self._flush()

    def _show(self, computed: engine.Computed) -> Any:
        """Move the query's views of the same plane; where the place is not found they stay."""
        self._logic.keepEmbeddings(computed)
        foundLPS, queryNode = computed.results[0], self._inputs.queryNode
        if not self.isFollowing() or foundLPS is None or queryNode is None or queryNode.GetScene() is None:
            return None
        world = node_geometry.volumeLPSToWorld(queryNode, np.asarray(foundLPS))[0]
        if self._group is None:
            slice_views.jump(queryNode, world, centered=False, like=self._scrolled)
        elif self._group.leader is self._inputs.templateNode:  # else the user scrolls another one by now
            with self._group.hold():
                slice_views.jump(queryNode, world, centered=False, like=self._scrolled)
        return world


class ScrollGroup:
    """Some scans that are scrolled together: whichever the user scrolls, the others go to the same anatomy.

    :ivar onError: called with each error.
    :ivar leader: the scan that was scrolled last.
    """

    def __init__(self, logic) -> None:
        self._logic = logic
        self._followers: List[ScrollFollower] = []
        self._held = 0
        self.leader: Any = None
        self.onError: Optional[Callable[[BaseException], None]] = None

    def start(self, volumes: Sequence[Any], model: str, device: str) -> bool:
        """Begin; False where no view shows any of them."""
        self.stop()
        for template in volumes:
            for query in volumes:
                follower = ScrollFollower(self._logic, self)
                follower.onError = self.onError
                if follower.start(LiveInputs(templateNode=template, queryNode=query, model=model, device=device)):
                    self._followers.append(follower)
        return bool(self._followers)

    def stop(self) -> None:
        for follower in self._followers:
            follower.stop()
        self._followers, self.leader = [], None

    def isScrolling(self) -> bool:
        return bool(self._followers)

    def isHeld(self) -> bool:
        """Whether it is the module that moves views."""
        return self._held > 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """While the module itself moves views."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1


class CursorGroup(VTKObservationMixin):
    """Some scans under one cursor: over whichever of them it is, the others show the same place.

    :param moving: entered while views are moved (:meth:`ScrollGroup.hold`: it is no scrolling).
    :ivar onError: called with each error.
    """

    def __init__(self, logic, moving: Callable[[], ContextManager[None]] = nullcontext) -> None:
        VTKObservationMixin.__init__(self)
        self._logic, self._moving = logic, moving
        self._followers: Dict[str, CursorFollower] = {}
        """Volume ID -> what shows the place in this scan."""
        self._inputs = LiveInputs()
        self.onError: Optional[Callable[[BaseException], None]] = None

    def start(self, volumes: Sequence[Any], model: str, device: str) -> bool:
        """Begin; False without a cursor or without a second scan."""
        self.stop()
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is None or len(volumes) < 2:
            return False
        self._inputs = LiveInputs(model=model, device=device)
        for volume in volumes:
            follower = self._followers[volume.GetID()] = CursorFollower(self._logic, self._moving)
            follower.onError = self.onError
        self.addObserver(crosshair, slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent, self._onCursorMoved)
        return True

    def stop(self) -> None:
        self.removeObservers()
        for follower in self._followers.values():
            follower.stop()
        self._followers = {}

    def isFollowing(self) -> bool:
        return bool(self._followers)

    def glyphIn(self, volumeNode):
        """The point that shows the place in a scan, None while there is none."""
        follower = self._followers.get(volumeNode.GetID())
        return follower.glyph() if follower is not None else None

    def _onCursorMoved(self, crosshair, event=None) -> None:
        view, position = crosshair.GetCursorPositionXYZ([0.0, 0.0, 0.0]), [0.0, 0.0, 0.0]
        leader = slice_views.volumeIn(view) if view is not None else None
        if leader is None or leader.GetID() not in self._followers or not crosshair.GetCursorPositionRAS(position):
            return  # what was shown last stays
        for volumeID, follower in self._followers.items():
            if volumeID == leader.GetID():
                follower.hide()  # the cursor itself is there
                continue
            query = slicer.mrmlScene.GetNodeByID(volumeID)
            if query is not None:
                follower.seek(replace(self._inputs, templateNode=leader, queryNode=query), np.array(position))
