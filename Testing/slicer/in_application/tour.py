"""Everything that the tutorial says, done in a real Slicer and asserted; see README.md in this folder.

Times are wall times in Slicer's own event loop: from the click in a view to the first match in the scene (quick), to
its drawing in the query's view (shown), to the refined one, and how many places of a moving cursor were answered. What
Slicer takes for the same by itself, without the module, is measured beside it, in the same views (slicerAlone): without
a graphics card, drawing them is most of it.
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import slicer
import slicer.util

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
for folder in (HERE, ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import driving as d  # noqa: E402

TOLERANCE_MM = 8.0
"""Of a match in a simulated later scan whose truth is known: two voxels of the fine features."""

PLACES = 150
"""Of the moving cursor."""

CORE = ("openModule", "loadScans", "sideBySide", "click", "clickElsewhere", "judge", "saveAndLoad", "readByOthers")
"""The steps that the module's self test takes."""

MOST_USED = ("matchButton", "resultsTable", "acceptButton", "rejectButton", "nextButton", "editButton")
"""What the most frequent path needs, and no scrolling for it."""


class Tour:
    """The steps, in order; each asserts, and the next ones go on after a failure.

    :param folder: for the report and the screenshots.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.report = {"steps": {}, "times": {}, "facts": {}}
        self.truth = None
        """Function of world RAS positions (N, 3) of the template: where they are in the query."""

    # --- helpers -------------------------------------------------------------------------------------------------

    @property
    def widget(self):
        return slicer.modules.samv2slicer.widgetRepresentation().self()

    @property
    def ui(self):
        return self.widget.ui

    @property
    def parameters(self):
        return self.widget.panel.parameters

    def shot(self, name):
        d.screenshot(self.folder / f"{name}.png")

    def run(self, only=()):
        """All steps, or those of some names; whether they passed."""
        self.gaps, self.own = d.Gaps(), d.OwnWork(_imported("SAMv2SlicerLib"))
        steps = (
            self.openModule,
            self.namesOfQt,
            self.firstImpression,
            self.sampleData,
            self.loadScans,
            self.sideBySide,
            self.slicerAlone,
            self.click,
            self.clickElsewhere,
            self.unseen,
            self.drag,
            self.followCursor,
            self.whileEmbedding,
            self.processKilled,
            self.judge,
            self.keys,
            self.landmarks,
            self.saveAndLoad,
            self.readByOthers,
            self.importAgain,
            self.track,
            self.exportTables,
            self.severalTemplates,
            self.structuredReport,
            self.register,
            self.compare,
            self.undoAndRedo,
            self.reload,
            self.readFollowUp,
            self.quitDuringAJob,
        )
        for step in [step for step in steps if not only or step.__name__ in only]:
            started = time.monotonic()
            try:
                outcome = step() or "passed"
            except Exception:
                outcome = traceback.format_exc()
            self.report["steps"][step.__name__] = outcome
            self.report["times"].setdefault("window", {})[step.__name__] = self.gaps.taken()
            self.report["times"].setdefault("own work", {})[step.__name__] = self.own.taken()
            took = time.monotonic() - started
            print(f"{step.__name__}: {outcome.strip().splitlines()[-1]} ({took:.1f} s)", flush=True)
        return all(not outcome.startswith("Traceback") for outcome in self.report["steps"].values())

    def write(self):
        import SAMv2Core

        self.report["facts"].update(
            slicer=slicer.app.applicationVersion,
            samv2=SAMv2Core.__version__,
            python=platform.python_version(),
            system=platform.platform(),
            cores=os.cpu_count(),
            window=[slicer.util.mainWindow().width, slicer.util.mainWindow().height],
            load=list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        )
        (self.folder / "report.json").write_text(json.dumps(self.report, indent=1), encoding="utf-8")

    # --- scans ---------------------------------------------------------------------------------------------------

    def openModule(self):
        from SAMv2SlicerLib.scene import layouts

        node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        assert node.IsLayoutDescription(layouts.SIDE_BY_SIDE_ID), "the layouts are not known from the start"
        slicer.util.mainWindow().showMaximized()
        slicer.util.selectModule("SAMv2Slicer")
        d.wait(500)
        assert "no volume" in self.ui.statusLabel.text and self.ui.sampleDataButton.visible
        self.shot("empty")

    def namesOfQt(self):
        """What the tests outside Slicer let the module use of Qt is here."""
        import qt_names

        known = json.loads(qt_names.LIST.read_text(encoding="utf-8"))
        lacking = qt_names.missing(known)
        assert not lacking, lacking

    def firstImpression(self):
        """From the empty panel to a right match that is on the screen, with the sample data: two clicks, and the one
        that opened the module."""
        from SAMv2Core.errors import InputError
        from SAMv2SlicerLib.scene import layouts, match_list, node_geometry
        from SAMv2SlicerLib.setup import sample_data

        try:
            sample_data.readTemplate()
        except InputError as error:
            return f"skipped: {error.cause}"
        samples, add = [], sample_data.addNodes
        sample_data.addNodes = lambda logic, sample: samples.append(sample) or add(logic, sample)
        try:
            self.ui.sampleDataButton.click()
            d.settle(self.widget)
        finally:
            sample_data.addNodes = add
        self.ui.matchButton.click()
        d.settle(self.widget)
        clicks = 3
        self.report["facts"]["clicks_to_first_match"] = clicks
        p = self.parameters
        matched = match_list.findMatchList(p.points, p.queryVolume)
        assert 0 in node_geometry.definedPointIndices(matched), self.ui.statusLabel.text
        found = node_geometry.pointWorld(matched, 0)
        error = np.linalg.norm(found - node_geometry.flipRASAndLPS(samples[0].laterLPS))
        self.report["facts"]["sample_error_mm"] = round(float(error), 2)
        for name in (layouts.viewName("A", "Axial"), layouts.viewName("B", "Axial")):
            assert _isVisible(name), name
        x, y = d.pixelOf(layouts.viewName("B", "Axial"), found)
        width, height = d.sliceWidget(layouts.viewName("B", "Axial")).mrmlSliceNode().GetDimensions()[:2]
        assert 0 < x < width and 0 < y < height, "the match is not in its view"
        self.ui.resultsTable.selectRow(0)
        d.wait(200)
        self.shot("first-match")
        assert error < TOLERANCE_MM, error
        hidden = [name for name in MOST_USED if not d.isOnScreen(getattr(self.ui, name))]
        assert not hidden, f"needs scrolling at {slicer.util.mainWindow().height} pixels: {hidden}"
        slicer.mrmlScene.Clear()
        self.ui.sideBySideButton.checked = False
        d.settle(self.widget)
        return None

    def sampleData(self):
        """Slicer's own call loads the scans of the module, too."""
        import SampleData

        from SAMv2Core.errors import InputError

        try:
            node = SampleData.downloadSample("SAMv2ChestTemplate")
        except InputError as error:
            return f"skipped: {error.cause}"
        assert node.IsA("vtkMRMLScalarVolumeNode") and node.GetName() == "SAMv2ChestTemplate", node
        assert min(node.GetImageData().GetDimensions()) > 100
        slicer.mrmlScene.Clear()
        d.settle(self.widget)
        return None

    def loadScans(self):
        """A scan and a simulated later scan of the same patient, moved, turned, deformed: the truth is known."""
        from SAMv2Core.io.volume import Volume
        from SAMv2Core.simulation.simulate import simulate_follow_up
        from SAMv2SlicerLib.scene import node_geometry

        volume, self.report["facts"]["scan"] = _scan()
        simulated = simulate_follow_up(volume, seed=3)
        third = simulate_follow_up(volume, seed=8)
        names = ("CT 2021", "CT 2023", "CT 2024")
        self.names = names
        for name, item in zip(names, (volume, simulated.volume, third.volume)):
            whole = Volume(item.array, item.ijk_to_lps, modality="ct")
            node = node_geometry.addVolumeNode(whole, name)
            node.SetAttribute("DICOM.Modality", "CT")
            node.CreateDefaultDisplayNodes()
            node.GetDisplayNode().SetAutoWindowLevel(False)
            node.GetDisplayNode().SetWindowLevel(1400, -300)

        def truth(world):
            moved, _ = simulated.map_points(node_geometry.flipRASAndLPS(world))
            return node_geometry.flipRASAndLPS(moved)

        self.truth = truth
        self.center = node_geometry.flipRASAndLPS(_places(volume))
        p = self.parameters
        p.templateVolume, p.queryVolume = (slicer.util.getNode(name) for name in names[:2])
        d.settle(self.widget)

    def sideBySide(self):
        """Both rows show their scans, from the first moment and after a swap."""
        from SAMv2SlicerLib.scene import layouts, slice_views

        self.ui.sideBySideButton.click()
        for swaps in range(3):
            d.settle(self.widget)
            for (row, _), volume in zip(layouts.ROWS, (self.parameters.templateVolume, self.parameters.queryVolume)):
                for name in layouts.rowNames(row):
                    logic = d.sliceWidget(name).sliceLogic()
                    assert logic.GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID(), name
                    assert slice_views.cuts(logic.GetSliceNode(), volume), f"{name} is beside its scan"
                    assert _isVisible(name), f"{name} is black"
            if swaps == 0:
                self.shot("side-by-side")
            if swaps < 2:
                self.ui.swapButton.click()

    def slicerAlone(self):
        """What takes the time of a click and of a place of the cursor when Slicer does it by itself."""
        from SAMv2SlicerLib.scene import layouts

        p = self.parameters
        scans = {"A": p.templateVolume, "B": p.queryVolume}
        facts = self.report["times"]["Slicer alone"] = {}
        slicer.util.selectModule("Data")
        d.wait(500)
        self.gaps.taken()
        slicer.app.layoutManager().setLayout(layouts.SIDE_BY_SIDE_ID)
        for row, volume in scans.items():
            for name in layouts.rowNames(row):
                d.sliceWidget(name).sliceLogic().GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
                d.sliceWidget(name).sliceLogic().FitSliceToAll()
        d.wait(500)
        facts["layout"] = self.gaps.taken()
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "alone")
        node.CreateDefaultDisplayNodes()
        node.AddControlPoint(*self.center[0])
        view, around = layouts.viewName("A", "Axial"), list(layouts.rowNames("B"))
        d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*self.center[0])
        d.wait(500)
        self.gaps.taken()
        shown = []
        for place in self.center[:3]:
            with d.Renderings(around) as drawn:
                started = time.monotonic()
                slicer.app.pauseRender()
                node.AddControlPoint(*place)
                for name in around:
                    d.sliceWidget(name).mrmlSliceNode().JumpSliceByCentering(*place)
                slicer.app.resumeRender()
                d.wait(300)
            shown.append(round(drawn.after(started) - started, 3))
        facts["a point and three views, shown_s"] = shown
        facts["window, a point and three views"] = self.gaps.taken()
        x, y = d.pixelOf(view, self.center[0])
        d.enterView(view, (x, y))
        d.wait(300)
        self.gaps.taken()
        started, places = time.monotonic(), 60
        for n in range(places):
            d.move(view, (x + 40 * np.cos(n / 12), y + 40 * np.sin(n / 12)))
            place = self.center[0] + [20 * np.cos(n / 12), 20 * np.sin(n / 12), 0.1 * n]
            slicer.app.pauseRender()  # all views are drawn once per place, which is the least
            node.SetNthControlPointPosition(0, *place)
            for name in around:
                d.sliceWidget(name).mrmlSliceNode().JumpSliceByOffsetting(*place)
            slicer.app.resumeRender()
            d.wait(16)
        facts["places of a cursor, per_s"] = round(places / (time.monotonic() - started), 1)
        facts["window, places of a cursor"] = self.gaps.taken()
        d.leaveView(view)
        slicer.mrmlScene.RemoveNode(node)
        slicer.util.selectModule("SAMv2Slicer")
        d.settle(self.widget)
        p = self.parameters
        if (p.templateVolume, p.queryVolume) != (scans["A"], scans["B"]):
            p.templateVolume, p.queryVolume = scans["A"], scans["B"]
        if not self.ui.sideBySideButton.checked:
            self.ui.sideBySideButton.click()
        d.settle(self.widget)
        self.own.taken()

    # --- points --------------------------------------------------------------------------------------------------

    def _clickedTimes(self, view, place, isIdle=True):
        """Click on a place of a view; seconds until a match of it is in the scene, is drawn in the query, and refined.

        :param isIdle: nothing else is computed, so that the end of all is the end of this.
        """
        from SAMv2SlicerLib.scene import layouts

        with d.matchMoments(self.widget.logic) as written:
            d.hover(view, d.pixelOf(view, place))
            with d.Renderings([layouts.viewName("B", "Axial")]) as drawn:
                started = time.monotonic()
                d.press(view)
                d.waitUntil(lambda: written and drawn.after(written[0]), 900, "no match")
            if isIdle:
                d.settle(self.widget)
            else:
                d.waitUntil(lambda: len(written) > 1, 60, "not refined")
        moments = written[0], drawn.after(written[0]), written[-1]
        return {name: round(moment - started, 3) for name, moment in zip(("quick_s", "shown_s", "refined_s"), moments)}

    def click(self):
        """First click: embeds; second click: the time that counts."""
        from SAMv2SlicerLib.scene import layouts, match_list, node_geometry

        view = layouts.viewName("A", "Axial")
        node = self.ui.pointsWidget.markupsSelectorComboBox().addNode()
        d.settle(self.widget)
        assert self.parameters.points is node
        color = node.GetDisplayNode().GetSelectedColor()
        assert np.allclose(color, match_list.COLOR_POINTS, atol=0.02), f"the new list is {color}"
        errors = []
        for n, place in enumerate(self.center[:3]):
            d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*place)
            self.ui.pointsWidget.placeActive(True)
            d.wait(100)
            self.report["times"][f"click {n + 1}"] = self._clickedTimes(view, place)
            assert node.GetNumberOfDefinedControlPoints() == n + 1, "the click placed nothing"
            matched = match_list.findMatchList(node, self.parameters.queryVolume)
            world = node_geometry.pointWorld(node, n)
            if n in node_geometry.definedPointIndices(matched):
                errors.append(float(np.linalg.norm(node_geometry.pointWorld(matched, n) - self.truth(world)[0])))
        self.report["facts"]["match_errors_mm"] = [round(error, 2) for error in errors]
        assert errors and np.median(errors) < TOLERANCE_MM, errors
        d.move(view, (5, 5))  # a point under the mouse has another color
        d.wait(200)
        assert _hasColor(view, match_list.COLOR_POINTS), "the points are not drawn in their color"
        self.shot("matched")

    def clickElsewhere(self):
        """A click on the query while points of the template are placed: refused, with a word."""
        from SAMv2SlicerLib.scene import layouts

        view, node = layouts.viewName("B", "Axial"), self.parameters.points
        count = node.GetNumberOfDefinedControlPoints()
        self.ui.pointsWidget.placeActive(True)
        d.wait(100)
        size = d.sliceWidget(view).mrmlSliceNode().GetDimensions()
        d.click(view, (size[0] // 2, size[1] // 2))
        d.wait(200)
        told = self.ui.statusLabel.text
        self.ui.pointsWidget.placeActive(False)
        assert node.GetNumberOfDefinedControlPoints() == count, "a point of the template was placed on the query"
        assert self.parameters.templateVolume.GetName() in told and "click on" in told, told

    def unseen(self):
        """Matches in a scan that no view shows: the panel says so, also following the cursor, and offers both."""
        from SAMv2SlicerLib.scene import layouts, match_list, node_geometry

        ui, query = self.ui, self.parameters.queryVolume
        ui.sideBySideButton.click()
        slicer.util.setSliceViewerLayers(background=self.parameters.templateVolume, fit=True)
        d.settle(self.widget)
        assert query.GetName() in ui.statusLabel.text and ui.statusActionButton.visible, ui.statusLabel.text
        ui.followCursorButton.click()
        d.settle(self.widget)
        assert f"no view shows {query.GetName()}" in ui.statusLabel.text, ui.statusLabel.text
        ui.followCursorButton.click()
        self.widget.panel.clearMessage()
        self.widget.panel.refresh()
        d.settle(self.widget)
        assert ui.statusActionButton.text == "Show side by side", ui.statusActionButton.text
        ui.statusActionButton.click()
        d.settle(self.widget)
        view = layouts.viewName("B", "Axial")
        matched = match_list.findMatchList(self.parameters.points, query)
        place = node_geometry.pointWorld(matched, matched.GetNumberOfControlPoints() - 1)
        node = d.sliceWidget(view).mrmlSliceNode()
        x, y = d.pixelOf(view, place)
        assert _isVisible(view) and 0 < x < node.GetDimensions()[0] and 0 < y < node.GetDimensions()[1]
        assert abs(node.GetSliceOffset() - place[2]) < 1.0, "the match is in another slice"

    def drag(self):
        from SAMv2SlicerLib.scene import layouts, match_list, node_geometry

        view, node = layouts.viewName("A", "Axial"), self.parameters.points
        matched = match_list.findMatchList(node, self.parameters.queryVolume)
        before = node_geometry.pointWorld(node, 2)
        d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*before)
        d.wait(200)
        start = d.pixelOf(view, before)
        lines = self.ui.logTextEdit.plainText.count("\n")
        d.drag(view, start, (start[0] + 25, start[1] + 12))
        d.settle(self.widget)
        after = node_geometry.pointWorld(node, 2)
        assert np.linalg.norm(after - before) > 5, "the point was not dragged"
        assert 2 in node_geometry.definedPointIndices(matched), "the match was lost"
        error = np.linalg.norm(node_geometry.pointWorld(matched, 2) - self.truth(after)[0])
        self.report["facts"]["dragged_error_mm"] = round(float(error), 2)
        assert error < 2 * TOLERANCE_MM, error
        assert self.ui.logTextEdit.plainText.count("\n") - lines < 5, "the log grew with every movement"

    def followCursor(self):
        from SAMv2SlicerLib.scene import layouts

        view = layouts.viewName("A", "Axial")
        d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*self.center[0])
        follower = self.widget.panel.matchTab.follower
        shown = self._follow(view, "follow cursor")
        glyph = follower.glyph()
        assert glyph is not None and glyph.GetDisplayVisibility(), "there is no glyph"
        d.leaveView(view)
        d.enterView(layouts.viewName("B", "Axial"), (50, 50))
        d.wait(300)
        assert glyph.GetDisplayVisibility(), "the glyph goes when the mouse enters the query's view"
        assert not glyph.GetDisplayNode().GetPointLabelsVisibility()
        self.shot("follow-cursor")
        self.ui.followCursorButton.checked = False
        assert shown >= 3

    def _follow(self, view, name, pause=16):
        """Move the cursor in circles, 60 times a second as a mouse does; how many places were answered. The button
        stays pressed."""
        self.ui.followCursorButton.checked = True
        follower = self.widget.panel.matchTab.follower
        assert follower.isFollowing()
        shown = []
        show = follower._show
        follower._show = lambda computed: shown.append(time.monotonic()) or show(computed)
        x, y = d.pixelOf(view, self.center[0])
        d.enterView(view, (x, y))
        logic = self.widget.logic
        with d.Work((logic, "startPosition"), (logic, "tick"), (follower, "_show")) as work:
            started = time.monotonic()
            for n in range(PLACES):
                d.move(view, (x + 40 * np.cos(n / 12), y + 40 * np.sin(n / 12)))
                d.wait(pause)
            elapsed = time.monotonic() - started
            d.wait(300)
        follower.__dict__.pop("_show", None)
        self.report["times"][f"work, {name}"] = work.facts()
        self.report["times"][name] = {
            "places": PLACES,
            "asked_per_s": round(PLACES / elapsed, 1),
            "answered": len(shown),
            "per_s": round(len(shown) / elapsed, 1),
        }
        return len(shown)

    def _noise(self, name, slices=150):
        """A scan that nobody has embedded: 150 slices are some ten seconds of two quiet cores."""
        values = np.random.default_rng().integers(-1000, 1000, (slices, 200, 200), dtype=np.int16)
        return slicer.util.addVolumeFromArray(values, np.diag([2.0, 2.0, 2.0, 1.0]), name)

    def whileEmbedding(self):
        """Click and follow the cursor while another scan is embedded."""
        from SAMv2SlicerLib.scene import layouts

        view, node = layouts.viewName("A", "Axial"), self.parameters.points
        if not self.widget.logic.engine.isRemote:
            return "skipped: this Slicer computes by itself"
        template, query = self.parameters.templateVolume, self.parameters.queryVolume
        noise = self._noise("noise", slices=600)
        self.parameters.templateVolume, self.parameters.queryVolume = template, query
        d.settle(self.widget)
        job = self.widget.logic.startEmbedding(noise, modality="ct")
        d.waitUntil(lambda: job.fraction > 0.1, 120, "the embedding does not begin")
        self.gaps.taken()
        quick = []
        for place in self.center[:3] + [4.0, 3.0, 0.0]:
            d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*place)
            self.ui.pointsWidget.placeActive(True)
            d.wait(200)
            quick.append(self._clickedTimes(view, place, isIdle=False))
            d.wait(1500)  # refined, too
        self.report["times"]["clicks while embedding"] = quick
        clicking = self.gaps.taken()
        d.sliceWidget(view).mrmlSliceNode().JumpSliceByOffsetting(*self.center[0])
        shown = self._follow(view, "follow cursor while embedding")
        self.ui.followCursorButton.checked = False
        d.leaveView(view)
        following = self.gaps.taken()
        isStill = not job.isFinished()
        job.cancel()
        d.settle(self.widget)
        d.wait(1000)
        self.report["times"]["window while embedding"] = {"clicking": clicking, "following": following}
        slicer.mrmlScene.RemoveNode(noise)
        for _ in range(3):
            node.RemoveNthControlPoint(node.GetNumberOfControlPoints() - 1)
        d.settle(self.widget)
        assert isStill, "the embedding ended too early to say anything"
        assert shown >= 3

    def processKilled(self):
        """Kill the process in the middle of an embedding: one line, nothing lost, and the next job works."""
        import signal

        engine = self.widget.logic.engine
        if not engine.isRemote:
            return "skipped: this Slicer computes by itself"
        noise = self._noise("noise 2")
        job = self.widget.logic.startEmbedding(noise, modality="ct")
        d.waitUntil(lambda: job.fraction > 0.05, 120, "the embedding does not begin")
        os.kill(engine._client.link.pid, signal.SIGKILL)
        d.waitUntil(lambda: job.isHandled, 10, "the death of the process is not noticed")
        assert "killed from outside" in str(job.error) and "started again" in self.ui.logTextEdit.plainText
        slicer.mrmlScene.RemoveNode(noise)
        self.ui.matchButton.click()
        d.settle(self.widget)
        assert "Cannot" not in self.ui.statusLabel.text
        return None

    def judge(self):
        from SAMv2SlicerLib.scene import match_list

        self.ui.resultsTable.selectRow(0)
        d.wait(100)
        self.ui.acceptButton.click()
        matched = match_list.findMatchList(self.parameters.points, self.parameters.queryVolume)
        assert match_list.resultAt(matched, 0).decision == match_list.ACCEPTED
        self.ui.matchButton.click()
        d.settle(self.widget)
        assert match_list.resultAt(matched, 0).decision == match_list.ACCEPTED, "matching again forgot a decision"
        self.shot("judged")

    def keys(self):
        """Keys typed into the window (XTest, by xdotool): the space bar presses what has the focus, else it accepts; F
        stays Slicer's."""
        import shutil

        from SAMv2SlicerLib.scene import layouts, match_list

        if shutil.which("xdotool") is None:
            return "skipped: there is no xdotool"
        ui = self.ui
        matched = match_list.findMatchList(self.parameters.points, self.parameters.queryVolume)
        slicer.util.mainWindow().activateWindow()
        slicer.util.mainWindow().raise_()
        d.wait(300)
        ui.resultsTable.selectRow(1)
        ui.sameWindowCheckBox.setFocus()
        d.wait(100)
        before = ui.sameWindowCheckBox.checked
        d.key("space")
        assert ui.sameWindowCheckBox.checked != before, "the space bar did not press the check box that has the focus"
        assert not match_list.resultAt(matched, 1).edited, "and it accepted a match"
        ui.sameWindowCheckBox.checked = before
        ui.resultsTable.setFocus()
        d.wait(100)
        d.key("space")
        d.settle(self.widget)
        assert match_list.resultAt(matched, 1).decision == match_list.ACCEPTED, "the space bar accepted nothing"
        view = layouts.viewName("A", "Axial")
        widget = d.sliceWidget(view)
        offset = widget.mrmlSliceNode().GetSliceOffset()
        d.pointAt(widget.sliceView(), isClick=True)  # Slicer's views have keys once they were clicked
        d.key("f")
        d.settle(self.widget)
        assert not ui.followCursorButton.checked, "F is the next slice in Slicer, not Follow cursor"
        assert widget.mrmlSliceNode().GetSliceOffset() != offset, "F is no longer Slicer's next slice"
        d.key("b")
        assert np.isclose(widget.mrmlSliceNode().GetSliceOffset(), offset), "B is no longer Slicer's slice before"
        d.key("shift+f")
        assert ui.followCursorButton.checked, "Shift+F does not follow the cursor"
        d.key("shift+f")
        import qt

        other = qt.QMainWindow()  # as a view that was moved to a second window
        other.setCentralWidget(qt.QPushButton("second window"))
        other.resize(300, 200)
        other.show()
        other.activateWindow()
        d.wait(500)
        d.pointAt(other, isClick=True)
        d.key("shift+f")
        isFollowing = ui.followCursorButton.checked
        ui.followCursorButton.checked = False
        other.close()
        slicer.util.mainWindow().activateWindow()
        d.wait(300)
        assert isFollowing, "the keys die in a second window"
        return None

    def landmarks(self):
        """Found in both scans by a button; their places agree with the truth of the simulated scan; jumped to."""
        from SAMv2SlicerLib.match import landmarks
        from SAMv2SlicerLib.scene import layouts, match_list, node_geometry

        ui, p = self.ui, self.parameters
        ui.tabWidget.currentIndex = 3
        d.wait(200)
        for volume in (p.queryVolume, p.templateVolume):
            p.landmarksVolume = volume
            d.settle(self.widget)
            ui.landmarksButton.click()
            d.settle(self.widget)
        places = [
            dict(landmarks.positions(landmarks.findLandmarkList(volume)))
            for volume in (p.templateVolume, p.queryVolume)
        ]
        sure = [
            name
            for name in places[0]
            if name in places[1]
            and all(
                match_list.resultAt(node, match_list.indexOfTemplatePoint(node, name)).status == match_list.MATCHED
                for node, _ in landmarks.landmarkLists()
            )
        ]
        errors = [float(np.linalg.norm(self.truth(places[0][name])[0] - places[1][name])) for name in sure]
        self.report["facts"]["landmarks"] = {
            "found": len(places[0]),
            "sure in both": len(sure),
            "median_mm": round(float(np.median(errors)), 2) if errors else None,
        }
        if len(places[0]) < 5:
            return "skipped: the scan is no body" if not places[0] else None
        assert sure and np.median(errors) < TOLERANCE_MM, self.report["facts"]["landmarks"]
        name = sure[0]
        word = name.replace("_", " ")
        assert ui.landmarksTable.rowCount > len(places[0]), "the table has no headings"
        names = [ui.jumpToComboBox.itemText(n) for n in range(ui.jumpToComboBox.count)]
        ui.jumpToComboBox.currentIndex = names.index(word)
        d.settle(self.widget)
        for row, known in zip("AB", places):
            node = d.sliceWidget(layouts.viewName(row, "Axial")).mrmlSliceNode()
            middle = [node.GetSliceToRAS().GetElement(k, 3) for k in range(3)]
            assert np.allclose(middle, known[name], atol=1.0), (row, middle, known[name])
        table = ui.landmarksTable
        for r in range(table.rowCount):
            if table.item(r, 0).text() == word:
                table.selectRow(r)
        d.scrollToTop(ui.tabWidget)
        d.wait(200)
        self.shot("landmarks")
        node = landmarks.findLandmarkList(p.templateVolume)
        n = match_list.indexOfTemplatePoint(node, name)
        ui.acceptLandmarkButton.click()
        assert match_list.resultAt(node, n).decision == match_list.ACCEPTED
        said = landmarks.whereIs(p.templateVolume, node_geometry.pointWorld(node, n))
        assert f"at {word}" in said, said
        ui.tabWidget.currentIndex = 0
        return None

    # --- scenes --------------------------------------------------------------------------------------------------

    def _selection(self):
        p = self.parameters
        return {
            "template": p.templateVolume and p.templateVolume.GetName(),
            "query": p.queryVolume and p.queryVolume.GetName(),
            "points": p.points and p.points.GetName(),
            "follow-ups": [node.GetName() for node in p.followUpVolumes if node is not None],
            "marks": [node.GetName() for node in p.lesionSources if node is not None],
            "shown": [node.GetName() for node in self.ui.followUpsSelector.checkedNodes()],
            "list": self.ui.pointsWidget.currentNode() and self.ui.pointsWidget.currentNode().GetName(),
        }

    def saveAndLoad(self):
        from SAMv2SlicerLib.scene import layouts, match_list, node_geometry

        p = self.parameters
        p.baselineVolume = p.templateVolume
        p.followUpVolumes = [slicer.util.getNode(name) for name in self.names[1:]]
        p.lesionSources = [p.points]
        d.settle(self.widget)
        before = self._selection()
        matched = match_list.findMatchList(p.points, p.queryVolume)
        places = [node_geometry.pointWorld(matched, n) for n in node_geometry.definedPointIndices(matched)]
        self.path = str(self.folder / "scene.mrb")
        assert slicer.util.saveScene(self.path)
        slicer.mrmlScene.Clear()
        d.wait(300)
        assert slicer.util.loadScene(self.path)
        d.settle(self.widget)
        assert self._selection() == before, (before, self._selection())
        matched = match_list.findMatchList(self.parameters.points, self.parameters.queryVolume)
        again = [node_geometry.pointWorld(matched, n) for n in node_geometry.definedPointIndices(matched)]
        assert np.allclose(places, again, atol=1e-3)
        assert match_list.resultAt(matched, 0).decision == match_list.ACCEPTED
        assert "was moved" not in self.ui.statusLabel.text, self.ui.statusLabel.text
        node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        assert node.GetViewArrangement() == layouts.SIDE_BY_SIDE_ID and self.ui.sideBySideButton.checked
        assert _isVisible(layouts.viewName("A", "Axial")) and _isVisible(layouts.viewName("B", "Axial"))
        self.shot("loaded")

    def readByOthers(self):
        """What was written while the panel was shown side by side: every Slicer shows it, also without the module."""
        import re
        import zipfile

        with zipfile.ZipFile(self.path) as bundle:
            name = next(name for name in bundle.namelist() if name.endswith(".mrml"))
            written = bundle.read(name).decode("utf-8")
        layout = int(re.search(r'currentViewArrangement="(\d+)"', written).group(1))
        assert layout < 1000, f"the scene names a layout that only the module has: {layout}"
        displays = re.findall(r"<MarkupsFiducialDisplay.*?>", written, re.DOTALL)
        assert displays and "SAMv2-" not in "".join(displays), "lists are confined to views of the module"

    def importAgain(self):
        """Importing a scene into this one matches nothing unasked."""
        started, start = [], self.widget.logic.startMatch
        self.widget.logic.startMatch = lambda *args, **options: started.append(args) or start(*args, **options)
        try:
            volumes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
            assert slicer.util.loadScene(self.path, {"clear": False})
            d.settle(self.widget)
            assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") > volumes
            assert not started, "imported points were matched"
        finally:
            del self.widget.logic.startMatch
        slicer.mrmlScene.Clear()
        d.wait(300)
        assert slicer.util.loadScene(self.path)
        d.settle(self.widget)

    # --- lesions -------------------------------------------------------------------------------------------------

    def track(self):
        from SAMv2SlicerLib.scene import match_list, node_geometry
        from SAMv2SlicerLib.track import findings as lesion_findings
        from SAMv2SlicerLib.track import lesion_list

        self.ui.tabWidget.currentIndex = 1
        d.wait(200)
        p = self.parameters
        self.ui.trackButton.click()
        d.settle(self.widget)
        table = self.ui.findingsTable
        assert (table.rowCount, table.columnCount) == (p.points.GetNumberOfControlPoints(), 3), (
            "the matrix is not there"
        )
        if not self.ui.allStudiesButton.checked:  # shown by themselves when they are few
            self.ui.allStudiesButton.click()
        table.setCurrentCell(0, 1)
        d.settle(self.widget)
        assert self.ui.allStudiesButton.checked and all(_isVisible(f"SAMv2-S{n}") for n in (1, 2, 3))
        for n, finding in enumerate(lesion_findings.findings(self.widget.logic.tracker.lesionList())[0], 1):
            node = d.sliceWidget(f"SAMv2-S{n}").mrmlSliceNode()
            middle = [node.GetSliceToRAS().GetElement(k, 3) for k in range(3)]
            assert finding.world is None or np.allclose(middle, finding.world, atol=1.0), (n, middle, finding.world)
        d.scrollToTop(self.ui.tabWidget)
        self.shot("tracked")
        findings = lesion_list.findingsOf(self.widget.logic.tracker.lesionList())[0]
        index = node_geometry.definedPointIndices(findings)[0]
        place = node_geometry.pointWorld(findings, index) + [3.0, 0.0, 0.0]
        findings.SetNthControlPointPositionWorld(index, *place)
        d.settle(self.widget)
        assert match_list.resultAt(findings, index).decision == match_list.MOVED, "a correction was not noticed"
        self.ui.trackButton.click()
        d.settle(self.widget)
        assert np.allclose(node_geometry.pointWorld(findings, index), place, atol=1e-3), "a correction was overwritten"
        self.ui.allStudiesButton.click()
        d.settle(self.widget)

    def exportTables(self):
        from SAMv2SlicerLib.track import findings_table

        path = self.folder / "lesions.csv"
        listNode = self.widget.panel.trackTab.lesionList()
        rows = findings_table.writeCSV(str(path), listNode, self.widget.panel.trackTab.followUps())
        assert rows == 3 * self.parameters.points.GetNumberOfControlPoints() and path.stat().st_size > 200

    def severalTemplates(self):
        """A third study, into which the points were matched, as a further template: one answer from both."""
        from SAMv2SlicerLib.scene import match_list, node_geometry

        ui, p = self.ui, self.parameters
        ui.tabWidget.currentIndex = 0
        second, third = (slicer.util.getNode(name) for name in self.names[1:])
        for query in (third, second):
            p.queryVolume = query
            d.settle(self.widget)
            if query is second:
                ui.furtherTemplateSelector.setCurrentNode(third)
                assert ui.furtherPointsSelector.currentNode() is match_list.findMatchList(p.points, third)
                ui.addTemplateButton.click()
                d.settle(self.widget)
            ui.matchButton.click()
            d.settle(self.widget)
        matched = match_list.findMatchList(p.points, second)
        errors = []
        for n in node_geometry.definedPointIndices(matched):
            result = match_list.resultAt(matched, n)
            if not result.edited:
                assert result.templates == 2, "not looked for from both scans"
                k = p.points.GetNthControlPointIndexByID(result.templatePoint)
                true = self.truth(node_geometry.pointWorld(p.points, k))[0]
                errors.append(float(np.linalg.norm(node_geometry.pointWorld(matched, n) - true)))
        self.report["facts"]["several_templates_errors_mm"] = [round(error, 2) for error in errors]
        ui.sideBySideButton.click()
        ui.advancedCollapsibleButton.collapsed = False
        d.settle(self.widget)
        d.scrollTo(ui.furtherTemplatesTable)
        self.shot("further-templates")
        ui.sideBySideButton.click()
        ui.furtherTemplatesTable.setCurrentCell(0, 0)
        ui.removeTemplateButton.click()
        ui.advancedCollapsibleButton.collapsed = True
        d.settle(self.widget)
        assert not p.furtherTemplateVolumes and errors and max(errors) < TOLERANCE_MM, errors

    def structuredReport(self):
        """With the pydicom of this Slicer; needs highdicom."""
        from SAMv2Core.io import structured_report as sr

        if not sr.is_available():
            return "skipped: highdicom is not installed in this Slicer"
        from Testing.samples.dicom_series import writeSeries

        folder = self.folder / "dicom"
        folder.mkdir(exist_ok=True)
        study = sr.Study(tuple(writeSeries(folder)), "Baseline", 0)
        lesion = sr.ReportedLesion("L1", sr.new_tracking_uid(), (0.0, 0.0, 104.0), "matched", diameter_mm=9.0)
        sr.write_report(str(self.folder / "report.dcm"), study, [lesion], "lite-ct", "0")
        assert (self.folder / "report.dcm").stat().st_size > 1000
        return None

    # --- registration --------------------------------------------------------------------------------------------

    def register(self):
        self.ui.tabWidget.currentIndex = 2
        d.wait(200)
        p = self.parameters
        p.fixedVolume, p.movingVolume = (slicer.util.getNode(name) for name in self.names[:2])
        self.ui.registerButton.click()
        d.settle(self.widget)
        assert p.outputTransform is not None, self.ui.statusLabel.text
        assert p.movingVolume.GetParentTransformNode() is p.outputTransform
        self.shot("registered")

    def compare(self):
        from SAMv2SlicerLib.scene import layouts

        view = d.sliceWidget(layouts.viewName("A", "Axial")).sliceLogic().GetSliceCompositeNode()
        before = view.GetBackgroundVolumeID()
        ui = self.ui
        for button in (ui.fadeButton, ui.checkerboardButton, ui.fadeButton):
            button.click()
            d.settle(self.widget)
            assert button.checked and button.enabled
            assert all(_isVisible(name) for name in layouts.rowNames("A")), "the comparison is black"
            made = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if "Checkerboard" in n.GetName()]
            assert len(made) == (1 if button is ui.checkerboardButton else 0), "one checkerboard, while it is shown"
            d.scrollToTop(ui.tabWidget)
            self.shot("checkerboard" if button is ui.checkerboardButton else "compare")
        boards = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if "Checkerboard" in n.GetName()]
        assert not boards, "the checkerboard stayed"
        ui.fadeButton.click()
        d.settle(self.widget)
        assert view.GetBackgroundVolumeID() == before and not view.GetForegroundVolumeID(), "no way back"

    def undoAndRedo(self):
        card = self.ui.registrationCardLabel.text
        assert "Residual" in card, card
        self.ui.undoButton.click()
        d.settle(self.widget)
        assert slicer.util.getNode(self.names[1]).GetParentTransformNode() is None
        self.ui.redoButton.click()
        d.settle(self.widget)
        assert slicer.util.getNode(self.names[1]).GetParentTransformNode() is not None
        assert self.ui.registrationCardLabel.text == card, "the card was lost by undo and redo"

    # --- module --------------------------------------------------------------------------------------------------

    def reload(self):
        for _ in range(2):
            self.widget.onReload()
            d.settle(self.widget)
            assert self.parameters.templateVolume is not None
        self.ui.tabWidget.currentIndex = 0
        self.ui.matchButton.click()
        d.settle(self.widget)

    def readFollowUp(self):
        """From two DICOM studies to a report in the database, and the report as the next month's baseline."""
        import reading

        return reading.readFollowUp(self)

    def quitDuringAJob(self):
        """Begin to embed a scan that nobody has embedded; whoever started Slicer sees that it ends."""
        self._noise("noise")
        self.widget.logic.startEmbedding("noise", modality="ct")
        d.wait(1500)
        assert self.widget.logic.worker.isBusy()


def _imported(package):
    """A package with all that is in it; its name."""
    import importlib
    import pkgutil

    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        importlib.import_module(module.name)
    return package


def _scan():
    """(volume at 2 mm, what it is): the chest of the sample scan, else a synthetic one."""
    from SAMv2Core.errors import SAMv2Error
    from SAMv2Core.geometry.grid import Grid
    from SAMv2Core.io.resample import resample_to
    from SAMv2Core.io.volume import Volume
    from SAMv2SlicerLib.setup import sample_data

    try:
        whole = sample_data.readTemplate()
    except SAMv2Error:
        sys.path.insert(0, str(HERE.parent))
        from phantoms import phantom

        return Volume(phantom((60, 90, 110)), np.diag([2.0, 2.0, 2.0, 1.0]), modality="ct"), "synthetic"
    grid = whole.grid
    matrix = grid.ijk_to_lps.copy()
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    size = np.array(grid.shape_zyx[::-1]) * spacing / 2.0
    matrix[:3, :3] *= 2.0 / spacing
    first = int(0.35 * size[2])
    matrix[:3, 3] += matrix[:3, 2] * first
    shape = (int(0.5 * size[2]), int(size[1]), int(size[0]))
    part = resample_to(Grid(shape, matrix), whole)
    return Volume(part.array, part.ijk_to_lps, modality="ct"), "LIDC-IDRI-0001, chest at 2 mm"


def _places(volume):
    """(4, 3) LPS of places in the body of a scan, some cm apart: voxels of strong contrast near its middle."""
    z, y, x = volume.array.shape
    where = [(0.5, 0.45, 0.5), (0.5, 0.6, 0.42), (0.5, 0.5, 0.6), (0.4, 0.5, 0.45)]
    ijk = np.array([(fx * x, fy * y, fz * z) for fz, fy, fx in where])
    return volume.grid.to_lps(ijk)


def _isVisible(name):
    """Whether a view shows more than one gray value: it is rendered, and its picture is looked at."""
    from vtk.util.numpy_support import vtk_to_numpy

    widget = d.sliceWidget(name)
    widget.sliceView().forceRender()
    image = widget.sliceLogic().GetBlend().GetOutput() if hasattr(widget.sliceLogic(), "GetBlend") else None
    if image is None or not image.GetNumberOfPoints():
        port = widget.sliceLogic().GetImageDataConnection()
        if port is None:
            return False
        port.GetProducer().Update()
        image = port.GetProducer().GetOutputDataObject(0)
    values = vtk_to_numpy(image.GetPointData().GetScalars())
    return float(values[..., :3].std()) > 5


def _hasColor(name, color):
    """Whether something is drawn in a color (0..1) in a view, as it is on the screen."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    view = d.sliceWidget(name).sliceView()
    view.forceRender()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(view.renderWindow())
    grab.ReadFrontBufferOff()
    grab.Update()
    pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars())[:, :3].astype(float)
    return int((np.abs(pixels - 255 * np.array(color)).max(axis=1) < 40).sum()) > 20


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", default="", help="names of steps, with commas; default: all")
    parser.add_argument("--output", default=str(Path(slicer.app.temporaryPath) / "samv2-tour"))
    options, _ = parser.parse_known_args(sys.argv[1:])
    tour = Tour(options.output)
    isPassed = False
    try:
        isPassed = tour.run([name for name in options.steps.split(",") if name])
        tour.write()
        print(f"Report: {tour.folder / 'report.json'}", flush=True)
    finally:
        slicer.util.exit(0 if isPassed else 1)


if __name__ == "__main__":
    main()
