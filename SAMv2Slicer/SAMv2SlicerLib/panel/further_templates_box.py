"""The Match tab's further templates: scans with point lists of their own, added, shown and removed one by one."""

from __future__ import annotations

from typing import Any, List, Tuple

import qt
import slicer.util

from SAMv2Core.errors import SAMv2Error
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import further_templates
from SAMv2SlicerLib.panel.studies_table import compactRows


class FurtherTemplatesBox:
    """Binds two selectors, a table and two buttons.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        self._shown: List[Tuple[str, ...]] = []
        table = ui.furtherTemplatesTable
        columns = [texts.columnTemplate(), texts.columnTemplatePoints(), texts.columnSameLabels()]
        table.columnCount = len(columns)
        table.setHorizontalHeaderLabels(columns)
        compactRows(table)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.Stretch)
        table.verticalHeader().visible = False
        ui.furtherTemplateSelector.currentNodeChanged.connect(self.onVolume)
        ui.furtherPointsSelector.currentNodeChanged.connect(self._enable)
        ui.addTemplateButton.clicked.connect(self.onAdd)
        ui.removeTemplateButton.clicked.connect(self.onRemove)
        table.itemSelectionChanged.connect(self._enable)

    def onVolume(self, node=None) -> None:
        """A scan into which the points were matched brings its own list."""
        p, volume = self.panel.parameters, self.ui.furtherTemplateSelector.currentNode()
        found = further_templates.listIn(volume, p.points) if p is not None else None
        if found is not None:
            self.ui.furtherPointsSelector.setCurrentNode(found)
        self._enable()

    def onAdd(self, checked=False) -> None:
        """The chosen scan with the chosen list is a template, too; another list of the same scan replaces the first."""
        p = self.panel.parameters
        volume, points = self.ui.furtherTemplateSelector.currentNode(), self.ui.furtherPointsSelector.currentNode()
        if p is None or not self._canAdd():
            return
        try:
            further_templates.placesOf(points)
        except SAMv2Error as error:
            self.panel.showError(error)
            return
        kept = [pair for pair in self.panel.matchTab.furtherTemplates() if pair[0] is not volume]
        self._write([*kept, (volume, points)])
        count, wanted = further_templates.inCommon(p.points, points) if p.points is not None else (0, 0)
        told = texts.templateAdded(volume.GetName(), points.GetName(), count, wanted)
        unseen = further_templates.unseen(points)
        self.panel.say(f"{told} {texts.templateUnseen(unseen)}" if unseen else told)

    def onRemove(self, checked=False) -> None:
        pairs, row = list(self.panel.matchTab.furtherTemplates()), self.ui.furtherTemplatesTable.currentRow()
        if 0 <= row < len(pairs):
            del pairs[row]
            self._write(pairs)

    def _write(self, pairs: List[Tuple[Any, Any]]) -> None:
        p = self.panel.parameters
        with slicer.util.NodeModify(p.parameterNode):
            p.furtherTemplateVolumes = [volume for volume, _ in pairs]
            p.furtherTemplatePoints = [points for _, points in pairs]

    def show(self) -> None:
        """Show the further templates as they are now."""
        p, table = self.panel.parameters, self.ui.furtherTemplatesTable
        rows: List[Tuple[str, ...]] = []
        for volume, points in self.panel.matchTab.furtherTemplates() if p is not None else ():
            common = further_templates.inCommon(p.points, points) if p.points is not None else (0, 0)
            rows.append((volume.GetName(), points.GetName(), texts.sameLabels(*common)))
        if rows != self._shown:
            self._shown = rows
            table.rowCount = len(rows)
            for n, row in enumerate(rows):
                for column, text in enumerate(row):
                    item = qt.QTableWidgetItem(text)
                    item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
                    table.setItem(n, column, item)
        table.visible = bool(rows)
        self._enable()

    def _canAdd(self) -> bool:
        p = self.panel.parameters
        volume, points = self.ui.furtherTemplateSelector.currentNode(), self.ui.furtherPointsSelector.currentNode()
        isOther = p is not None and volume not in (None, p.templateVolume) and points not in (None, p.points)
        return isOther and volume is not p.queryVolume

    def _enable(self, *unused: Any) -> None:
        self.ui.addTemplateButton.enabled = self._canAdd()
        table = self.ui.furtherTemplatesTable
        self.ui.removeTemplateButton.enabled = 0 <= table.currentRow() < len(self._shown)
        self.ui.removeTemplateButton.visible = bool(self._shown)
