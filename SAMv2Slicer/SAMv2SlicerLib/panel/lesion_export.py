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
    :param tab: that of the lesions; what is written in the background is its job.
    """

    def __init__(self, ui, panel, tab) -> None:
        self.ui, self.panel, self.tab = ui, panel, tab
        ui.plotButton.clicked.connect(self.onPlot)
        ui.exportTableButton.clicked.connect(self.onTable)
        ui.exportReportButton.clicked.connect(self.onReports)
        ui.copyTableButton.clicked.connect(self.onCopy)

    def enable(self, hasLesions: bool, isFree: bool = True) -> None:
        """:param isFree: nothing is running that reports would have to wait for."""
        for button in (self.ui.plotButton, self.ui.exportTableButton, self.ui.copyTableButton):
            button.enabled = hasLesions
        self.ui.exportReportButton.enabled = hasLesions and isFree

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
        logic = self.panel.logic
        if where == 1:
            self._begun(
                report_export.startDatabaseExport(
                    logic, listNode, order, self._begun, self._ended(texts.reportsInDatabase)
                )
            )
        elif where == 0:
            folder = dialogs.chooseFolder(button, texts.exportTitle())
            if folder:
                said = self._ended(lambda paths: texts.exportedReports(len(paths), folder))
                self._begun(report_export.startExport(logic, listNode, folder, order, said))

    def _begun(self, job) -> None:
        self.panel.clearMessage()
        self.tab.job = job
        self.panel.refresh()

    def _ended(self, said):
        """What is called with a job that has ended: tells its error, or what ``said`` makes of its value."""

        def onEnd(job) -> None:
            self.tab.job = None
            if job.error is not None:
                self.panel.showError(job.error)
            else:
                self.panel.say(said(job.value))

        return onEnd

    def _lesions(self):
        """(lesion list or None, follow-ups in order)."""
        return self.tab.lesionList(), self.tab.followUps() if self.panel.parameters is not None else []
