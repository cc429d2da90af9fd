"""What the module remembers in the scene: inputs and options, saved with it and restored from it.

Results are not here: they live in their own nodes (see match_list.py), so that a scene opened without this module still
shows them. Names of parameters and of enumeration members are stored in scenes; renaming one breaks saved scenes.
"""

from enum import Enum
from typing import Annotated

from slicer import (
    vtkMRMLDisplayableNode,
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
)
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from SAMv2SlicerLib.texts.translation import translator
from SAMv2SlicerLib.work.engine import AUTO

_ = translator(__name__)

DEFAULT_STARTS = 3
"""That of SAMv2Core (FixedPointOptions), written down because reading it there takes torch; a test compares."""

MODELS_OWN_THRESHOLD = 0.2
"""Value of ``matchedAbove`` below all others: every model has a threshold of its own."""


class MatchMethod(Enum):
    """How a match is found; values are SAMv2Core's names."""

    FIXED_POINT = "fixed-point"
    NEAREST = "nearest"

    def label(self) -> str:
        return {
            MatchMethod.FIXED_POINT: _("Fixed points (recommended)"),
            MatchMethod.NEAREST: _("Nearest neighbor (fastest)"),
        }[self]


class TransformType(Enum):
    """What a registration may change; values are SAMv2Core's names."""

    RIGID = "rigid"
    SIMILARITY = "similarity"
    AFFINE = "affine"

    def label(self) -> str:
        return {
            TransformType.RIGID: _("Rigid (same patient)"),
            TransformType.SIMILARITY: _("Similarity (rigid and one scale)"),
            TransformType.AFFINE: _("Affine (different patients)"),
        }[self]


class ModalityChoice(Enum):
    """What a volume is taken for; values are SAMv2Core's names."""

    AUTO = "auto"
    CT = "ct"
    MR = "mr"

    def label(self) -> str:
        return {ModalityChoice.AUTO: _("Auto"), ModalityChoice.CT: "CT", ModalityChoice.MR: "MR"}[self]


@parameterNodeWrapper
class SAMv2SlicerParameterNode:
    """Inputs and options of the panel.

    templateVolume, queryVolume: the scan with the points and the scan to find them in.
    furtherQueryVolumes: scans that the batch button matches besides.
    furtherTemplateVolumes, furtherTemplatePoints: further templates, and the point list in each, in the same order.
    points: the template's point list; matched lists refer to it by node reference.
    matchWhileClicking: match at once whatever is placed or dragged.
    baselineVolume, followUpVolumes: the scan in which lesions are marked, and later ones in time order.
    landmarksVolume: the scan to find named landmarks in.
    lesionSources: point lists, lines and segmentations that mark the lesions.
    startsPerAxis, matchedAbove: L of the fixed points, and the confidence from which on a match is no longer uncertain
        (MODELS_OWN_THRESHOLD: what came with the model).
    memoryLimitGB: the most that embedding may use, 0 for SAMv2Core's choice.
    searchSegmentation, searchSegment: a segment of the query, by ID, that matches must lie in; none for everywhere.
    lockMatches: matches can only be dragged after they were unlocked one by one.
    """

    # First, since nothing is bound to it: the wrapper keeps each parameter up to date by an observer, and VTK 9.6 calls
    # the first observer of an object last, when widgets have been shown its old value.
    model: str = AUTO
    device: str = AUTO

    templateVolume: vtkMRMLScalarVolumeNode
    queryVolume: vtkMRMLScalarVolumeNode
    furtherQueryVolumes: list[vtkMRMLScalarVolumeNode]
    furtherTemplateVolumes: list[vtkMRMLScalarVolumeNode]
    furtherTemplatePoints: list[vtkMRMLMarkupsFiducialNode]
    points: vtkMRMLMarkupsFiducialNode
    matchWhileClicking: bool = True
    lockMatches: bool = True
    jumpViews: bool = True
    method: MatchMethod = MatchMethod.FIXED_POINT
    searchSegmentation: vtkMRMLSegmentationNode
    searchSegment: str = ""

    baselineVolume: vtkMRMLScalarVolumeNode
    followUpVolumes: list[vtkMRMLScalarVolumeNode]
    lesionSources: list[vtkMRMLDisplayableNode]

    fixedVolume: vtkMRMLScalarVolumeNode
    movingVolume: vtkMRMLScalarVolumeNode
    outputTransform: vtkMRMLLinearTransformNode
    transformType: TransformType = TransformType.RIGID
    createCropROI: bool = False
    createCroppedVolume: bool = False
    createResampledVolume: bool = False
    deformable: bool = False

    landmarksVolume: vtkMRMLScalarVolumeNode

    templateModality: ModalityChoice = ModalityChoice.AUTO
    queryModality: ModalityChoice = ModalityChoice.AUTO
    startsPerAxis: Annotated[int, WithinRange(1, 9)] = DEFAULT_STARTS
    matchedAbove: Annotated[float, WithinRange(MODELS_OWN_THRESHOLD, 0.99)] = MODELS_OWN_THRESHOLD
    memoryLimitGB: Annotated[float, WithinRange(0, 1024)] = 0.0
    useDiskCache: bool = True
    useKeyboard: bool = True
