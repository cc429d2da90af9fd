"""One thread that computes, and the hand-over of its results to the main thread.

MRML, VTK data of the scene and Qt belong to the main thread: a job gets copies and returns values, and its completion
handler runs in :meth:`Worker.dispatch`, which only the main thread calls. The thread is persistent because PyTorch
keeps per-thread state (measured by others: about ten times slower first calls on fresh threads). It is a daemon, so a
hanging kernel never keeps Slicer from closing.

This module knows nothing of Slicer, Qt or PyTorch.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from typing import Any, Callable, List, Optional

from SAMv2Core.errors import Cancelled

logger = logging.getLogger(__name__)

Progress = Callable[[float, str], None]
Work = Callable[[Progress], Any]


class Job:
    """One piece of work; created by :meth:`Worker.submit`.

    ``work(progress)`` runs in the thread and returns a result; ``commit(result)`` then runs in the main thread, only
    when the work succeeded, and returns ``value``; ``onEnd(job)`` runs in the main thread in any case. Of the
    attributes, ``fraction`` (0..1) and ``text`` are written by the thread at any time, ``error`` is meaningful once
    :meth:`isFinished` is true and ``value`` once ``isHandled`` is.
    """

    def __init__(
        self,
        name: str,
        work: Work,
        commit: Optional[Callable[[Any], Any]] = None,
        onEnd: Optional[Callable[[Job], None]] = None,
        text: str = "",
    ) -> None:
        self.name = name
        self.fraction = 0.0
        self.text = text
        self.value: Any = None
        self.error: Optional[BaseException] = None
        self.submitted = time.monotonic()
        self.isHandled = False
        self._isStored = False
        self._result: Any = None
        self._work = work
        self._commit = commit
        self._onEnd = onEnd
        self._steps: Any = None
        self._cancel = threading.Event()
        self._finished = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next progress report; returns at once."""
        self._cancel.set()

    def isCancelling(self) -> bool:
        return self._cancel.is_set() and not self._finished.is_set()

    def isCancelled(self) -> bool:
        """Whether the job ended by cancellation."""
        return isinstance(self.error, Cancelled)

    def isFinished(self) -> bool:
        return self._finished.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait, without holding Python's lock, until finished; whether it is."""
        return self._finished.wait(seconds)

    def elapsed(self) -> float:
        """Seconds since the job was submitted."""
        return time.monotonic() - self.submitted

    def run(self) -> None:
        """Do the work in the calling thread. Every exception ends up in ``error``."""
        try:
            self._report(0.0, self.text)
            self._result = self._work(self._report)
            self._report(1.0, self.text)
        except Exception as error:
            self._result, self.error = None, error
            if not isinstance(error, Cancelled):
                logger.debug("Job %s failed", self.name, exc_info=True)
        finally:
            self._work = _nothing  # its closure holds voxels
            self._finished.set()

    def begin(self) -> None:
        """Begin work that comes in steps: ``work(progress)`` gives a generator, which :meth:`step` advances."""
        self._steps = self._work(self._report)  # a generator: nothing has run yet
        self._work = _nothing
        self.step()

    def isInSteps(self) -> bool:
        """Whether the main thread has to advance it."""
        return self._steps is not None and not self.isFinished()

    def step(self) -> None:
        """Advance; every exception ends up in ``error``."""
        try:
            if self._cancel.is_set():
                self._steps.throw(Cancelled())
            next(self._steps)
            return
        except StopIteration as end:
            self._result = end.value
            self.fraction = 1.0
        except Exception as error:
            self._result, self.error = None, error
            if not isinstance(error, Cancelled):
                logger.debug("Job %s failed", self.name, exc_info=True)
        self._steps = None
        self._finished.set()

    def abandon(self) -> None:
        """Cancel, and never run a handler: there is nothing left to write to."""
        self.cancel()
        self._commit = self._onEnd = None
        if self._steps is not None:
            self.step()
        self.error = Cancelled()
        self.isHandled = True

    def store(self) -> bool:
        """Hand the result to ``commit``; main thread only. An exception of it becomes the job's error. Whether that was
        still to be done."""
        result, self._result = self._result, None
        commit, self._commit = self._commit, None
        if self._isStored or self.error is not None:
            return False
        self._isStored = True
        try:
            self.value = result if commit is None else commit(result)
        except Exception as error:
            logger.debug("The result of %s could not be stored", self.name, exc_info=True)
            self.error = error
        return True

    def finish(self) -> None:
        """Run the completion handlers, ``commit`` if it has not run yet; main thread only."""
        self.store()
        onEnd, self._onEnd = self._onEnd, None
        self.isHandled = True
        if onEnd is not None:
            onEnd(self)

    def _report(self, fraction: float, text: str) -> None:
        self.fraction, self.text = float(fraction), text
        if self._cancel.is_set():
            raise Cancelled()


def _nothing(progress: Progress) -> None:
    return None


class Worker:
    """Runs jobs one after the other in one background thread, started with the first job."""

    def __init__(self, name: str = "SAMv2") -> None:
        self._name = name
        self._jobs: queue.Queue[Optional[Job]] = queue.Queue()
        self._open: List[Job] = []
        self._thread: Optional[threading.Thread] = None
        self.pump: Optional[Callable[[float], None]] = None
        """Called with seconds before jobs in steps are advanced: brings what they wait for."""

    def submit(
        self,
        name: str,
        work: Work,
        commit: Optional[Callable[[Any], Any]] = None,
        onEnd: Optional[Callable[[Job], None]] = None,
        text: str = "",
    ) -> Job:
        """Queue ``work(progress)``; ``commit`` and ``onEnd`` (see :class:`Job`) are called by :meth:`dispatch`.

        :param text: what the job says until its work reports something.
        """
        job = Job(name, work, commit, onEnd, text)
        self._open.append(job)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return job

    def submitSteps(
        self,
        name: str,
        work: Callable[[Progress], Any],
        commit: Optional[Callable[[Any], Any]] = None,
        onEnd: Optional[Callable[[Job], None]] = None,
        text: str = "",
    ) -> Job:
        """Begin work that comes in steps, at once and beside all other jobs; :meth:`dispatch` advances it.

        :param work: called with a progress, gives a generator that returns the result.
        """
        job = Job(name, work, commit, onEnd, text)
        self._open.append(job)
        job.begin()
        return job

    def isBusy(self) -> bool:
        """Whether a job waits, runs, or waits for its completion handler."""
        return bool(self._open)

    def isThreadBusy(self) -> bool:
        """Whether the thread has something to do, for which it needs Python's lock."""
        return self._threaded() is not None

    def _threaded(self) -> Optional[Job]:
        return next((job for job in self._open if not job.isInSteps() and not job.isFinished()), None)

    def currentJob(self) -> Optional[Job]:
        """The oldest job that is not finished yet, or None."""
        return next((job for job in self._open if not job.isFinished()), None)

    def dispatch(self, waitSeconds: float = 0.0, breakSeconds: float = math.inf) -> int:
        """Run the completion handlers of finished jobs, in order; how many ended. Main thread only.

        :param waitSeconds: give the thread this long first. In a Qt event loop Python threads may only advance while
            the main thread waits in Python, so the module's timer always grants a few milliseconds.
        :param breakSeconds: when a job's ``commit`` took longer, what follows it is left to the next call, so that the
            window stands still for the one and for the other, and not for both together.
        """
        threaded = self._threaded()
        if self.pump is not None:
            isAwaited = threaded is None and any(job.isInSteps() for job in self._open)
            self.pump(waitSeconds if isAwaited else 0.0)
        if threaded is not None and waitSeconds > 0:
            threaded.wait(waitSeconds)
        for job in [job for job in self._open if job.isInSteps()]:
            job.step()
        count = 0
        while True:  # in order, but what comes in steps does not wait for its turn
            ended = next((job for job in self._open if job.isFinished()), None)
            if ended is None:
                return count
            started = time.monotonic()
            if ended.store() and time.monotonic() - started > breakSeconds:
                return count
            self._open.remove(ended)
            count += 1
            try:
                ended.finish()
            except Exception:
                logger.exception("The end handler of %s failed", ended.name)

    def cancelAll(self) -> None:
        """Ask every open job to stop; their handlers still run, with ``error`` set to Cancelled."""
        for job in self._open:
            job.cancel()

    def abandonAll(self) -> None:
        """Cancel every open job and forget it: no handler runs (the scene that they would write to is gone)."""
        for job in self._open:
            job.abandon()
        self._open.clear()

    def shutdown(self, waitSeconds: float = 0.0) -> bool:
        """Abandon everything and let the thread end after the current job; whether it has ended.

        :param waitSeconds: wait so long for it. Python that ends under a thread in the middle of a computation takes
            the process down with it, and modules that are loaded anew would meet results of the old ones.
        """
        self.abandonAll()
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._jobs.put(None)
        self._jobs = queue.Queue()
        thread.join(waitSeconds)
        return not thread.is_alive()


def _serve(jobs: queue.Queue[Optional[Job]]) -> None:
    """Body of the thread: does not keep the Worker alive, so an abandoned module instance can be collected."""
    while True:
        job = jobs.get()
        if job is None:
            return
        job.run()
        del job
