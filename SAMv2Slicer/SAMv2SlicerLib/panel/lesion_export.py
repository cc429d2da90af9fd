"""Taking findings out of the scene: a plot, a table file, DICOM reports."""

from __future__ import annotations

import qt

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.io import structured_report
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.panel import dialogs
from SAMv2SlicerLib.scene import slice_views
from SAMv2SlicerLib.setup import install
from SAMv2SlicerLib.track import findings_table, report_export


class LesionExport:
    """Binds the buttons for plot and export.

    :param panel: see panel.py.
    """

    def __init__(self, ui, panel) -> None:
        self.ui, self.panel = ui, panel
        ui.plotButton.clicked.connect(self.onPlot)
        ui.exportTableButton.clicked.connect(self.onTable)
        ui.exportReportButton.clicked.connect(self.onReports)
        ui.copyTableButton.clicked.connect(self.onCopy)

    def enable(self, hasLesions: bool) -> None:
        for button in (
            self.ui.plotButton,
            self.ui.exportTableButton,
            self.ui.copyTableButton,
            self.ui.exportReportButton,
        ):
            button.enabled = hasLesions

    def onPlot(self, checked=False) -> None:
        listNode, order = self._lesions()
        if listNode is None:
            return
        findings_table.update(listNode, order)
        if not slice_views.showChart(findings_table.find(listNode, findings_table.CHART)):
            self.panel.say(texts.noPlotView())

    def onTable(self, checked=False) -> None:
        listNode, order = self._lesions()
        path = dialogs.saveFile(self.ui.exportTableButton, texts.exportTitle(), "lesions.csv", "CSV (*.csv)")
        if listNode is None or not path:
            return
        try:
            self.panel.say(texts.exported(findings_table.writeCSV(path, listNode, order), path))
        except SAMv2Error as error:
            self.panel.showError(error)

    def onCopy(self, checked=False) -> None:
        """All findings to the clipboard, as spreadsheets paste them."""
        listNode, order = self._lesions()
        if listNode is not None:
            lines = findings_table.asText(listNode, order)
            qt.QApplication.clipboard().setText("\n".join(lines))
            self.panel.say(texts.tableCopied(len(lines) - 1))

    def onReports(self, checked=False) -> None:
        """Write the reports; installs highdicom before, if that is missing and wanted."""
        listNode, order = self._lesions()
        if listNode is None:
            return
        try:
            for volume in report_export.volumesOf(listNode, order):
                report_export.dicomFiles(volume)  # before asking for anything: can it work at all?
            if not structured_report.is_available():
                question = texts.reportConsent(structured_report.REQUIREMENT)
                problem = install.installOptional(structured_report.REQUIREMENT, question)
                if problem:
                    self.panel.say(problem)
                    return
            self._writeReports(listNode, order)
        except SAMv2Error as error:
            self.panel.showError(error)

    def _writeReports(self, listNode, order) -> None:
        """Into a folder, or into the DICOM database where one is open."""
        button, where = self.ui.exportReportButton, 0
        if report_export.isDatabaseOpen():
            where = dialogs.choose(button, (texts.reportsToFolder(), texts.reportsToDatabase()))
        if where == 1:
            self.panel.say(texts.reportsInDatabase(report_export.exportToDatabase(listNode, order)))
        elif where == 0:
            folder = dialogs.chooseFolder(button, texts.exportTitle())
            if folder:
                count = len(report_export.exportReports(listNode, folder, order))
                self.panel.say(texts.exportedReports(count, folder))

    def _lesions(self):
        """(lesion list or None, follow-ups in order)."""
        tab = self.panel.trackTab
        return tab.lesionList(), tab.followUps() if self.panel.parameters is not None else []
