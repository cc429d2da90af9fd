"""The Landmarks tab: named places of the body, found without a template."""

from __future__ import annotations

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def landmarksName(volume: str) -> str:
    return _("Landmarks of {volume}").format(volume=volume)


def landmarkWord(name: str) -> str:
    """A landmark's name as people read it; in files and lists it stays as SAMv2Core has it."""
    return name.replace("_", " ")


def landmarkColumns():
    return (_("Landmark"), _("Status"), _("Confidence"))


def landmarkColumnTips():
    return (
        _("The landmark, from head to foot"),
        _("Matched, uncertain or not found; or what was decided by hand"),
        _("How probable it is that the place is right within 10 mm"),
    )


def regionWord(region: str) -> str:
    words = {"neck": _("neck"), "chest": _("chest"), "abdomen": _("abdomen"), "pelvis": _("pelvis")}
    return words.get(region, region)


def shownFound() -> str:
    return _("All that were found")


def shownLook() -> str:
    return _("What needs a look")


def shownRegion(region: str) -> str:
    return _("All of the {region}").format(region=regionWord(region))


def shownAll() -> str:
    return _("All, found or not")


def buttonLandmarks(volume: str = "") -> str:
    return _("Find landmarks in {volume}").format(volume=volume) if volume else _("Find landmarks")


def tipLandmarks() -> str:
    return _("Look for about eighty named places; what the scan does not show is not found")


def noLandmarksVolumeCause() -> str:
    return _("No scan is selected.")


def noLandmarksVolumeRemedy() -> str:
    return _("Choose the CT to find landmarks in.")


def stateReadyForLandmarks(volume: str) -> str:
    return _("Ready to find the landmarks of {volume}.").format(volume=volume)


def stateLandmarks(found: int, total: int) -> str:
    return _("{found} of {total} landmarks were found; the scan does not show the others.").format(
        found=found, total=total
    )


def stateLandmarksLook(found: int, total: int, look: int) -> str:
    if look == 1:
        return _("{found} of {total} landmarks were found; 1 needs a look.").format(found=found, total=total)
    return _("{found} of {total} landmarks were found; {look} need a look.").format(found=found, total=total, look=look)


def noLandmarkSelected() -> str:
    return _("Select a row: the views go there.")


def jumpedTo(name: str, count: int) -> str:
    if count == 1:
        return _("{name}: 1 scan went there.").format(name=landmarkWord(name))
    return _("{name}: {count} scans went there.").format(name=landmarkWord(name), count=count)


def landmarkKept(label: str) -> str:
    return _("{label} was placed by hand and is kept.").format(label=landmarkWord(label))


def actionLandmarks(volume: str) -> str:
    return _("find landmarks in {volume}").format(volume=volume)


def whereLine(region: str, places: str) -> str:
    """Where a point lies; ``places`` as SAMv2Core says it in terms of landmarks' names."""
    places = places.replace("_", " ")
    return f"{regionWord(region).capitalize()}: {places}" if region else places


def noLandmarksCause(name: str) -> str:
    return _("{name}: none was found.").format(name=name)


def noLandmarksRemedy() -> str:
    return _("Check that the volume is a CT of the neck, chest, abdomen or pelvis, and its modality.")
