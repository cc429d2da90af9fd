"""Errors: what was wrong (cause) and what to do about it (remedy), one sentence each."""

from __future__ import annotations

from typing import Optional

from SAMv2SlicerLib.texts.translation import translator

_ = translator(__name__)


def noVolumeCause() -> str:
    return _("No volume is selected.")


def noVolumeRemedy() -> str:
    return _("Load two scans, or try the sample data.")


def noVolumesCause() -> str:
    return _("The scene has no volume.")


def noTemplateCause() -> str:
    return _("Scan A is not selected.")


def noTemplateRemedy() -> str:
    return _("Choose the scan that you place points on.")


def noQueryCause() -> str:
    return _("Scan B is not selected.")


def noQueryRemedy() -> str:
    return _("Choose the scan to find the points in.")


def noPairCause() -> str:
    return _("Two volumes are needed.")


def noPairRemedy() -> str:
    return _("Choose A, which stays, and B, which is moved.")


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


def sameVolumeCause() -> str:
    return _("A and B are the same scan.")


def sameVolumeRemedy() -> str:
    return _("Choose another scan B.")


def sameRegistrationVolumeCause() -> str:
    return _("A and B are the same scan.")


def sameRegistrationVolumeRemedy() -> str:
    return _("Choose another scan B.")


def noPointsCause(name: Optional[str]) -> str:
    if not name:
        return _("No point list is selected.")
    return _("{name} has no placed points.").format(name=name)


def noPointsRemedy() -> str:
    return _("Place a point on scan A.")


def notPointsCause(name: str) -> str:
    return _("{name} is not a point list.").format(name=name)


def notPointsRemedy() -> str:
    return _("Choose a markups point list.")


def wrongNode(name: str, className: str):
    """(cause, remedy) for a node of another class than the one that was asked for."""
    remedies = {
        "vtkMRMLSegmentationNode": (
            _("{name} is not a segmentation.").format(name=name),
            _("Choose a segmentation of the study's lesions."),
        ),
        "vtkMRMLLinearTransformNode": (
            _("{name} is not a linear transform.").format(name=name),
            _("Choose a linear transform, or none for a new one."),
        ),
    }
    return remedies.get(className, (notPointsCause(name), notPointsRemedy()))


def noSegmentCause(segment: str, segmentation: str) -> str:
    if not segment:
        return _("{segmentation} has not exactly one segment.").format(segmentation=segmentation)
    return _("{segmentation} has no segment {segment}.").format(segmentation=segmentation, segment=segment)


def noSegmentRemedy() -> str:
    return _("Choose one of its segments.")


def emptySegmentCause(segment: str, volume: str) -> str:
    return _("{segment} covers nothing of the patient in {volume}.").format(segment=segment, volume=volume)


def emptySegmentRemedy() -> str:
    return _("Choose a segment that was drawn on scan B, or search everywhere.")


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


def noTorchCause() -> str:
    return _("PyTorch is not installed in this Slicer.")


def noTorchRemedy() -> str:
    return _("Press Set up\N{HORIZONTAL ELLIPSIS} in the module (0.2 to 3 GB), or install the PyTorch extension.")


def brokenTorchCause() -> str:
    return _("The PyTorch in this Slicer does not work.")


def brokenTorchRemedy() -> str:
    return _("Restart Slicer, then press Set up\N{HORIZONTAL ELLIPSIS} again; this removes the broken PyTorch first.")


def unexpectedError() -> str:
    return _("Unexpected error; nothing was changed. The details are in Slicer's log (View > Error Log).")


def registrationFailedCause(moving: str, fixed: str) -> str:
    return _("{moving} could not be aligned reliably with {fixed}.").format(moving=moving, fixed=fixed)


def registrationFailedRemedy() -> str:
    return _("Check that both scans show the same part of the same patient; no transform was applied.")


def remedyInPanel(remedy: str) -> str:
    """What to do in the panel where SAMv2Core, which knows nothing of it, names the command line."""
    if "samv2 models" in remedy:
        return _(
            "Choose it under Model and press Download\N{HORIZONTAL ELLIPSIS}, or get its file another way and press"
            " Import\N{HORIZONTAL ELLIPSIS} under Storage and help."
        )
    return remedy


def nothingToCrop(fixed: str, moving: str) -> str:
    return _("{fixed} and {moving} show the same region: there is nothing to crop or to draw a box around.").format(
        fixed=fixed, moving=moving
    )
