"""Where the module computes: the choices, what is there, and what is wrong with it."""

from __future__ import annotations

from typing import Any, Mapping

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def placeName(kind: str) -> str:
    return {
        "here": _("this computer"),
        "python": _("another Python on this computer..."),
        "server": _("a server..."),
        "inside": _("this computer, inside Slicer"),
    }[kind]


def placeTip(kind: str) -> str:
    return {
        "here": _("In a process of its own with Slicer's Python: the window never waits for a computation"),
        "python": _("In a process of its own with a Python that has PyTorch; Slicer's own needs none"),
        "server": _("On a server that runs `samv2 serve`: scans are sent there without any name"),
        "inside": _("In Slicer itself: the window may hesitate while something is computed"),
    }[kind]


def placeQuestion(kind: str) -> str:
    return _("Address:") if kind == "server" else _("Python:")


def noServerCause() -> str:
    return _("No server is chosen.")


def noServerRemedy() -> str:
    return _("Give its address, as http://HOST:PORT, and the file with its token.")


def noPythonCause() -> str:
    return _("No other Python is chosen.")


def noPythonRemedy() -> str:
    return _("Choose an interpreter in which PyTorch is installed.")


def connecting() -> str:
    return _("Asking who is there...")


def aboutPlace(facts: Mapping[str, Any]) -> str:
    memory = facts.get("memory_bytes") or 0
    return _("{device}, {memory:.0f} GB of memory, PyTorch {torch}, SAMv2 {version}; models: {models}").format(
        device=deviceElsewhere(facts),
        memory=memory / 2**30,
        torch=facts.get("torch", "?"),
        version=facts.get("samv2", "?"),
        models=", ".join(facts.get("models") or ()) or _("none"),
    )


def deviceElsewhere(facts: Mapping[str, Any]) -> str:
    if str(facts.get("device", "")).startswith("cuda"):
        return str(facts.get("device_name"))
    if facts.get("device") == "cpu":
        return _("CPU, {count} threads").format(count=facts.get("threads", "?"))
    return str(facts.get("device", ""))


def processEnded(cause: str) -> str:
    return _("{cause} It was started again; repeat what you were doing.").format(cause=cause)


def insideInstead(cause: str) -> str:
    return _("{cause} Computing inside Slicer instead.").format(cause=cause)


def notConnected(cause: str, remedy: str) -> str:
    return f"{cause} {remedy}".strip()


def choosePythonTitle() -> str:
    return _("Choose a Python with PyTorch")


def chooseTokenTitle() -> str:
    return _("Choose the file with the server's token")
