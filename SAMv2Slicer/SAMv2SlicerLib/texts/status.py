"""The status line: states, and what a computation says while it runs."""

from __future__ import annotations

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def stateReady(template: str) -> str:
    return _("Ready. Click a point in {template}.").format(template=template)


def stateReadyToEmbed() -> str:
    return _("Ready. The first match on a volume computes its embedding.")


def stateReadyToEmbedSeconds(seconds: float) -> str:
    return _(
        "Ready. The first match on a volume computes its embedding (about {seconds:.0f} s on this computer)."
    ).format(seconds=max(1.0, seconds))


def stateReadyToRegister(moving: str, fixed: str) -> str:
    return _("Ready to align {moving} with {fixed}.").format(moving=moving, fixed=fixed)


def stateRunning(text: str, elapsedSeconds: float) -> str:
    return _("{text} ({seconds:.0f} s)").format(text=text, seconds=elapsedSeconds)


def stateNeedsALook(count: int, total: int) -> str:
    if count == 1:
        return _("1 of {total} points needs a look.").format(total=total)
    return _("{count} of {total} points need a look.").format(count=count, total=total)


def stateAllMatched(total: int) -> str:
    if total == 1:
        return _("1 point matched.")
    return _("{total} points matched.").format(total=total)


def stateStale(name: str) -> str:
    return _("{name} changed; its embedding will be recomputed.").format(name=name)


def stateMoved(name: str) -> str:
    return _("{name} was moved after matching; match again.").format(name=name)


def stateMovedStudy(name: str) -> str:
    return _("{name} was moved after tracking; track again.").format(name=name)


def stateAligned(moving: str, fixed: str) -> str:
    return _("{moving} is aligned with {fixed}; compare them.").format(moving=moving, fixed=fixed)


def stateAlignedUncertain(moving: str, fixed: str) -> str:
    return _("{moving} is aligned with {fixed}, but uncertainly: compare them.").format(moving=moving, fixed=fixed)


def stateUnseen(name: str) -> str:
    return _("Done, but no view shows {name}.").format(name=name)


def offerText(offer: str) -> str:
    words = {
        "continue": _("Continue"),
        "review": _("Show them"),
        "views": _("Show side by side"),
        "show": _("Show it"),
    }
    return words.get(offer, "")


def offerTip(offer: str) -> str:
    tips = {
        "continue": _("These scans are meant to be compared: do not warn again"),
        "review": _("Go to the next one that needs a look (N)"),
        "views": _("Show the scans side by side, each in views of its own"),
        "show": _("Show the scan in the slice views"),
    }
    return tips.get(offer, "")


def parentKept(transform: str, parent: str) -> str:
    return _("{parent}, which scan B was under, now is above {transform}.").format(parent=parent, transform=transform)


def consoleLine(line: str) -> str:
    return _("Console: {line}").format(line=line)


def stateCancelling() -> str:
    return _("Cancelling\N{HORIZONTAL ELLIPSIS}")


def stateCancelled() -> str:
    return _("Cancelled; nothing was changed.")


def stateCancelledTip() -> str:
    return _("Stop; nothing in the scene is changed.")


def tipMatch() -> str:
    return _("Find all placed points of the list in scan B (M)")


def stateEditedKept(label: str) -> str:
    return _("The match of {label} was placed by hand and is kept.").format(label=label)


def stateUndone(action: str) -> str:
    return _("Undone: {action}.").format(action=action)


def stateRedone(action: str) -> str:
    return _("Done again: {action}.").format(action=action)


def otherPatient(templateId: str, queryId: str) -> str:
    return _("PatientID differs (A: {template}, B: {query}).").format(
        template=_shortened(templateId), query=_shortened(queryId)
    )


def _shortened(identifier: str) -> str:
    """First characters only: enough to recognize, little enough for a screenshot."""
    return identifier if len(identifier) <= 4 else identifier[:4] + "\N{HORIZONTAL ELLIPSIS}"


def progressStarting() -> str:
    return _("Starting\N{HORIZONTAL ELLIPSIS}")


def progressEmbedding(name: str) -> str:
    return _("Embedding {name}: loading the model\N{HORIZONTAL ELLIPSIS}").format(name=name)


def progressMatching(count: int) -> str:
    if count == 1:
        return _("Matching 1 point\N{HORIZONTAL ELLIPSIS}")
    return _("Matching {count} points\N{HORIZONTAL ELLIPSIS}").format(count=count)


def progressRegistering(moving: str, fixed: str) -> str:
    return _("Aligning {moving} with {fixed}\N{HORIZONTAL ELLIPSIS}").format(moving=moving, fixed=fixed)


def progressBatch(index: int, count: int, text: str) -> str:
    return _("{index} of {count}: {text}").format(index=index, count=count, text=text)


def placeElsewhere(template: str) -> str:
    return _("This view does not show {template}: click on {template}.").format(template=template)


def progressDeforming(moving: str) -> str:
    return _("Deforming {moving} (some minutes)").format(moving=moving)
