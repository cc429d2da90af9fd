"""The Track lesions tab: studies, lesions, findings, measuring and exporting."""

from __future__ import annotations

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def lesionListName(baseline: str) -> str:
    return _("Lesions marked in {baseline}").format(baseline=baseline)


def findingsListName(study: str) -> str:
    return _("Lesions in {study}").format(study=study)


def findingsTableName(baseline: str) -> str:
    return _("Lesions since {baseline}").format(baseline=baseline)


def sizesTableName(baseline: str) -> str:
    return _("Lesion sizes since {baseline}").format(baseline=baseline)


def chartName(baseline: str) -> str:
    return _("Lesion sizes over time since {baseline}").format(baseline=baseline)


def chartTitle() -> str:
    return _("Longest diameter of each lesion")


def lineName(label: str) -> str:
    """What stands beside a line in the view, before its length: short, for it covers the scan."""
    return label


def proposedLineName(label: str) -> str:
    return _("{label}?").format(label=label)


def lineLabel(name: str, mm: float) -> str:
    """What stands beside a line in the view."""
    return _("{name} {mm:.1f} mm").format(name=name, mm=mm)


def findingLineLabel(name: str, mm: float) -> str:
    """The same beside a finding whose own label says the name: the place of that is left free."""
    label = name.rstrip("?")
    return lineLabel("  " * len(label) + name[len(label) :], mm)


def cellProposed(glyph: str, size: str) -> str:
    """A cell of the matrix with a diameter that is only proposed."""
    return _("{glyph}  {size} mm?").format(glyph=glyph, size=size)


def sizeProposed(size: str) -> str:
    return _("Diameter {size} mm proposed from its matched ends; press Measure to take it over").format(size=size)


def lesionLabel() -> str:
    return _("Lesion")


def shortLesionLabel(n: int) -> str:
    return _("L{n}").format(n=n)


def planeName(orientation: str) -> str:
    """:param orientation: as in scene/layouts.py, where "All" stands for all three."""
    names = {"Axial": _("Axial"), "Sagittal": _("Sagittal"), "Coronal": _("Coronal"), "All": _("All planes")}
    return names[orientation]


def cursorStudiesOff() -> str:
    return _("The cursor is shown in all studies once they are tracked and side by side: Track, then All studies.")


def effortLine(label: str, actions: int, seconds: float) -> str:
    return _("{label}: {actions} actions, {seconds:.0f} s").format(label=label, actions=actions, seconds=seconds)


def effortTotal(actions: int, seconds: float) -> str:
    return _("In all: {actions} actions, {seconds:.0f} s").format(actions=actions, seconds=seconds)


def columnDays() -> str:
    return _("Days since baseline")


def columnStudy() -> str:
    return _("Study number")


def columnScan() -> str:
    return _("Study")


def columnDate() -> str:
    return _("Date")


def columnSum() -> str:
    return _("Sum of diameters")


def columnSize() -> str:
    return _("Longest diameter (mm)")


def buttonTrack(lesions: int, studies: int) -> str:
    if lesions == 1 and studies == 1:
        return _("Track 1 lesion in 1 study")
    if studies == 1:
        return _("Track {lesions} lesions in 1 study").format(lesions=lesions)
    return _("Track {lesions} lesions in {studies} studies").format(lesions=lesions, studies=studies)


def tipTrack() -> str:
    return _("Look for every lesion in every follow-up; what was accepted, moved or rejected is kept and helps")


def progressTracking(lesions: int, studies: int) -> str:
    return _("Tracking {lesions} lesions in {studies} studies").format(lesions=lesions, studies=studies)


def actionTrack(lesions: int, studies: int) -> str:
    return _("track {lesions} lesions in {studies} studies").format(lesions=lesions, studies=studies)


def actionMeasure(label: str) -> str:
    return _("measure {label}").format(label=label)


def roleName(index: int) -> str:
    return _("Baseline") if index == 0 else _("Follow-up {index}").format(index=index)


def cellText(glyph: str, size: str, estimated: bool) -> str:
    """A cell of the matrix: what was found or decided, and the size, with a tilde where nobody measured it."""
    if not size:
        return glyph
    mark = "~" if estimated else ""
    return _("{glyph}  {mark}{size} mm").format(glyph=glyph, mark=mark, size=size)


def cellMissing() -> str:
    return "\N{EN DASH}"


def lesionDetails(facts: dict) -> str:
    """Lines about the current cell; values that are not known are left out."""
    lines = [_("{label} in {study}: {status}").format(**facts)]
    if facts.get("position"):
        lines.append(_("Position (LPS): {position} mm").format(position=facts["position"]))
    if facts.get("where"):
        lines.append(facts["where"])
    if facts.get("similarity"):
        lines.append(_("Similarity {similarity}, cycle error {cycle} mm, confidence {confidence} %").format(**facts))
    if facts.get("size"):
        lines.append(facts["size"])
    if facts.get("proposed"):
        lines.append(_("Proposed at {proposed} mm").format(proposed=facts["proposed"]))
    lines += [facts[name] for name in ("volume", "reason", "looks") if facts.get(name)]
    return "\n".join(lines)


def sumOfStudy(study: str, total: str, change: str, isEstimated: bool) -> str:
    mark = "~" if isEstimated else ""
    if not change:
        return _("{study}: {mark}{total} mm").format(study=study, mark=mark, total=total)
    return _("{study}: {mark}{total} mm ({change} %)").format(study=study, mark=mark, total=total, change=change)


def sumCategory(category: str, fromNadir: str) -> str:
    """What follows a sum: the change against the smallest one before, and the category that it suggests."""
    if not fromNadir:
        return _("suggests {category}").format(category=category)
    return _("{change} % since the smallest; suggests {category}").format(change=fromNadir, category=category)


def sumsTip() -> str:
    return _("Targets are the lesions with a size in the baseline, unless you say otherwise; categories by RECIST 1.1:")


def sumIncomplete(study: str, sized: int, wanted: int) -> str:
    return _("{study}: {sized} of {wanted} sizes known").format(study=study, sized=sized, wanted=wanted)


def sumOfDiameters(parts: str) -> str:
    return _("Sum of diameters: {parts}").format(parts=parts)


def sizeMeasured(size: str) -> str:
    return _("Diameter {size} mm, measured").format(size=size)


def sizeEstimated(size: str) -> str:
    return _("Diameter about {size} mm, computed, not measured").format(size=size)


def volumeOf(milliliters: str) -> str:
    return _("Volume {milliliters} ml, segmented").format(milliliters=milliliters)


def baselineWord() -> str:
    return _("\N{BLACK DIAMOND} marked")


def noLesionSelected() -> str:
    return _("Select a cell: all views go there.")


def noFollowUpCause() -> str:
    return _("No follow-up is selected.")


def noFollowUpRemedy() -> str:
    return _("Check the later scans of the patient.")


def noBaselineCause() -> str:
    return _("Scan A, the baseline, is not selected.")


def noBaselineRemedy() -> str:
    return _("Choose the scan in which the lesions are marked.")


def sameStudyCause(name: str) -> str:
    return _("{name} is both baseline and follow-up.").format(name=name)


def sameStudyRemedy() -> str:
    return _("Uncheck it among the follow-ups.")


def noLesionsCause() -> str:
    return _("No lesion is marked.")


def noLesionsRemedy() -> str:
    return _("Check a point list, line markups or a segmentation that marks the lesions in the baseline.")


def notLesionsCause(name: str) -> str:
    return _("{name} is no point list, line or segmentation.").format(name=name)


def notLesionsRemedy() -> str:
    return _("Mark the lesions with points, lines or segments.")


def notADateCause(text: str) -> str:
    return _("{text} is not a date.").format(text=text)


def notADateRemedy() -> str:
    return _("Enter it as 2024-03-01.")


def stateTracked(total: int) -> str:
    return _("{total} findings; all are matched or reviewed.").format(total=total)


def stateFindingsNeedALook(count: int, total: int) -> str:
    return _("{count} of {total} findings need a look.").format(count=count, total=total)


def stateReadyToTrack() -> str:
    return _("Ready to track. The first run computes the embedding of every study.")


def correctionHelps(label: str) -> str:
    return _("{label} is kept. Track again to let it help the other lesions.").format(label=label)


def measureHint(label: str) -> str:
    return _("Drag the ends of the line of {label}; its length is the size.").format(label=label)


def exported(count: int, path: str) -> str:
    return _("{count} rows were written to {path}.").format(count=count, path=path)


def exportedReports(count: int, folder: str) -> str:
    if count == 1:
        return _("1 DICOM report was written to {folder}.").format(folder=folder)
    return _("{count} DICOM reports were written to {folder}.").format(count=count, folder=folder)


def exportTitle() -> str:
    return _("Export lesions")


def reportFileName(index: int) -> str:
    return f"lesions-{index}.dcm"


def progressReports() -> str:
    return _("Writing DICOM reports")


def reportsToFolder() -> str:
    return _("Into a folder\N{HORIZONTAL ELLIPSIS}")


def reportsToDatabase() -> str:
    return _("Into Slicer's DICOM database")


def reportsInDatabase(count: int) -> str:
    if count == 1:
        return _("1 DICOM report is in Slicer's DICOM database, beside its scan.")
    return _("{count} DICOM reports are in Slicer's DICOM database, beside their scans.").format(count=count)


def noDatabaseCause() -> str:
    return _("Slicer's DICOM database is not open.")


def noDatabaseRemedy() -> str:
    return _("Open it in the DICOM module, or write into a folder.")


def reportFromFile() -> str:
    return _("From a file\N{HORIZONTAL ELLIPSIS}")


def readReportTitle() -> str:
    return _("Lesions of a DICOM report")


def reportPointsName() -> str:
    return _("Lesions of the report")


def progressReadingReport() -> str:
    return _("Reading a DICOM report")


def actionReadReport() -> str:
    return _("read a DICOM report")


def reportRead(count: int) -> str:
    if count == 1:
        return _("The report knows 1 lesion; it is a row now, and its history goes on.")
    return _("The report knows {count} lesions; they are rows now, and their history goes on.").format(count=count)


def otherScanCause(name: str) -> str:
    return _("The report is of another scan than {name}: their frames of reference differ.").format(name=name)


def otherScanRemedy() -> str:
    return _("Choose the scan that the report was made on as A.")


def notFromDICOMCause(name: str) -> str:
    return _("{name} was not loaded from Slicer's DICOM database.").format(name=name)


def notFromDICOMRemedy() -> str:
    return _("A DICOM report needs DICOM scans: import them there, or export CSV.")


def reportConsent(requirement: str) -> str:
    return _(
        "DICOM reports need the Python package highdicom, which is not installed in this Slicer.\n\n"
        "What: {requirement} with pydicom (MIT license), from the Python package index\n"
        "Size: about 20 MB\n\n"
        "Packages that Slicer comes with keep their versions. Install now?"
    ).format(requirement=requirement)


def noPlotView() -> str:
    return _("The plot needs a window; its nodes are in the scene.")


def presenceWord(presence: str, decision: str) -> str:
    """What a segmentation says about a lesion's place, with a glyph; empty when it only confirms the place."""
    mark = "\N{HEAVY CHECK MARK}" if decision == "accepted" else ""
    words = {
        "vanished": _("{mark} vanished").format(mark=mark) if mark else _("\N{EMPTY SET} vanished?"),
        "merged": _("{mark} merged").format(mark=mark) if mark else _("? merged"),
        "new": _("{mark} new").format(mark=mark) if mark else _("+ new"),
    }
    return "" if decision in ("moved", "rejected") else words.get(presence, "")


def reasonNew() -> str:
    return _("Segmented here, and none of the lesions of the baseline leads here.")


def reasonDrawn() -> str:
    return _("Drawn here as a new lesion.")


def newLesionLabel(n: int) -> str:
    return _("New {n}").format(n=n)


def actionAddLesion(label: str) -> str:
    return _("add {label}").format(label=label)


def placeHint() -> str:
    return _("Click both ends of the longest diameter, in the baseline or, for a new lesion, in a follow-up.")


def lesionAdded(label: str, study: str) -> str:
    return _("{label} was added in {study}.").format(label=label, study=study)


def lookedBack(label: str, study: str, state: str, confidence: str) -> str:
    return _("{label} in {study}: {state} ({confidence} %).").format(
        label=label, study=study, state=state, confidence=confidence
    )


def stateBefore(state: str) -> str:
    """Whether a lesion was there in an earlier study, in words."""
    words = {"new": _("not there before"), "unknown": _("not known"), "unchanged": _("there, like now")}
    return words.get(state, _("there, and different"))


def progressLookingBack(label: str) -> str:
    return _("Looking for {label} in the studies before").format(label=label)


def progressLooking() -> str:
    return _("Comparing the scans at the places found")


def looksWord(looks: str, confidence: str) -> str:
    """What has become of a lesion by both scans at its place, as a word with its share; empty when nothing is known."""
    words = {
        "unchanged": _("unchanged {confidence} %"),
        "changed": _("changed? {confidence} %"),
        "vanished": _("\N{EMPTY SET} vanished? {confidence} %"),
        "merged": _("merged? {confidence} %"),
        "split": _("split? {confidence} %"),
        "new": _("not there before {confidence} %"),
    }
    return words[looks].format(confidence=confidence) if looks in words and confidence else ""


def looksDetails(word: str, reason: str) -> str:
    line = _("By both scans: {word}").format(word=word)
    return f"{line}. {reason}" if reason else line


def lesionRoleName(role: str) -> str:
    """What a lesion is in the sum; empty when nobody said."""
    names = {
        "": _("Role by size"),
        "target": _("Target"),
        "non_target": _("Non-target"),
        "new": _("New lesion"),
    }
    return names[role]


def organHint() -> str:
    return _("Organ")


def actionFacts(label: str) -> str:
    return _("describe {label}").format(label=label)


def rowTip(role: str, organ: str, isNode: bool) -> str:
    """Tooltip of a row of the matrix: what the lesion is."""
    node = _("lymph node, short axis") if isNode else ""
    return ", ".join(part for part in (lesionRoleName(role), organ, node) if part)


def stateName(state: str) -> str:
    """What is said of a lesion that is not measured; empty for what needs no words."""
    names = {
        "": _("As measured"),
        "vanished": _("Vanished (0 mm)"),
        "too_small": _("Too small to measure (5 mm)"),
        "not_evaluable": _("Not evaluable"),
        "merged": _("Merged with another (counts there)"),
        "progressed": _("Unequivocal progression (not a target)"),
    }
    return names.get(state, "")


def actionState(label: str) -> str:
    return _("say what has become of {label}").format(label=label)


def columnSegments() -> str:
    return _("Segmented in")


def columnModality() -> str:
    return _("Kind")


def scansAdded(count: int) -> str:
    if count == 1:
        return _("1 scan of this patient was added.")
    return _("{count} scans of this patient were added.").format(count=count)


def noViews() -> str:
    return _("This needs slice views, and a window.")


def foreignSegmentsCause(segmentation: str, volume: str, label: str) -> str:
    return _("{label} of {segmentation} lies outside {volume}.").format(
        label=label, segmentation=segmentation, volume=volume
    )


def foreignSegmentsRemedy() -> str:
    return _("Choose the segmentation that was drawn on this study.")


def segmentationCountCause(given: int, wanted: int) -> str:
    return _("{given} segmentations are given for {wanted} follow-ups.").format(given=given, wanted=wanted)


def segmentationCountRemedy() -> str:
    return _("Give one for each follow-up, None for those without.")
