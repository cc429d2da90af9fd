"""The module's names, buttons, tables, result card, header and undo."""

from __future__ import annotations

from typing import Optional

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def moduleTitle() -> str:
    return _("SAMv2 Anatomical Matching")


def helpText() -> str:
    return _(
        "SAMv2 is not Meta's Segment Anything: SAM stands for Self-supervised Anatomical eMbedding. Click a place in"
        " one CT or MR scan and the module finds the same anatomical place in another scan, of the same or of another"
        " patient, follows lesions through later scans, and registers scans to each other, also CT to MR. Each match"
        " carries a confidence; a place that the other scan does not show is reported as not found. The tutorial is in"
        " the folder Resources of the extension's home page."
    )


def acknowledgementText() -> str:
    return _(
        "The method is that of Bai et al., SAMv2: A Unified Framework for Learning Appearance, Semantic and"
        " Cross-Modality Anatomical Embeddings (arXiv 2311.15111). This is an independent implementation."
    )


def buttonMatch(count: int) -> str:
    if count == 0:
        return _("Match")
    if count == 1:
        return _("Match 1 point")
    return _("Match {count} points").format(count=count)


def buttonRegister(moving: str = "", fixed: str = "") -> str:
    if moving and fixed:
        return _("Register {moving} \N{RIGHTWARDS ARROW} {fixed}").format(moving=moving, fixed=fixed)
    return _("Register")


def buttonCancel() -> str:
    return _("Cancel")


def statusWord(status: str, decision: str = "") -> str:
    """A status with its glyph: never meaning by color alone; what the user decided comes before what was proposed."""
    decisions = {
        "accepted": _("\N{HEAVY CHECK MARK} accepted"),
        "moved": _("\N{LOWER RIGHT PENCIL} by hand"),
        "rejected": _("\N{EMPTY SET} rejected"),
    }
    if decision in decisions:
        return decisions[decision]
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
    return (_("Point"), _("Status"), _("Confidence"), _("Scan"))


def resultColumnTips():
    """What the columns mean."""
    return (
        _("The point's label"),
        _("Matched, uncertain or not found; or what was decided by hand"),
        _("How sure the model is of this match; what it rests on stands below the table"),
        _("The scan that the match lies in"),
    )


def percent(value: float) -> str:
    """A share as percent, empty for NaN."""
    return "" if value != value else f"{100 * value:.0f} %"


def matchDetails(result) -> str:
    """What a match rests on, in a line; ``result`` is a match_facts.PointResult."""
    parts = []
    if result.similarity == result.similarity:
        parts.append(_("similarity {value:.2f}").format(value=result.similarity))
    if result.cycleErrorMm == result.cycleErrorMm:
        parts.append(_("way back misses the point by {value:.1f} mm").format(value=result.cycleErrorMm))
    if result.fixedPoints:
        parts.append(_("{count} pairs around it agree").format(count=result.fixedPoints))
    if result.templates > 1:
        parts.append(templatesTold(result.templates))
    line = ", ".join(parts)
    return "\n".join(item for item in (result.reason, line[:1].upper() + line[1:]) if item)


def noMatchSelected() -> str:
    return _("Select a row: both scans go there.")


def templatesTold(count: int) -> str:
    """A match that rests on several scans."""
    return _("looked for from {count} scans").format(count=count)


def columnTemplate() -> str:
    return _("Scan")


def columnTemplatePoints() -> str:
    return _("Its points")


def columnSameLabels() -> str:
    return _("Same labels")


def sameLabels(count: int, wanted: int) -> str:
    return _("{count} of {wanted}").format(count=count, wanted=wanted)


def templateAdded(volume: str, points: str, count: int, wanted: int) -> str:
    if not count and wanted:
        text = _("No point of {points} has a label of A's points: give the same place the same label.")
        return text.format(points=points)
    return _("{volume} is a further template: {count} of {wanted} points of A are in it, too. Press Match.").format(
        volume=volume, count=count, wanted=wanted
    )


def templateUnseen(count: int) -> str:
    if count == 1:
        return _("1 of these was found from A and not looked at: check it first, else it says nothing new.")
    return _(
        "{count} of these were found from A and not looked at: check them first, else they say nothing new."
    ).format(count=count)


def sameLabelCause(points: str, label: str) -> str:
    if not label:
        return _("A point of {points} has no label.").format(points=points)
    return _("Several points of {points} have the label {label}.").format(points=points, label=label)


def sameLabelRemedy() -> str:
    return _("With further templates, give every point a label of its own, the same in each list.")


def furtherInsideCause() -> str:
    return _("A segment is searched with one template only.")


def furtherInsideRemedy() -> str:
    return _("Choose everywhere at Only inside, or remove the further templates.")


def furtherSameCause(volume: str) -> str:
    return _("{volume} is A or B, and no further template.").format(volume=volume)


def furtherSameRemedy() -> str:
    return _("Choose another scan, with a point list of its own.")


def matchListName(points: str, query: str) -> str:
    return _("{points} in {query}").format(points=points, query=query)


def cursorName() -> str:
    return _("SAMv2 cursor")


def transformName(moving: str, fixed: str) -> str:
    return f"{moving} \N{RIGHTWARDS ARROW} {fixed}"


def pairFolderName(template: str, query: str) -> str:
    return f"SAMv2 {template} \N{RIGHTWARDS ARROW} {query}"


def similarityName(label: str, query: str) -> str:
    return _("Similarity to {label} in {query}").format(label=label, query=query)


def colorsName(volume: str) -> str:
    return _("Embedding of {volume} as colors").format(volume=volume)


def colorsAdded(name: str) -> str:
    return _("{name} was added: equal colors are places that look alike to the model.").format(name=name)


def loadPointsTitle() -> str:
    return _("Load points on A")


def actionLoadPoints() -> str:
    return _("load points")


def pointsLoaded(count: int, name: str) -> str:
    if count == 1:
        return _("{name} with 1 point was loaded; press Match.").format(name=name)
    return _("{name} with {count} points was loaded; press Match.").format(name=name, count=count)


def registrationCard(facts: dict) -> str:
    """The lines of the result card; ``facts`` as stored on the transform node (see register_job.registrationFacts)."""
    lines = [
        statusWord(facts["status"]),
        _("Inliers: {inliers} of {sampled}").format(inliers=facts["inliers"], sampled=facts["points_sampled"]),
    ]
    residual = facts.get("residual_mm") or {}
    if residual.get("median") is not None and residual.get("p95") is not None:
        text = _("Residual: median {median:.1f} mm, 95 % below {p95:.1f} mm")
        lines.append(text.format(median=residual["median"], p95=residual["p95"]))
    lines.append(_("Overlap: {overlap:.0f} %").format(overlap=100 * facts["overlap"]))
    text = _("Rotation {angle:.1f}\N{DEGREE SIGN}, translation {length:.1f} mm")
    lines.append(text.format(angle=facts["rotation_deg"], length=facts["translation_mm"]))
    deformation = facts.get("deformation")
    if deformation:
        text = _("Deformation: median {median:.1f} mm, at most {maximum:.1f} mm, {folded:.2f} % folded")
        folded = 100 * deformation["folded"]
        lines.append(text.format(median=deformation["median_mm"], maximum=deformation["max_mm"], folded=folded))
    return "\n".join([*lines, *facts.get("reasons", ())])


def noRegistration() -> str:
    return _("No registration yet.")


def checkerboardName(fixed: str, moving: str) -> str:
    return _("Checkerboard of {fixed} and {moving}").format(fixed=fixed, moving=moving)


def usedPointsName(volume: str) -> str:
    return _("Points used in {volume}").format(volume=volume)


def croppedName(volume: str) -> str:
    return _("{volume} cropped").format(volume=volume)


def gridName(transform: str) -> str:
    return _("{transform} deformation").format(transform=transform)


def resampledName(moving: str, fixed: str) -> str:
    return _("{moving} on {fixed}").format(moving=moving, fixed=fixed)


def noRefiner() -> str:
    return _(
        "Neither SlicerElastix nor SlicerANTs is installed; other programs can start from the saved transform, too."
    )


def handedOver(module: str, transform: str) -> str:
    return _("{module} begins with {transform}; check its settings and start it there.").format(
        module=module, transform=transform
    )


def notHandedOver(module: str, transform: str) -> str:
    return _("{module} has another panel than expected: choose {transform} there as the initial transform.").format(
        module=module, transform=transform
    )


def hardenedName(volume: str) -> str:
    return _("{volume} hardened").format(volume=volume)


def actionHarden(volume: str) -> str:
    return _("harden a copy of {volume}").format(volume=volume)


def hardened(names: str) -> str:
    return _("{names}: the originals stay as they are.").format(names=names)


def deformationConsent(requirement: str) -> str:
    return _(
        "Deformable refinement needs the Python package convexadam, which is not installed in this Slicer.\n\n"
        "What: {requirement} (Apache-2.0 license), from the Python package index\n"
        "Size: about 1 MB, and what it needs\n\n"
        "Packages that Slicer comes with keep their versions. Install now?"
    ).format(requirement=requirement)


def cropName(fixed: str, moving: str) -> str:
    return _("Common region of {fixed} and {moving}").format(fixed=fixed, moving=moving)


def deviceName(name: str) -> str:
    names = {"auto": _("Auto"), "cpu": "CPU", "cuda": "CUDA", "mps": "MPS"}
    return names.get(name, name)


def cacheCleared(gigabytes: float, folder: str) -> str:
    return _("{size:.1f} GB of embeddings were deleted from {folder}.").format(size=gigabytes, folder=folder)


def gigabytes(size: float) -> str:
    return _("{size:.1f} GB").format(size=size)


def linkName(name: str) -> str:
    return {"tutorial": _("Tutorial"), "documentation": _("Documentation"), "issues": _("Report a problem")}[name]


def reportCopied() -> str:
    return _("The report is on the clipboard; names of scans, points and folders were left out.")


def folderMissing(folder: str) -> str:
    return _("{folder} cannot be made.").format(folder=folder)


def tableCopied(count: int) -> str:
    return _("{count} rows are on the clipboard.").format(count=count)


def optionsReset() -> str:
    return _("All options of this area are as they were at first.")


def searchEverywhere() -> str:
    return _("Everywhere")


def followOff() -> str:
    return _("This needs scans A and B, and slice views.")


def followUnseen(name: str) -> str:
    return _("Follow cursor is on, but no view shows {name}: press A | B views.").format(name=name)


def progressSampleData() -> str:
    return _("Fetching a public CT scan (35 MB, once).")


def progressSimulating() -> str:
    return _("Simulating a later scan of the same patient\N{HORIZONTAL ELLIPSIS}")


def actionSampleData() -> str:
    return _("load the sample data")


def actionAdd(name: str) -> str:
    return _("add {name}").format(name=name)


def sampleLoaded() -> str:
    return _("A chest CT (LIDC-IDRI, CC BY 3.0) and a simulated later scan: press Match, or drag the point.")


def editHint(label: str) -> str:
    return _("Drag the match of {label}, or click where it belongs; it is then kept.").format(label=label)


def batchCancelled(count: int) -> str:
    if count == 1:
        return _("Cancelled; the 1 scan that was finished is kept.")
    return _("Cancelled; the {count} scans that were finished are kept.").format(count=count)


def resultTip(result) -> str:
    """Tooltip of a match; ``result`` is a match_facts.PointResult."""
    lines = [result.reason] if result.reason else []
    if result.confidence == result.confidence:
        lines.append(_("Confidence {value:.0f} %").format(value=100 * result.confidence))
    if result.edited:
        lines.append(_("Placed or judged by hand; kept when matching again."))
    return "\n".join(lines)


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
