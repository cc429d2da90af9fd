"""All studies side by side: one plane for all, named by date, scrolled together through the anatomy, CT alike."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match.follow_cursor import ScrollGroup
from SAMv2SlicerLib.scene.layouts import ORIENTATIONS
from SAMv2SlicerLib.scene.window_link import WindowLink


class StudiesView:
    """Binds the plane selector and the check box, and keeps up with the studies while they are side by side.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self.group, self.windowLink = ScrollGroup(panel.logic), WindowLink()
        self.group.onError = panel.showError
        self._key: Tuple[Any, ...] = ()
        for orientation in ORIENTATIONS:
            ui.planeSelector.addItem(texts.planeName(orientation))
        ui.planeSelector.activated.connect(self.onPlane)
        ui.scrollStudiesCheckBox.toggled.connect(lambda checked: self.update(self._volumes()))

    def orientation(self) -> str:
        return ORIENTATIONS[max(self.ui.planeSelector.currentIndex, 0)]

    def onPlane(self, index: int) -> None:
        """Another plane for all studies; they are shown when they are not."""
        self.panel.layout.orientation = self.orientation()
        if self.ui.allStudiesButton.checked:
            self.panel.trackTab.showViews()
        else:
            self.ui.allStudiesButton.checked = True

    def update(self, volumes: List[Any]) -> None:
        """Scroll together and share the window, or not, as things are now; starts anew only when they have changed.

        Scans are scrolled once they are embedded: a wheel is no wish to compute for minutes. MR has no common scale of
        brightness, so the window is CT's.
        """
        logic, p = self.panel.logic, self.panel.parameters
        isShown = p is not None and len(volumes) > 1 and self.panel.layout.areShowing(volumes)
        isScrolled = isShown and self.ui.scrollStudiesCheckBox.checked and all(map(logic.hasEmbedding, volumes))
        ids = tuple(node.GetID() for node in volumes)
        key = (ids, isShown, isScrolled, p.model if p is not None else "", p.device if p is not None else "")
        if key == self._key:
            return
        self._key = key
        if isScrolled:
            self.group.start(volumes, p.model, p.device)
        else:
            self.group.stop()
        if isShown:
            self.windowLink.start(*(node for node in volumes if logic.modalityOf(node) == "ct"))
        else:
            self.windowLink.stop()

    def stop(self) -> None:
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
