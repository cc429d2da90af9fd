"""Layouts for comparing scans: template above query, one view or all planes per study; the one from before comes back.

Layout descriptions are kept by the application, not by scenes: a scene that was saved while one of these layouts was on
names it by number only. So all of them are registered when Slicer starts, and an unknown number in a scene (from
another extension, or from more studies than usual) gives way to a layout that exists, instead of an empty window.

Works on view nodes and slice logics, so it needs no main window: without one there is no layout node, and nothing
happens.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

import qt
import slicer
import slicer.util
import vtk
from slicer.util import VTKObservationMixin

from SAMv2SlicerLib.scene.slice_views import drawnOnce, fit, layoutNode

logger = logging.getLogger(__name__)

# Two rows of three; own singleton tags, so that the user's Red, Yellow and Green keep what they show.
SIDE_BY_SIDE_ID = 8127
ROWS = (("A", "#0072B2"), ("B", "#E69F00"))
ORIENTATIONS = ("Axial", "Sagittal", "Coronal")

STUDIES_ID = 8130
"""Layouts with one view per study have this ID plus the number of studies."""

ALL_PLANES = "All"
"""In place of an orientation: all three planes of every study."""

PLANES_ID = 8330
"""Layouts with three views per study, one below the other, have this ID plus the number of studies."""

MOST_STUDIES = 12
"""So many studies side by side have a layout from the start; more get one when they are shown."""

MOST_STUDIES_EVER = 99

Volumes = Tuple[Any, Any, Sequence[Any]]
"""Template, query, studies: what layouts show."""

ATTRIBUTE = "SAMv2.layout"
"""Of the module's node in a saved scene: which of our layouts was shown. The scene's layout node names the one from
before, since a Slicer without this module would show an empty window; that node's attributes get lost."""


def viewName(row: str, orientation: str) -> str:
    """Singleton tag of a view of the side-by-side layout."""
    return f"SAMv2-{row}-{orientation}"


def rowNames(row: str) -> Tuple[str, ...]:
    return tuple(viewName(row, orientation) for orientation in ORIENTATIONS)


def studyViewName(index: int, orientation: str = ORIENTATIONS[0]) -> str:
    """Singleton tag of a study's view; the axial one is the one that shows every plane where there is only one."""
    return f"SAMv2-S{index + 1}" + ("" if orientation == ORIENTATIONS[0] else f"-{orientation}")


def studyViews(index: int, orientation: str) -> Dict[str, str]:
    """Singleton tags of a study's views, with the orientation of each.

    :param orientation: of its one view, or :data:`ALL_PLANES`.
    """
    if orientation == ALL_PLANES:
        return {studyViewName(index, plane): plane for plane in ORIENTATIONS}
    return {studyViewName(index): orientation}


def isStudies(layoutID: int) -> bool:
    return 0 < layoutID - STUDIES_ID <= MOST_STUDIES_EVER or isAllPlanes(layoutID)


def isAllPlanes(layoutID: int) -> bool:
    return 0 < layoutID - PLANES_ID <= MOST_STUDIES_EVER


def descriptionOf(layoutID: int) -> str:
    """Slicer's XML of one of our layouts, empty for another one."""
    if layoutID == SIDE_BY_SIDE_ID:
        return sideBySideDescription()
    if isAllPlanes(layoutID):
        return studiesDescription(layoutID - PLANES_ID, ORIENTATIONS)
    return studiesDescription(layoutID - STUDIES_ID) if isStudies(layoutID) else ""


def studiesDescription(count: int, orientations: Sequence[str] = ORIENTATIONS[:1]) -> str:
    """Slicer's XML for the studies side by side; of each one axial view, or several below one another."""
    rows = []
    for orientation in orientations:
        views = "".join(
            f'<item><view class="vtkMRMLSliceNode" singletontag="{studyViewName(n, orientation)}">'
            f'<property name="orientation" action="default">{orientation}</property>'
            f'<property name="viewlabel" action="default">{n}</property>'
            f'<property name="viewcolor" action="default">{ROWS[min(n, 1)][1]}</property>'
            f'<property name="viewgroup" action="default">{10 + n}</property></view></item>'
            for n in range(count)
        )
        rows.append(f'<layout type="horizontal" split="true">{views}</layout>')
    if len(rows) == 1:
        return rows[0]
    return f'<layout type="vertical" split="true">{"".join(f"<item>{row}</item>" for row in rows)}</layout>'


def sideBySideDescription() -> str:
    """Slicer's XML for the layout: A above B, axial, sagittal and coronal from left to right."""
    rows = []
    for group, (row, color) in enumerate(ROWS):
        views = "".join(
            f'<item><view class="vtkMRMLSliceNode" singletontag="{viewName(row, orientation)}">'
            f'<property name="orientation" action="default">{orientation}</property>'
            f'<property name="viewlabel" action="default">{row} {orientation[0]}</property>'
            f'<property name="viewcolor" action="default">{color}</property>'
            f'<property name="viewgroup" action="default">{group + 1}</property></view></item>'
            for orientation in ORIENTATIONS
        )
        rows.append(f'<item><layout type="horizontal">{views}</layout></item>')
    return f'<layout type="vertical" split="true">{"".join(rows)}</layout>'


def register() -> None:
    """Make our layouts known to the application; called when Slicer has started, and whenever one is needed."""
    node = layoutNode()
    counts = range(1, 1 + MOST_STUDIES)
    ours = (SIDE_BY_SIDE_ID, *(first + count for first in (STUDIES_ID, PLANES_ID) for count in counts))
    for layoutID in ours if node is not None else ():
        _ensure(node, layoutID)


def repair() -> None:
    """After a scene was loaded: if it named a layout that this Slicer does not have, show one that it has."""
    node = layoutNode()
    if node is None:
        return
    memory = _memory()
    saved = memory.GetAttribute(ATTRIBUTE) if memory is not None else None
    if saved:
        _remember(None)
        if saved.isdigit() and _ensure(node, int(saved)):
            node.SetViewArrangement(int(saved))
    layoutID = node.GetViewArrangement()
    if node.IsLayoutDescription(layoutID):
        return
    if _ensure(node, layoutID):
        node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutNone)  # a change, so that the views are made
        node.SetViewArrangement(layoutID)
    elif layoutID > slicer.vtkMRMLLayoutNode.SlicerLayoutNone:
        logger.warning("This Slicer has no layout %d, which the scene names; the conventional one is shown.", layoutID)
        node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)


def _ensure(node, layoutID: int) -> bool:
    """Whether a layout is known, after adding it if it is one of ours."""
    if not node.IsLayoutDescription(layoutID) and descriptionOf(layoutID):
        node.AddLayoutDescription(layoutID, descriptionOf(layoutID))
    return bool(node.IsLayoutDescription(layoutID))


def _nothing() -> None:
    """For whoever need not know that the views show their scans."""


@dataclass
class _Coming:
    """A layout that is wanted, what its views are to show, who is told then; and the layout that is shown until then:
    when that changes, the user has chosen another one."""

    layoutID: int
    volumes: Volumes
    then: Callable[[], None]
    arranged: int


def _missingViews(layoutID: int) -> List[ElementTree.Element]:
    """The views of one of our layouts, as its description has them, that nobody has made yet."""
    present = {node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode")}
    views = ElementTree.fromstring(descriptionOf(layoutID)).iter("view")
    return [view for view in views if view.get("singletontag") not in present]


def _makeView(view: ElementTree.Element) -> None:
    """Make a view before its layout is shown, as Slicer would with the whole layout; it is not shown yet."""
    said = {item.get("name"): item.text or "" for item in view}
    node = slicer.mrmlScene.CreateNodeByClass(view.get("class"))
    node.UnRegister(None)  # now the scene alone will own it
    node.SetLayoutName(view.get("singletontag"))
    node.SetName(view.get("singletontag"))
    node.SetDefaultOrientation(said["orientation"])
    node.SetOrientation(said["orientation"])
    node.SetLayoutLabel(said["viewlabel"])
    node.SetLayoutColor(*(int(said["viewcolor"][n : n + 2], 16) / 255 for n in (1, 3, 5)))
    node.SetViewGroup(int(said["viewgroup"]))
    slicer.mrmlScene.AddNode(node)


class LayoutSwitch(VTKObservationMixin):
    """Shows one of our layouts, keeps its views showing what they should, and puts the former layout back.

    :param onChanged: called without arguments when another layout is shown, also when the user chose it.
    :param studyName: short name of a study, as its view shows it; empty for its number.
    :param moving: entered while the views are brought to their scans, which is no scrolling.
    :ivar orientation: of the views of studies, or ALL_PLANES.
    """

    def __init__(
        self,
        onChanged: Optional[Callable[[], None]] = None,
        studyName: Optional[Callable[[Any], str]] = None,
        moving: Callable[[], ContextManager[None]] = nullcontext,
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._former: Optional[int] = None
        self._shown: Dict[Tuple[str, ...], Optional[str]] = {}
        """Views -> ID of the volume that was put into them: what users show there themselves is left alone."""
        self._onChanged = onChanged
        self._studyName = studyName
        self.orientation = ORIENTATIONS[0]
        self._paused: Optional[int] = None
        self._coming: Optional[_Coming] = None
        self._moving = moving

    def start(self) -> None:
        """Follow the layout."""
        node = layoutNode()
        if node is not None and not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._onLayout):
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onLayout)

    def stop(self) -> None:
        self.removeObservers()
        self._coming = None

    def current(self) -> int:
        """ID of the layout that is shown or about to be, -1 without a main window."""
        if self._coming is not None:
            return self._coming.layoutID
        node = layoutNode()
        return node.GetViewArrangement() if node is not None else -1

    def isSideBySide(self) -> bool:
        return self.current() == SIDE_BY_SIDE_ID

    def isStudies(self) -> bool:
        return isStudies(self.current())

    def isAllPlanes(self) -> bool:
        return isAllPlanes(self.current())

    def showSideBySide(self, templateNode, queryNode, then: Callable[[], None]) -> bool:
        """Template above query, each with its own views; False without a main window.

        :param then: called when the views show them: what is fitted before they have their size, which they get in
            Slicer's own time, would be fitted to another one.
        """
        return self._show(SIDE_BY_SIDE_ID, (templateNode, queryNode, ()), then)

    def showStudies(self, volumeNodes: Sequence[Any], then: Callable[[], None]) -> bool:
        """One view per study, in order; False without a main window or without studies.

        :param then: as of :meth:`showSideBySide`.
        """
        first = PLANES_ID if self.orientation == ALL_PLANES else STUDIES_ID
        return bool(volumeNodes) and self._show(first + len(volumeNodes), (None, None, volumeNodes), then)

    def isSettling(self) -> bool:
        """Whether the views of a new layout do not show their scans yet."""
        return self._coming is not None

    def follow(self, templateNode, queryNode, studyNodes: Sequence[Any], anew: bool = False) -> bool:
        """Let the views of the layout that is shown show what is selected now.

        :param anew: also in views that showed it already, which then are fitted again.
        """
        if self._coming is not None:
            self._coming.volumes = (templateNode, queryNode, studyNodes)
            return True
        wanted: List[Tuple[Dict[str, str], Any]] = []
        if self.isSideBySide():
            rows = zip(ROWS, (templateNode, queryNode))
            wanted = [({viewName(row, plane): "" for plane in ORIENTATIONS}, volume) for (row, _), volume in rows]
        elif self.isStudies() and studyNodes:
            first = PLANES_ID if self.isAllPlanes() else STUDIES_ID
            if self.current() != first + len(studyNodes):
                self._show(first + len(studyNodes), (templateNode, queryNode, studyNodes))
                return True
            wanted = [(studyViews(n, self._plane()), volume) for n, volume in enumerate(studyNodes)]
            self._name(studyNodes)
        for views, volume in wanted:
            names, nodeID = tuple(views), volume.GetID() if volume is not None else None
            isLoaded = names not in self._shown and _areShowing(names, nodeID)  # with a scene that had them so
            if anew or (not isLoaded and self._shown.get(names, "") != nodeID):
                with self._moving(), drawnOnce():
                    _showInViews(views, volume, isLinked=self.isSideBySide())
            self._shown[names] = nodeID
        return True

    def areShowing(self, studyNodes: Sequence[Any]) -> bool:
        """Whether each of these studies is in its view: a layout is shown before its views have their scans."""
        shown = (_areShowing(tuple(studyViews(n, self._plane())), node.GetID()) for n, node in enumerate(studyNodes))
        return self.isStudies() and all(shown)

    def _plane(self) -> str:
        """That of the layout which is shown: a scene may bring another one than was chosen."""
        if self.isAllPlanes():
            return ALL_PLANES
        return self.orientation if self.orientation in ORIENTATIONS else ORIENTATIONS[0]

    def _name(self, studyNodes: Sequence[Any]) -> None:
        """Write the studies' dates into the bars of their views."""
        studies = [(n, volume) for n, volume in enumerate(studyNodes) if volume is not None]
        wanted = {name: volume for n, volume in studies for name in studyViews(n, ALL_PLANES)}
        for sliceNode in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            volume = wanted.get(sliceNode.GetLayoutName())
            name = self._studyName(volume) if volume is not None and self._studyName is not None else ""
            if name and sliceNode.GetLayoutLabel() != name:
                sliceNode.SetLayoutLabel(name)

    def restore(self) -> None:
        """The layout from before, if one of ours is shown."""
        node, former = layoutNode(), self._former
        self._former = self._coming = None
        if node is not None and descriptionOf(node.GetViewArrangement()):
            fallback = slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
            node.SetViewArrangement(former if former is not None else fallback)

    def forget(self) -> None:
        """The scene closes."""
        self._shown.clear()
        self._coming = None

    def pause(self) -> None:
        """Let the scene name the layout from before, without showing it, until :meth:`resume`."""
        node = layoutNode()
        if node is None or self._paused is not None or not descriptionOf(node.GetViewArrangement()):
            return
        self._paused = node.GetViewArrangement()
        fallback = slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
        _remember(str(self._paused))
        with _silently(node):
            node.SetViewArrangement(self._former if self._former is not None else fallback)

    def resume(self) -> None:
        node, layoutID = layoutNode(), self._paused
        self._paused = None
        if node is not None and layoutID is not None:
            _remember(None)
            with _silently(node):
                node.SetViewArrangement(layoutID)

    def _show(self, layoutID: int, volumes: Volumes, then: Callable[[], None] = _nothing) -> bool:
        """Show a layout, and the volumes in it (as of :meth:`follow`) as soon as its views have their size."""
        node = layoutNode()
        if node is None:
            return False
        coming = self._coming = _Coming(layoutID, volumes, then, node.GetViewArrangement())
        if not _ensure(node, layoutID):
            self._coming = None
            return False
        if _missingViews(layoutID):  # more is done in this turn already
            self._advanceSoon(coming)
        else:
            self._advance(coming)
        return True

    def _advance(self, coming: _Coming) -> None:
        """The next step to the layout that is wanted, one in each turn of the event loop: making a view takes Slicer
        longer than anything else, and views get their size when the events of a new layout are handled."""
        node = layoutNode()
        if coming is not self._coming or node is None:  # given up, or another one is wanted by now
            return
        arranged, missing = node.GetViewArrangement(), _missingViews(coming.layoutID)
        if arranged == coming.layoutID and not missing:
            self._coming = None
            self.follow(*coming.volumes, anew=True)
            coming.then()
            return
        if missing:
            _makeView(missing[0])
        else:
            if not descriptionOf(arranged):
                self._former = arranged
            coming.arranged = coming.layoutID
            node.SetViewArrangement(coming.layoutID)
        self._advanceSoon(coming)

    def _advanceSoon(self, coming: _Coming) -> None:
        """In the next turn, after the events that have come by now."""
        qt.QTimer.singleShot(0, lambda: self._advance(coming))

    def _onLayout(self, caller=None, event=None) -> None:
        coming, node = self._coming, layoutNode()
        if coming is not None and node.GetViewArrangement() != coming.arranged:
            self._coming = None  # the user has chosen another one
        if self._onChanged is not None:
            self._onChanged()


def _memory():
    """The module's parameter node; attributes of singletons like this one come back with a scene."""
    return slicer.mrmlScene.GetSingletonNode("SAMv2Slicer", "vtkMRMLScriptedModuleNode")


def _remember(layout: Optional[str]) -> None:
    node = _memory()
    if node is not None:
        with _silently(node):
            node.SetAttribute(ATTRIBUTE, layout)


@contextmanager
def _silently(node) -> Iterator[None]:
    """Change a node without anybody being told."""
    before = node.GetDisableModifiedEvent()
    node.SetDisableModifiedEvent(1)
    try:
        yield
    finally:
        node.SetDisableModifiedEvent(before)


def _areShowing(names: Sequence[str], volumeID: Optional[str]) -> bool:
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    found = [node.GetBackgroundVolumeID() for node in composites if node.GetLayoutName() in names]
    return bool(volumeID) and found == [volumeID] * len(names)


def _showInViews(views: Dict[str, str], volumeNode, isLinked: bool) -> None:
    """Show a volume in some views, all of it, sliced along its own axes.

    :param views: name -> which of these; "" for the one that the view has.
    """
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetLayoutName() in views:
            composite.SetLinkedControl(False)  # else each view hands its volume to all others of its group
            composite.SetBackgroundVolumeID(volumeNode.GetID() if volumeNode is not None else None)
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
    for sliceNode in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        if sliceNode.GetLayoutName() in views and volumeNode is not None:
            if views[sliceNode.GetLayoutName()]:
                sliceNode.SetOrientation(views[sliceNode.GetLayoutName()])
            sliceNode.RotateToVolumePlane(volumeNode)
            fit(sliceNode)
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        if composite.GetLayoutName() in views:
            composite.SetLinkedControl(isLinked)
