"""What the user says of the selected lesion itself, in all studies: its role in the sum, its organ, a lymph node."""

from __future__ import annotations

from typing import Any, Callable, Optional

from SAMv2Core.io.finding_sites import ORGANS
from SAMv2Core.tracking.recist import NEW, NON_TARGET, TARGET
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel.lesion_matrix import LesionMatrix
from SAMv2SlicerLib.scene.undo import Action
from SAMv2SlicerLib.track import lesion_list

ROLES = ("", TARGET, NON_TARGET, NEW)
"""In the order of the selector; what is new, nobody chooses."""


class LesionFacts:
    """Binds the widgets of a lesion's role, organ and kind.

    :param lesionList: gives the lesion list, or None.
    """

    def __init__(self, ui, panel, matrix: LesionMatrix, lesionList: Callable[[], Any]) -> None:
        self.ui, self.panel, self.logic = ui, panel, panel.logic
        self._matrix, self._lesionList = matrix, lesionList
        for role in ROLES:
            ui.roleSelector.addItem(texts.lesionRoleName(role))
        ui.organSelector.addItem("")
        for organ in ORGANS:
            ui.organSelector.addItem(organ)
        ui.organSelector.lineEdit().placeholderText = texts.organHint()
        ui.roleSelector.activated.connect(self.onRole)
        ui.organSelector.activated.connect(self.onOrgan)
        ui.organSelector.lineEdit().editingFinished.connect(self.onOrgan)
        ui.nodeCheckBox.clicked.connect(self.onNode)

    def show(self) -> None:
        """Show what is known of the selected lesion."""
        lesion, ui = self._lesion(), self.ui
        role = lesion.role if lesion is not None else ""
        isNew = lesion is not None and lesion.centerWorld is None and not role  # a report's may have no place, either
        role = NEW if isNew else role
        ui.roleSelector.enabled = lesion is not None and not isNew
        ui.organSelector.enabled = ui.nodeCheckBox.enabled = lesion is not None
        ui.roleSelector.currentIndex = ROLES.index(role) if role in ROLES else 0
        ui.nodeCheckBox.checked = lesion is not None and lesion.isNode
        if not ui.organSelector.lineEdit().focus:
            ui.organSelector.currentText = lesion.organ if lesion is not None else ""

    def onRole(self, index: int) -> None:
        if ROLES[index] == NEW:  # a lesion of the baseline is none
            self.show()
        else:
            self._say(role=ROLES[index])

    def onOrgan(self, index: int = 0) -> None:
        self._say(organ=self.ui.organSelector.currentText.strip())

    def onNode(self, checked: bool = False) -> None:
        self._say(isNode=bool(self.ui.nodeCheckBox.checked))

    def _lesion(self) -> Optional[lesion_list.Lesion]:
        finding, listNode = self._matrix.selected(), self._lesionList()
        if finding is None or listNode is None:
            return None
        return next((item for item in lesion_list.lesionsIn(listNode) if item.uid == finding.uid), None)

    def _say(self, **facts: Any) -> None:
        """Write down what is said of the selected lesion; undoable."""
        lesion = self._lesion()
        if lesion is None or all(getattr(lesion, name) == value for name, value in facts.items()):
            return
        before = {name: getattr(lesion, name) for name in facts}
        self._write(lesion.uid, facts)
        undo = Action(
            texts.actionFacts(lesion.label),
            lambda: self._write(lesion.uid, before),
            lambda: self._write(lesion.uid, facts),
        )
        self.logic.undoStack.push(undo)
        self.panel.refresh()

    def _write(self, uid: str, facts: Any) -> None:
        listNode = self._lesionList()
        if listNode is not None:
            with self.logic.writing():
                lesion_list.say(listNode, uid, **facts)
        self.panel.refreshSoon()
