"""Models: what they are, what they have seen, getting more of them."""

from __future__ import annotations

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def thresholdOwn() -> str:
    """Behind the number, in a spin box."""
    return _(" (the model's own)")


def modelAuto() -> str:
    return _("Auto (by modality)")


def modelAutoDescription() -> str:
    return _("Auto takes the bundled model that fits the modalities of both scans.")


def modelLabel(name: str, modalities: str) -> str:
    return f"{name} ({modalities})" if modalities else name


def modelDescription(title: str, modalities: str, coverage: str, license: str, sha256: str, warnings=()) -> str:
    unknown = _("not known")
    lines = [
        title,
        _("Trained on: {modalities}").format(modalities=modalities or unknown),
        _("Body regions: {coverage}").format(coverage=coverage or unknown),
        _("License: {license}").format(license=license or unknown),
        _("SHA-256: {sha256}").format(sha256=sha256 or unknown),
    ]
    return "\n".join([*lines, *warnings])


def notKnown() -> str:
    return _("not known")


def modelToDownload(label: str) -> str:
    return _("{label}, to download").format(label=label)


def downloadConsent(title: str, size: str, url: str, folder: str, license: str, sha256: str) -> str:
    check = _("SHA-256: {sha256}").format(sha256=sha256) if sha256 else _("SHA-256: remembered at the first download")
    return _(
        "Download {title}?\n\n"
        "Size: {size}\n"
        "From: {url}\n"
        "To: {folder}\n"
        "License: {license}\n"
        "{check}\n\n"
        "An interrupted download is continued. Nothing is uploaded."
    ).format(title=title, size=size, url=url, folder=folder, license=license or notKnown(), check=check)


def progressDownload(name: str) -> str:
    return _("Downloading {name}").format(name=name)


def downloaded(name: str, sha256: str) -> str:
    return _("{name} is ready (SHA-256 {sha256}).").format(name=name, sha256=sha256[:16] or notKnown())


def downloadDeclined() -> str:
    return _("Nothing was downloaded.")


def unseenModality(volume: str, modality: str, model: str, modalities: str) -> str:
    return _(
        "{volume} is {modality}, but {model} has seen {modalities} only: its matches mean nothing there. Choose"
        " another model."
    ).format(volume=volume, modality=modality, model=model, modalities=modalities)


def seenRegions(model: str, modality: str, regions: str) -> str:
    return _(
        "{model} has seen {modality} of: {regions}. Other parts of the body are outside what it has seen; check every"
        " match."
    ).format(model=model, modality=modality, regions=regions)


def importModelTitle() -> str:
    return _("Import a weights file")


def modelImported(name: str, sha256: str) -> str:
    return _("{name} was imported and selected (SHA-256 {sha256}).").format(name=name, sha256=sha256[:16])
