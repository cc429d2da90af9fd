"""All studies side by side: one plane or all three, named by date, scrolled and pointed at together, CT alike."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.follow_cursor import CursorGroup, ScrollGroup
from SAMv2SlicerLib.scene.layouts import ALL_PLANES, ORIENTATIONS
from SAMv2SlicerLib.scene.window_link import WindowLink

PLANES = (*ORIENTATIONS, ALL_PLANES)
"""In the order of the selector."""


class StudiesView:
    """Binds the plane selector and the check boxes, and keeps up with the studies while they are side by side.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self.group, self.windowLink = ScrollGroup(panel.logic), WindowLink()
        self.cursor = CursorGroup(panel.logic, self.group.hold)
        self.group.onError = self.cursor.onError = panel.showError
        self._key: Tuple[Any, ...] = ()
        for orientation in PLANES:
            ui.planeSelector.addItem(texts.planeName(orientation))
        ui.planeSelector.activated.connect(self.onPlane)
        ui.scrollStudiesCheckBox.toggled.connect(lambda checked: self.update(self._volumes()))
        ui.cursorStudiesCheckBox.toggled.connect(self.onCursor)

    def orientation(self) -> str:
        return PLANES[max(self.ui.planeSelector.currentIndex, 0)]

    def onCursor(self, checked: bool) -> None:
        """The place under the cursor in all studies, or not; where it cannot be, why."""
        self.update(self._volumes())
        if checked and not self.cursor.isFollowing():
            self.panel.say(texts.cursorStudiesOff())

    def onPlane(self, index: int) -> None:
        """Another plane for all studies, or all of them; they are shown when they are not."""
        self.panel.layout.orientation = self.orientation()
        if self.ui.allStudiesButton.checked:
            self.panel.trackTab.showViews()
        else:
            self.ui.allStudiesButton.checked = True

    def update(self, volumes: List[Any]) -> None:
        """Scroll and point together and share the window, or not, as things are now; anew only when they have changed.

        Scans are scrolled once they are embedded: a wheel is no wish to compute for minutes. MR has no common scale of
        brightness, so the window is CT's.
        """
        logic, p = self.panel.logic, self.panel.parameters
        isShown = p is not None and len(volumes) > 1 and self.panel.layout.areShowing(volumes)
        isReady = isShown and all(map(logic.hasEmbedding, volumes))
        isScrolled = isReady and self.ui.scrollStudiesCheckBox.checked
        isPointed = isReady and self.ui.cursorStudiesCheckBox.checked
        planes = self.panel.layout.current()
        ids = tuple(node.GetID() for node in volumes)
        options = (p.model, p.device) if p is not None else ()
        key = (ids, planes, isShown, isScrolled, isPointed, options)
        if key == self._key:
            return
        self._key = key
        if isShown and self.panel.layout.isAllPlanes() != (self.orientation() == ALL_PLANES):  # a scene had them so
            isAll = self.panel.layout.isAllPlanes()
            self.ui.planeSelector.currentIndex = PLANES.index(ALL_PLANES if isAll else ORIENTATIONS[0])
            self.panel.layout.orientation = self.orientation()
        if isPointed:
            self.cursor.start(volumes, p.model, p.device)
        else:
            self.cursor.stop()
        if isScrolled:
            self.group.start(volumes, p.model, p.device)
        else:
            self.group.stop()
        if isShown:
            self.windowLink.start(*(node for node in volumes if logic.modalityOf(node) == "ct"))
        else:
            self.windowLink.stop()

    def stop(self) -> None:
        self.cursor.stop()
        self.group.stop()
        self.windowLink.stop()
        self._key = ()

    @contextmanager
    def moving(self) -> Iterator[None]:
        """While the module itself moves the views, which is no scrolling."""
        with self.group.hold():
            yield

    def _volumes(self) -> List[Any]:
        return [node for node in self.panel.trackTab.volumes() if node is not None] if self.panel.parameters else []
