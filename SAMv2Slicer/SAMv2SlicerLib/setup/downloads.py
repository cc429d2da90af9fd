"""What the panel fetches from the network, always after a click: released models and the sample scans.

Both run in the worker with progress and cancel, and need no PyTorch.
"""

from __future__ import annotations

from typing import Any

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.setup import sample_data
from SAMv2SlicerLib.work.worker import Job, Progress


def startModel(logic, name: str, onEnd=None) -> Job:
    """Begin to fetch a released model into the user's models folder; the job's value is its ModelInfo."""
    from SAMv2Core.models.library import download

    prefix = texts.progressDownload(name)  # here, because translating is for the main thread

    def work(progress: Progress) -> Any:
        return download(name, lambda fraction, text: progress(fraction, f"{prefix}: {text}"))

    return logic.submitPlain(name, work, None, onEnd, prefix)


def startSampleData(logic, onEnd=None) -> Job:
    """Begin to fetch and read the sample scans; the job's value is (template, query, points) nodes."""
    text = texts.progressSampleData()

    def work(progress: Progress) -> sample_data.Sample:
        return sample_data.fetch(lambda fraction, detail="": progress(fraction, f"{text} {detail}".strip()))

    return logic.submitPlain(text, work, lambda found: sample_data.addNodes(logic, found), onEnd, text)
