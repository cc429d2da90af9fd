"""Every sentence that a user of the module can read, so that wording is judged and translated in one place.

Each function returns a finished, translated text; placeholders are filled after translation. Rules (from the panel's
design): cause before remedy, no jargon where a word does, never the words accuracy, diagnosis, progression or
response, and a status is always a word, not only a color.
"""

from __future__ import annotations

from typing import Optional

from slicer.i18n import tr as _

# --- names -----------------------------------------------------------------------------------------------------------


def moduleTitle() -> str:
    return _("SAMv2 Anatomical Matching")


def helpText() -> str:
    return _(
        "SAMv2 is not Meta's Segment Anything: SAM stands for Self-supervised Anatomical eMbedding. Click a place in one"
        " CT or MR scan and the module finds the same anatomical place in another scan, of the same or of another"
        " patient, and registers scans to each other, also CT to MR. Each match carries a confidence; a place that the"
        " other scan does not show is reported as not found."
    )


def acknowledgementText() -> str:
    return _(
        "The method is that of Bai et al., SAMv2: A Unified Framework for Learning Appearance, Semantic and Cross-Modality"
        " Anatomical Embeddings (arXiv 2311.15111). This is an independent implementation."
    )


def researchUse() -> str:
    return _("Research use; check every result.")


# --- errors: cause and remedy ----------------------------------------------------------------------------------------


def noVolumeCause() -> str:
    return _("No volume is selected.")


def noVolumeRemedy() -> str:
    return _("Load two scans, or try the sample data.")


def notAVolumeCause(name: str) -> str:
    return _("{name} is not a scalar volume.").format(name=name)


def notAVolumeRemedy() -> str:
    return _("Choose a CT or MR volume.")


def noVoxelsCause(name: str) -> str:
    return _("{name} has no voxels (0\N{MULTIPLICATION SIGN}0\N{MULTIPLICATION SIGN}0).").format(name=name)


def noVoxelsRemedy() -> str:
    return _("Load its file again.")


def colorVolumeCause(name: str) -> str:
    return _("{name} is a color volume; these are not supported.").format(name=name)


def colorVolumeRemedy() -> str:
    return _("Convert it with the module Vector to Scalar Volume.")


def nonLinearCause(name: str) -> str:
    return _("{name} is under a non-linear transform.").format(name=name)


def nonLinearRemedy() -> str:
    return _("Harden that transform on a copy of the volume, or take the volume out of it, then register.")


def nonLinearNote(name: str) -> str:
    return _("{name} is under a non-linear transform: its undeformed voxels are used, points follow the transform.").format(
        name=name
    )


def sameVolumeCause() -> str:
    return _("Template and query are the same volume.")


def sameVolumeRemedy() -> str:
    return _("Choose another query.")


def sameRegistrationVolumeCause() -> str:
    return _("Fixed and moving are the same volume.")


def sameRegistrationVolumeRemedy() -> str:
    return _("Choose another moving volume.")


def noPointsCause(name: Optional[str]) -> str:
    if not name:
        return _("No point list is selected.")
    return _("{name} has no placed points.").format(name=name)


def noPointsRemedy() -> str:
    return _("Place a point on the template volume.")


def notPointsCause(name: str) -> str:
    return _("{name} is not a point list.").format(name=name)


def notPointsRemedy() -> str:
    return _("Choose a markups point list.")


def noNodeCause(name: str) -> str:
    return _("There is no node named {name} in the scene.").format(name=name)


def noNodeRemedy() -> str:
    return _("Pass a node, its ID or its name.")


def nodeGoneCause() -> str:
    return _("The volume, the points or the scene was closed while the result was being computed.")


def nodeGoneRemedy() -> str:
    return _("Nothing was changed. Load them again and repeat.")


def changedMeanwhileCause(name: str) -> str:
    return _("{name} was changed while its embedding was being computed.").format(name=name)


def changedMeanwhileRemedy() -> str:
    return _("Repeat; the embedding is computed from the new voxels.")


def busyCause() -> str:
    return _("Another computation is running.")


def busyRemedy() -> str:
    return _("Wait for it or cancel it.")


def noTorchCause() -> str:
    return _("PyTorch is not installed in this Slicer.")


def noTorchRemedy() -> str:
    return _("Press Set up\N{HORIZONTAL ELLIPSIS} in the module, or install the PyTorch extension.")


def brokenTorchRemedy() -> str:
    return _("Restart Slicer, then press Set up\N{HORIZONTAL ELLIPSIS} again; this removes the broken PyTorch first.")


def outsideCause(label: str, name: str, distanceMm: float) -> str:
    return _("Point {label} lies outside {name} ({distance:.0f} mm beyond its edge).").format(
        label=label, name=name, distance=distanceMm
    )


def unexpectedError() -> str:
    return _("Unexpected error; nothing was changed. The details are in Slicer's log (View > Error Log).")


def registrationFailedCause(moving: str, fixed: str) -> str:
    return _("{moving} could not be aligned reliably with {fixed}.").format(moving=moving, fixed=fixed)


def registrationFailedRemedy() -> str:
    return _("Check that both scans show the same part of the same patient; no transform was applied.")


# --- states of the status line ---------------------------------------------------------------------------------------


def stateNoVolume() -> str:
    return _("Load two scans, or try the sample data.")


def stateReady(template: str) -> str:
    return _("Ready. Click a point in {template}.").format(template=template)


def stateReadyToEmbed() -> str:
    return _("Ready. The first match on a volume computes its embedding.")


def stateReadyToEmbedSeconds(seconds: float, device: str) -> str:
    return _("Ready. The first match on a volume computes its embedding (about {seconds:.0f} s on this {device}).").format(
        seconds=max(1.0, seconds), device=device
    )


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


def stateCancelling() -> str:
    return _("Cancelling\N{HORIZONTAL ELLIPSIS}")


def stateCancelled() -> str:
    return _("Cancelled; nothing was changed.")


def stateEditedKept(label: str) -> str:
    return _("The match of {label} was placed by hand and is kept.").format(label=label)


def stateUndone(action: str) -> str:
    return _("Undone: {action}.").format(action=action)


def stateRedone(action: str) -> str:
    return _("Done again: {action}.").format(action=action)


def otherPatient(templateId: str, queryId: str) -> str:
    return _("PatientID differs (template: {template}, query: {query}).").format(
        template=_shortened(templateId), query=_shortened(queryId)
    )


def _shortened(identifier: str) -> str:
    """First characters only: enough to recognize, little enough for a screenshot."""
    return identifier if len(identifier) <= 4 else identifier[:4] + "\N{HORIZONTAL ELLIPSIS}"


# --- progress --------------------------------------------------------------------------------------------------------


def progressEmbedding(name: str, step: str = "") -> str:
    text = _("Embedding {name}").format(name=name)
    return f"{text}: {step}" if step else text


def progressMatching(count: int) -> str:
    if count == 1:
        return _("Matching 1 point\N{HORIZONTAL ELLIPSIS}")
    return _("Matching {count} points\N{HORIZONTAL ELLIPSIS}").format(count=count)


def progressRegistering(moving: str, fixed: str) -> str:
    return _("Aligning {moving} with {fixed}\N{HORIZONTAL ELLIPSIS}").format(moving=moving, fixed=fixed)


def progressBatch(index: int, count: int, text: str) -> str:
    return _("{index} of {count}: {text}").format(index=index, count=count, text=text)


# --- buttons, tables -------------------------------------------------------------------------------------------------


def buttonMatch(count: int) -> str:
    if count == 1:
        return _("Match 1 point")
    return _("Match {count} points").format(count=count)


def buttonRegister(moving: str = "", fixed: str = "") -> str:
    if moving and fixed:
        return _("Register {moving} \N{RIGHTWARDS ARROW} {fixed}").format(moving=moving, fixed=fixed)
    return _("Register")


def buttonCancel() -> str:
    return _("Cancel")


def statusWord(status: str, edited: bool = False) -> str:
    """A status with its glyph: never meaning by color alone."""
    if edited:
        return _("\N{LOWER RIGHT PENCIL} by hand")
    words = {
        "matched": _("\N{CHECK MARK} matched"),
        "uncertain": _("? uncertain"),
        "not_found": _("\N{EMPTY SET} not found"),
        "registered": _("\N{CHECK MARK} registered"),
        "failed": _("\N{EMPTY SET} failed"),
        "pending": _("\N{HORIZONTAL ELLIPSIS} waiting"),
    }
    return words.get(status, status)


def resultColumns():
    return (_("Point"), _("Status"), _("Similarity"), _("Cycle error (mm)"), _("Fixed points"), _("Query"))


def matchListName(points: str, query: str) -> str:
    return _("{points} in {query}").format(points=points, query=query)


def transformName(moving: str, fixed: str) -> str:
    return f"{moving} \N{RIGHTWARDS ARROW} {fixed}"


def similarityName(label: str, query: str) -> str:
    return _("Similarity to {label} in {query}").format(label=label, query=query)


def registrationCard(facts: dict) -> str:
    """The lines of the result card; ``facts`` as stored on the transform node (see results.registrationFacts)."""
    lines = [
        statusWord(facts["status"]),
        _("Inliers: {inliers} of {sampled}").format(inliers=facts["inliers"], sampled=facts["points_sampled"]),
        _("Residual: median {median:.1f} mm, 95 % below {p95:.1f} mm").format(
            median=facts["residual_median_mm"], p95=facts["residual_p95_mm"]
        ),
        _("Overlap: {overlap:.0f} %").format(overlap=100 * facts["overlap"]),
        _("Rotation {angle:.1f}\N{DEGREE SIGN}, translation {length:.1f} mm").format(
            angle=facts["rotation_deg"], length=facts["translation_mm"]
        ),
    ]
    return "\n".join(lines)


# --- undo ------------------------------------------------------------------------------------------------------------


def actionMatch(count: int) -> str:
    if count == 1:
        return _("match 1 point")
    return _("match {count} points").format(count=count)


def actionCorrect(label: str) -> str:
    return _("correct the match of {label}").format(label=label)


def actionReview(label: str) -> str:
    return _("review {label}").format(label=label)


def actionRegister(moving: str, fixed: str) -> str:
    return _("align {moving} with {fixed}").format(moving=moving, fixed=fixed)


def tooltipUndo(action: Optional[str]) -> str:
    return _("Undo: {action}").format(action=action) if action else _("Nothing to undo")


def tooltipRedo(action: Optional[str]) -> str:
    return _("Redo: {action}").format(action=action) if action else _("Nothing to redo")


# --- setup -----------------------------------------------------------------------------------------------------------


def setupConsent(size: str, folder: str) -> str:
    return _(
        "SAMv2 needs PyTorch, which is not installed in this Slicer.\n\n"
        "What: PyTorch, through Slicer's PyTorch extension (BSD license)\n"
        "Size: {size}\n"
        "Folder: {folder}\n\n"
        "The matching model is already part of this extension. Nothing else is downloaded and nothing is uploaded.\n\n"
        "Set up now?"
    ).format(size=size, folder=folder)


def setupExtensionMissing() -> str:
    return _(
        "The PyTorch extension is not installed. Install it with the Extensions Manager, restart Slicer, and press Set up"
        " again."
    )


def setupDone(device: str) -> str:
    return _("Ready on {device}. Try the sample data.").format(device=device)


def setupDeclined() -> str:
    return _("Set up was not started; nothing was changed.")


def setupFailed(reason: str) -> str:
    return _("Set up stopped: {reason}").format(reason=reason)


def deviceCPU(threads: int) -> str:
    if threads == 1:
        return _("CPU, 1 thread")
    return _("CPU, {threads} threads").format(threads=threads)
