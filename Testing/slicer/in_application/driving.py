"""Driving Slicer's window from a script: waiting in its own event loop, mouse events in slice views, screenshots."""

import contextlib
import functools
import inspect
import re
import subprocess
import sys
import time

import numpy as np
import qt
import slicer
import slicer.util


def wait(milliseconds):
    """Let Slicer's event loop run, as it does when nobody runs a script: it then holds Python's lock."""
    loop = qt.QEventLoop()
    qt.QTimer.singleShot(int(milliseconds), loop.quit)
    loop.exec_()


class Gaps:
    """How long the window stood still: a timer of 10 ms that notes when it came late.

    On a busy computer it comes late for others' sake; so the work of this thread between two ticks is noted, too.
    """

    def __init__(self):
        self._timer = qt.QTimer()
        self._timer.interval = 10
        self._timer.timerType = qt.Qt.PreciseTimer
        self._timer.timeout.connect(self._tick)
        self._timer.start()
        self.taken()

    def _tick(self):
        now = time.monotonic(), time.thread_time()
        self._gaps.append((now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now

    def taken(self):
        """Since the last call, in ms: longest pause between two ticks, how many were above 50 ms; the same of work."""
        gaps, self._gaps, self._last = getattr(self, "_gaps", []), [], (time.monotonic(), time.thread_time())
        waited, worked = ([gap[n] for gap in gaps] or [0.0] for n in (0, 1))
        return {
            "ticks": len(gaps),
            "longest_ms": round(1000 * max(waited)),
            "above_50_ms": sum(gap > 0.05 for gap in waited),
            "longest_work_ms": round(1000 * max(worked)),
            "work_above_50_ms": sum(gap > 0.05 for gap in worked),
        }


class OwnWork:
    """How long the module's own handlers hold the window up: calls by Qt, VTK or a timer, from their begin to their
    end, with all that they let Slicer do meanwhile.

    Made before the module's panel is: what is connected is what handlers are then.
    """

    HANDLER = re.compile(
        r"_?on[A-Z]|(_settled|_afterwards|_advance|_currentCellChanged|_selectionChanged|_enable|noteAction)$"
    )

    def __init__(self, package):
        self._isIn = False
        self.taken()
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == package:
                for cls in [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == name]:
                    for own, method in list(vars(cls).items()):
                        if inspect.isfunction(method) and self.HANDLER.match(own):
                            setattr(cls, own, self._timed(f"{cls.__name__}.{own}", method))

    def _timed(self, name, method):
        count = method.__code__.co_argcount
        hasMore = bool(method.__code__.co_flags & inspect.CO_VARARGS)

        @functools.wraps(method)
        def call(*args, **options):
            args = args if hasMore else args[:count]  # PythonQt hands over no more than a method takes
            if self._isIn:
                return method(*args, **options)
            self._isIn, started = True, (time.monotonic(), time.thread_time())
            try:
                return method(*args, **options)
            finally:
                self._isIn = False
                self._calls.append((time.monotonic() - started[0], time.thread_time() - started[1], name))

        return call

    def taken(self):
        """Since the last call: the longest call and the longest work of this thread in one, in ms; and the calls that
        took longer than 50 ms, as name -> [[ms, work in ms]]."""
        calls, self._calls = sorted(getattr(self, "_calls", []), reverse=True), []
        above = {}
        for seconds, worked, name in calls:
            if seconds > 0.05:
                above.setdefault(name, []).append([round(1000 * seconds), round(1000 * worked)])
        return {
            "longest_ms": round(1000 * max([call[0] for call in calls], default=0)),
            "longest_work_ms": round(1000 * max([call[1] for call in calls], default=0)),
            "above_50_ms": above,
        }


@contextlib.contextmanager
def matchMoments(logic):
    """Moments at which matches come into the scene, a list that grows: the first ones, then the refined ones."""
    moments, told = [], logic.onMatched

    def onMatched(*arguments):
        moments.append(time.monotonic())
        told(*arguments)

    logic.onMatched = onMatched
    try:
        yield moments
    finally:
        logic.onMatched = told


class Renderings:
    """When views were drawn, while it is entered.

    :param names: of slice views.
    """

    def __init__(self, names):
        self._names, self._tags, self.ends = names, [], []

    def __enter__(self):
        for name in self._names:
            window = sliceWidget(name).sliceView().renderWindow()
            self._tags.append((window, window.AddObserver("EndEvent", self._note)))
        return self

    def __exit__(self, *error):
        for window, tag in self._tags:
            window.RemoveObserver(tag)

    def _note(self, caller, event):
        self.ends.append(time.monotonic())

    def after(self, moment):
        """When the first of them was drawn after a moment, None if none was."""
        return next((end for end in self.ends if end > moment), None)


class Work:
    """Work of this thread in some methods, while it is entered.

    :param methods: (object, name of the method).
    """

    def __init__(self, *methods):
        self._methods, self._spent = methods, {}

    def __enter__(self):
        for owner, name in self._methods:
            setattr(owner, name, self._timed(name, getattr(owner, name)))
        return self

    def __exit__(self, *error):
        for owner, name in self._methods:
            delattr(owner, name)

    def _timed(self, name, method):
        spent = self._spent.setdefault(name, [])

        def call(*args, **options):
            started = time.thread_time()
            try:
                return method(*args, **options)
            finally:
                spent.append(1000 * (time.thread_time() - started))

        return call

    def facts(self):
        """Name -> calls, mean and longest in ms."""
        return {
            name: {"calls": len(ms), "mean_ms": round(float(np.mean(ms)), 2), "longest_ms": round(max(ms), 1)}
            for name, ms in self._spent.items()
            if ms
        }


def waitUntil(condition, seconds, what):
    """Seconds until a condition holds; an AssertionError when it does not in time."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s: {what}"
        wait(10)
    return time.monotonic() - start


def settle(widget, seconds=900):
    """Until the panel has nothing left to do."""
    panel = widget.panel

    def isIdle():
        busy = panel.timer.active or panel.refreshTimer.active or widget.logic.worker.isBusy()
        return not (busy or panel.isImporting() or panel.layout.isSettling())

    waitUntil(isIdle, seconds, "the panel is still busy")
    wait(50)


def sliceWidget(name):
    found = slicer.app.layoutManager().sliceWidget(name)
    assert found is not None, f"there is no view {name}"
    return found


def interactorOf(name):
    return sliceWidget(name).interactorStyle().GetInteractor()


def pixelOf(name, world):
    """Where in a slice view (x, y from below) a world RAS position is."""
    node = sliceWidget(name).mrmlSliceNode()
    toXY = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
    return tuple(round(v) for v in (toXY @ [*world, 1.0])[:2])


def move(name, pixel):
    interactor = interactorOf(name)
    interactor.SetEventInformation(int(pixel[0]), int(pixel[1]), 0, 0)
    interactor.MouseMoveEvent()


def enterView(name, pixel):
    interactorOf(name).EnterEvent()
    move(name, pixel)


def leaveView(name):
    interactorOf(name).LeaveEvent()


def click(name, pixel):
    """A click of the left button, with the mouse moved there before."""
    hover(name, pixel)
    press(name)


def hover(name, pixel):
    """The mouse comes to a place and rests there."""
    enterView(name, pixel)
    wait(30)


def press(name):
    """The left button, where the mouse is."""
    interactor = interactorOf(name)
    interactor.LeftButtonPressEvent()
    interactor.LeftButtonReleaseEvent()


def drag(name, start, end, steps=15, pause=30):
    enterView(name, start)
    wait(50)
    interactor = interactorOf(name)
    interactor.LeftButtonPressEvent()
    for n in range(1, steps + 1):
        move(name, np.array(start) + (np.array(end) - start) * n / steps)
        wait(pause)
    interactor.LeftButtonReleaseEvent()


def isOnScreen(widget):
    """Whether all of a widget is seen in the module panel as it is scrolled."""
    area = widget.parent()
    while not area.inherits("QScrollArea"):
        area = area.parent()
    corners = (qt.QPoint(0, 0), qt.QPoint(widget.width - 1, widget.height - 1))
    visible = qt.QRect(area.viewport().mapToGlobal(qt.QPoint(0, 0)), area.viewport().size)
    return widget.visible and all(visible.contains(widget.mapToGlobal(corner)) for corner in corners)


def scrollToTop(widget):
    """Show the beginning of the module panel that a widget is in."""
    area = widget.parent()
    while not area.inherits("QScrollArea"):
        area = area.parent()
    area.verticalScrollBar().value = 0


def scrollTo(widget):
    """Show a widget of the module panel."""
    area = widget.parent()
    while not area.inherits("QScrollArea"):
        area = area.parent()
    area.ensureWidgetVisible(widget)


def pointAt(widget, isClick=False):
    """The real mouse onto the middle of a widget."""
    middle = widget.mapToGlobal(qt.QPoint(widget.width // 2, widget.height // 2))
    xdotool("mousemove", str(middle.x()), str(middle.y()), *(("click", "1") if isClick else ()))


def key(keys):
    """Type a key into the window that has the focus."""
    xdotool("key", keys)


def xdotool(*arguments):
    """Events that come from the X server, through Qt's own translation, focus and shortcuts."""
    subprocess.run(["xdotool", *arguments], check=True, timeout=20)
    wait(250)


def screenshot(path):
    """The whole main window as it is on the screen."""
    wait(150)
    window = slicer.util.mainWindow()
    screen = window.windowHandle().screen() if window.windowHandle() is not None else None
    picture = screen.grabWindow(window.winId()) if screen is not None else window.grab()
    if picture.isNull():
        picture = window.grab()
    assert picture.save(str(path)), path
