"""Waiting for a job in the main thread while the window stays alive; what makes the console methods synchronous."""

from __future__ import annotations

from typing import Any, Optional

import qt
import slicer

from SAMv2SlicerLib.work.worker import Job, Progress, Worker

SLICE_SECONDS = 0.03


def waitFor(worker: Worker, job: Job, progress: Optional[Progress]) -> Any:
    """Wait for a job in short slices; its value, or its error raised.

    :param progress: called in the main thread; what it raises cancels the job and is raised on, after the worker has
        let go.
    """
    try:
        while not job.isHandled:
            worker.dispatch(SLICE_SECONDS)
            if progress is not None and not job.isHandled:
                progress(job.fraction, job.text)
            keepApplicationAlive()
    except BaseException:
        job.cancel()
        while not job.isHandled:
            worker.dispatch(SLICE_SECONDS)
            keepApplicationAlive()
        raise
    if job.error is not None:
        raise job.error
    return job.value


def keepApplicationAlive() -> None:
    """Let the window lay out and draw itself, without letting the user start anything else meanwhile."""
    application = getattr(slicer, "app", None)
    if application is not None:
        application.processEvents(qt.QEventLoop.ExcludeUserInputEvents)
