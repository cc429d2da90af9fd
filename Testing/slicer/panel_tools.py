"""Helpers for tests that drive the panel."""

import time

import slicer


def settle(widget, seconds=60):
    """Let Qt's timers and the worker run until nothing is left to do; an error after ``seconds``."""
    end, panel = time.monotonic() + seconds, widget.panel

    def isBusy():
        waits = panel.timer.active or panel.refreshTimer.active
        return waits or panel.layout.isSettling() or widget.logic.worker.isBusy()

    while isBusy():
        slicer.app.processEvents()
        time.sleep(0.002)
        if time.monotonic() > end:
            raise TimeoutError("the panel is still busy")
    slicer.app.processEvents()


def close(widget):
    """Take a panel down as Slicer does when it quits; its selectors must let go of the scene before they are deleted,
    else the next event of the scene reaches widgets that are gone."""
    widget.cleanup()
    widget.parent.setMRMLScene(None)
    widget.parent.deleteLater()


def cells(widget):
    """The texts of the results table, row by row."""
    table = widget.ui.resultsTable
    return [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]


def matrix(widget):
    """The texts of the findings, row by row: what was found and the size."""
    return [[text.split("\n")[0] for text in row] for row in wholeMatrix(widget)]


def wholeMatrix(widget):
    """With what has become of each lesion, in a second line."""
    table = widget.ui.findingsTable
    return [[table.item(r, c).text() for c in range(table.columnCount)] for r in range(table.rowCount)]


def patientItems(scene, groups):
    """Put volumes under patients of the subject hierarchy: {PatientID: volumes}."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    for identifier, volumes in groups.items():
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), f"Patient {identifier}")
        hierarchy.SetItemAttribute(patient, "DICOM.PatientID", identifier)
        study = hierarchy.CreateStudyItem(patient, "Study")
        for volume in volumes:
            item = hierarchy.GetItemByDataNode(volume)
            if item:
                hierarchy.SetItemParent(item, study)
            else:  # in the application a plugin makes an item for every volume
                hierarchy.CreateItem(study, volume)
