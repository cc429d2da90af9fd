"""The module's logic: volumes, points and transforms of the scene in, nodes out; with a window or without.

::

    import SAMv2Slicer
    logic = SAMv2Slicer.SAMv2SlicerLogic()
    matched = logic.matchPoints("CT 2021", "CT 2023", "F")    # nodes, IDs or names; returns a point list node
    transform = logic.registerVolumes("CT 2021", "MR 2021")   # returns a transform node, the moving volume under it
    table = logic.trackLesions("CT 2021", ["CT 2022", "CT 2023"], "Lesions")   # returns a table node
    named = logic.findLandmarks("CT 2021")                    # returns a point list node

These methods block until they are done, report ``progress(fraction, text)`` (raise ``SAMv2Core.Cancelled`` in it to
stop), and raise the typed errors of SAMv2Core; nothing asks or pops up. The panel uses the ``start...`` methods, which
return a :class:`worker.Job` at once, and calls :meth:`SAMv2SlicerLogic.tick` from a timer.
"""

from __future__ import annotations

import logging
import weakref
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, ClassVar, List, Optional, Sequence, Tuple

import slicer
import slicer.util
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic
from slicer.util import VTKObservationMixin

from SAMv2Core.errors import InputError, ModelError
from SAMv2SlicerLib import texts
from SAMv2SlicerLib.match import further_templates, landmarks
from SAMv2SlicerLib.match.corrections import CorrectionWatcher
from SAMv2SlicerLib.match.live_matching import LiveInputs, LiveMatcher
from SAMv2SlicerLib.match.match_job import MatchCommit, matchRequest
from SAMv2SlicerLib.register import grid_transform as deformable
from SAMv2SlicerLib.register.register_job import Extras, RegistrationCommit
from SAMv2SlicerLib.scene import match_list, node_geometry, rings, slice_views
from SAMv2SlicerLib.scene.node_lookup import resolve
from SAMv2SlicerLib.scene.segments import SearchMasks
from SAMv2SlicerLib.scene.undo import UndoStack
from SAMv2SlicerLib.track.tracker import LesionTracker
from SAMv2SlicerLib.work import engine
from SAMv2SlicerLib.work.embedding_store import EmbeddingStore, signatureOf
from SAMv2SlicerLib.work.waiting import waitFor
from SAMv2SlicerLib.work.worker import Job, Progress, Worker

logger = logging.getLogger(__name__)


BREAK_SECONDS = 0.03
"""After so much of writing into the scene the window gets a turn: with what follows it would stand still for longer."""

LONGEST_END_SECONDS = 20.0
"""The worker stops at the next report of its progress; embedding reports every second or two."""


class SAMv2SlicerLogic(ScriptedLoadableModuleLogic, VTKObservationMixin):
    """Embeds, matches and registers nodes of the current scene.

    :ivar onWake: called without arguments when there is work for :meth:`tick` (the panel starts its timer).
    :ivar onMatched: called with (matched list, template point IDs, live) after matches were written.
    :ivar onRegistered: called with the transform node of a registration after it was written, undone or done again;
        None where there is none now.
    :ivar onStale: called with a volume node whose embedding became invalid.
    """

    _writing: ClassVar[int] = 0
    _instances: ClassVar[Any] = weakref.WeakSet()
    """All logics of the process: what one of them writes is no edit by the user to any other."""

    def __init__(self, computingEngine: Optional[engine.Engine] = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        VTKObservationMixin.__init__(self)
        self.worker = Worker()
        self.useEngine(computingEngine or engine.Engine())
        self.store = EmbeddingStore(self._onVolumeStale)
        self.masks = SearchMasks()
        self.undoStack = UndoStack()
        self.live = LiveMatcher(self)
        self.tracker = LesionTracker(self)
        self.landmarkEdits = CorrectionWatcher(self)
        self.onWake: Optional[Callable[[], None]] = None
        self.onMatched: Optional[Callable[[Any, Sequence[str], bool], None]] = None
        self.onRegistered: Optional[Callable[[Any], None]] = None
        self.onStale: Optional[Callable[[Any], None]] = None
        SAMv2SlicerLogic._instances.add(self)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeRemovedEvent, self._onNodeRemoved)

    def useEngine(self, computingEngine: engine.Engine) -> None:
        """Compute with this engine from now on; what the one before was doing is given up."""
        before = getattr(self, "engine", None)
        self.engine = computingEngine
        self.worker.pump = computingEngine.pump
        if before is not None:
            self.undoStack.finish()
            self.worker.abandonAll()
            self.store.clear()
            before.clear()

    # --- console interface ---------------------------------------------------------------------------------------

    def embed(self, volume, modality: str = "auto", model: str = "auto", device: str = "auto", progress=None):
        """Compute (or take from memory) the embedding of a volume.

        :param volume: scalar volume node, its ID or its name.
        :param modality: ``"auto"``, ``"ct"`` or ``"mr"``.
        :return: a ``SAMv2Core.Embedding``, in the volume's own frame (LPS, parent transforms not applied).
        """
        return self._finish(self.startEmbedding(volume, modality, model, device, isWhole=True), progress)

    def matchPoints(
        self,
        template,
        query,
        points,
        method: str = "fixed-point",
        model: str = "auto",
        device: str = "auto",
        progress: Optional[Progress] = None,
        modalities: Sequence[str] = ("auto", "auto"),
        inside: Optional[Tuple[Any, str]] = None,
        further: Sequence[Tuple[Any, Any]] = (),
    ):
        """Find the placed points of a list, which lie in the template volume, in the query volume.

        :param template: scalar volume node (or ID, or name) that the points were placed on.
        :param query: scalar volume node to find them in.
        :param points: point list node; its points may be under transforms.
        :param method: ``"fixed-point"`` or ``"nearest"``.
        :param inside: (segmentation, segment), each a node or name or ID: look only inside this segment of the query.
        :param further: (volume, point list) of further templates, nodes or names or IDs: their points with the same
            labels are looked for, too, and one answer is given from all.
        :return: the matched point list node, in world coordinates; one point per placed template point with the same
            label, without a position where the query does not show the place. Matches edited by hand are kept.
        """
        job = self.startMatch(
            template, query, points, None, method, model, device, modalities, inside=inside, further=further
        )
        listNode = self._finish(job, progress)
        logger.info("Matched %s in %s: %s", job.name, listNode.GetName(), match_list.summaryOf(listNode))
        return listNode

    def registerVolumes(
        self,
        fixed,
        moving,
        transform: str = "rigid",
        outputTransform=None,
        apply: bool = True,
        model: str = "auto",
        device: str = "auto",
        progress: Optional[Progress] = None,
        modalities: Sequence[str] = ("auto", "auto"),
        deformable: bool = False,
    ):
        """Align a moving with a fixed volume.

        :param transform: ``"rigid"``, ``"similarity"`` or ``"affine"``.
        :param outputTransform: linear transform node to write to, None for a new one.
        :param apply: put the moving volume under the transform (nothing is hardened or resampled).
        :param deformable: also estimate a deformation, a grid transform node above the linear one (needs convexadam).
        :return: the ``vtkMRMLLinearTransformNode``; its attributes hold status, residuals and inliers.
        :raises UnreliableResultError: no reliable alignment was found; no node was made or changed.
        """
        extras = Extras(deformation=deformable)
        job = self.startRegistration(
            fixed, moving, transform, outputTransform, apply, model, device, modalities, extras
        )
        return self._finish(job, progress)

    def trackLesions(
        self,
        baseline,
        followUps: Sequence[Any],
        lesions,
        model: str = "auto",
        device: str = "auto",
        progress: Optional[Progress] = None,
        modality: str = "auto",
        segmentations: Optional[Sequence[Any]] = None,
    ):
        """Find the lesions of a baseline volume in later volumes of the patient.

        :param followUps: scalar volume nodes (or IDs, or names) in time order.
        :param lesions: what marks them, a node, ID or name or a list of these: point lists, line markups (diameters),
            segmentations (one lesion per segment).
        :param segmentations: per follow-up the segmentation node of its lesions, or None: sizes come from it, and new,
            vanished and merged lesions are told. By default those that were chosen in the panel.
        :return: the table node with position, similarity, cycle error, confidence, status and size per study; the
            findings themselves are one point list per follow-up. Findings that the user accepted, moved or rejected
            are kept and help to find the others.
        """
        sources = list(lesions) if isinstance(lesions, (list, tuple)) else [lesions]
        job = self.tracker.start(baseline, followUps, sources, model, device, modality, segmentations=segmentations)
        table = self._finish(job, progress)
        if self.tracker.looking is not None:
            self._finish(self.tracker.looking, None)
        return table

    def findLandmarks(
        self,
        volume,
        only: Optional[Sequence[str]] = None,
        model: str = "auto",
        device: str = "auto",
        progress: Optional[Progress] = None,
        modality: str = "auto",
        atlas: str = "",
    ):
        """Find named anatomical landmarks in a volume, without any template.

        :param only: names wanted (as ``samv2 landmarks`` lists them), None for all.
        :param atlas: file of landmarks; empty for those that ship with the model.
        :return: the volume's list of landmarks, in world coordinates; what it does not show has no position. Landmarks
            that the user accepted, moved or rejected are kept.
        :raises UnreliableResultError: no landmark was found; nothing was written.
        """
        return self._finish(landmarks.startLandmarks(self, volume, only, model, device, modality, atlas), progress)

    # --- for the panel: start now, handle later -------------------------------------------------------------------

    def startEmbedding(
        self, volume, modality="auto", model="auto", device="auto", onEnd=None, isWhole: bool = False
    ) -> Job:
        """Begin :meth:`embed`; see :class:`worker.Job`.

        :param isWhole: the vectors are wanted here, also when another process has computed them.
        """
        node = self.resolve(volume, "vtkMRMLScalarVolumeNode")
        options = engine.Options(model, device)
        inputs = self.volumeInputs([node], [modality], options)

        def commit(computed):
            self.keepEmbeddings(computed)
            return computed.results or computed.embeddings[0]

        if isWhole and self.engine.isRemote:
            item = inputs[0]
            return self.submit(node.GetName(), lambda tell: self.engine.vectors(item, options, tell), commit, onEnd)
        return self.submit(node.GetName(), lambda progress: self.engine.embed(inputs, options, progress), commit, onEnd)

    def startMatch(
        self,
        template,
        query,
        points,
        pointIDs: Optional[Sequence[str]] = None,
        method: str = "fixed-point",
        model: str = "auto",
        device: str = "auto",
        modalities: Sequence[str] = ("auto", "auto"),
        lock: bool = True,
        live: bool = False,
        onEnd=None,
        inside: Optional[Tuple[Any, str]] = None,
        further: Sequence[Tuple[Any, Any]] = (),
        expect: Optional[bool] = None,
    ) -> Job:
        """Begin :meth:`matchPoints`.

        :param pointIDs: control point IDs to match, None for all placed points.
        :param lock: new matches cannot be dragged until unlocked.
        :param live: the points may have moved on when the result arrives, and the views follow them.
        :param expect: whether to look where the whole bodies' matches expect the points; None leaves it to the method.
        """
        templateNode = self.resolve(template, "vtkMRMLScalarVolumeNode")
        queryNode = self.resolve(query, "vtkMRMLScalarVolumeNode")
        pointsNode = self.resolve(points, "vtkMRMLMarkupsFiducialNode")
        if templateNode is queryNode:
            raise InputError(texts.sameVolumeCause(), texts.sameVolumeRemedy())
        mask = self.masks.chosen(self.resolve, inside, queryNode)
        others = self._furtherNodes(further, templateNode, queryNode, mask)
        names = [volume.GetName() for volume, _ in others]
        request = matchRequest(templateNode, queryNode, pointsNode, pointIDs, method, lock, live, mask, names)
        labels = [
            pointsNode.GetNthControlPointLabel(pointsNode.GetNthControlPointIndexByID(one)) for one in request.pointIDs
        ]
        if others:
            further_templates.placesOf(pointsNode)  # tells labels that are no names
        options = engine.Options(model, device)
        first, *rest, last = self.volumeInputs(
            [templateNode, *(volume for volume, _ in others), queryNode],
            [modalities[0], *[engine.AUTO] * len(others), modalities[1]],
            options,
            mask=mask,
        )
        extra = [(item, further_templates.pointsLike(labels, *pair)) for item, pair in zip(rest, others)]
        text = texts.progressMatching(len(request.pointIDs))
        work = partial(self.engine.match, first, last, request.pointsLPS, method, options, text)
        return self.submit(
            pointsNode.GetName(),
            lambda progress: work(progress, further=extra, expect=expect),
            MatchCommit(self, request),
            onEnd,
        )

    def _furtherNodes(self, further, templateNode, queryNode, mask) -> List[Tuple[Any, Any]]:
        """Nodes of the further templates.

        :raises InputError: one of them is the template or the query, or only a segment is searched.
        """
        found = [
            (self.resolve(volume, "vtkMRMLScalarVolumeNode"), self.resolve(points, "vtkMRMLMarkupsFiducialNode"))
            for volume, points in further
        ]
        if found and mask is not None:
            raise InputError(texts.furtherInsideCause(), texts.furtherInsideRemedy())
        for volume, _ in found:
            if volume in (templateNode, queryNode):
                raise InputError(texts.furtherSameCause(volume.GetName()), texts.furtherSameRemedy())
        return found

    def startPosition(self, inputs: LiveInputs, world, commit, onEnd=None) -> Job:
        """Look for one world RAS position (3,) quickly, without any list; ``commit`` gets the ``Engine.follow``."""
        options = engine.Options(inputs.model, inputs.device)
        mask = self.masks.chosen(self.resolve, inputs.inside, inputs.queryNode)
        volumes = self.volumeInputs([inputs.templateNode, inputs.queryNode], inputs.modalities, options, mask=mask)
        pointsLPS = node_geometry.worldToVolumeLPS(inputs.templateNode, world)
        text = texts.progressMatching(1)
        work = partial(self.engine.follow, *volumes, pointsLPS, options, text)
        return self.submit(text, work, commit, onEnd)

    def startRegistration(
        self,
        fixed,
        moving,
        transform: str = "rigid",
        outputTransform=None,
        apply: bool = True,
        model: str = "auto",
        device: str = "auto",
        modalities: Sequence[str] = ("auto", "auto"),
        extras: Optional[Extras] = None,
        onEnd=None,
    ) -> Job:
        """Begin :meth:`registerVolumes`; ``extras`` says what to add besides the transform."""
        extras = extras or Extras()
        fixedNode = self.resolve(fixed, "vtkMRMLScalarVolumeNode")
        movingNode = self.resolve(moving, "vtkMRMLScalarVolumeNode")
        if fixedNode is movingNode:
            raise InputError(texts.sameRegistrationVolumeCause(), texts.sameRegistrationVolumeRemedy())
        output = self.resolve(outputTransform, "vtkMRMLLinearTransformNode") if outputTransform else None
        for node in (fixedNode, movingNode):  # before minutes of work: a linear way to the world exists
            deformable.checkLinearWay(node, output)
        outputID = output.GetID() if output is not None else None
        options = engine.Options(model, device)
        inputs = self.volumeInputs([fixedNode, movingNode], modalities, options, isVoxelsNeeded=True)
        text = texts.progressRegistering(movingNode.GetName(), fixedNode.GetName())
        deformText = texts.progressDeforming(movingNode.GetName())
        return self.submit(
            text,
            lambda progress: self.engine.register(
                *inputs, transform, options, text, progress, extras.deformation, extras.resampled, deformText
            ),
            RegistrationCommit(self, fixedNode.GetID(), movingNode.GetID(), outputID, apply, extras),
            onEnd,
        )

    def modalityOf(self, volumeNode) -> str:
        """``"ct"``, ``"mr"`` or empty, from an embedding or DICOM; nothing is computed for it."""
        found = next(iter(self.store.get(volumeNode).values()), None)
        return found.modality if found is not None else node_geometry.modalityOfNode(volumeNode) or ""

    def secondsToEmbed(self, volumeNodes, device: str) -> Optional[float]:
        """Estimate for embedding these volumes, from the last measured rate on this device; None before the first."""
        voxels = sum(node_geometry.voxelsAt2mm(node) for node in volumeNodes)
        return self.engine.secondsFor(voxels, device)

    def tick(self, waitSeconds: float = 0.0) -> bool:
        """Store what the worker finished; whether there still is work. The panel's timer calls this."""
        isElsewhere = self.engine.isRemote and not self.worker.isThreadBusy()
        self.worker.dispatch(0.0 if isElsewhere else waitSeconds, BREAK_SECONDS)
        return self.worker.isBusy()

    def cancel(self) -> None:
        """Ask everything that runs or waits to stop; nothing in the scene is changed."""
        self.worker.cancelAll()

    def cleanup(self) -> None:
        """Stop the worker, release memory and observe nothing; the logic must not be used afterwards."""
        self.live.stop()
        self.tracker.stop()
        self.landmarkEdits.clear()
        self.undoStack.finish()
        if not self.worker.shutdown(LONGEST_END_SECONDS):
            logger.warning("A computation still runs; it could not be stopped.")
        self.store.clear()
        self.engine.clear()
        self.undoStack.clear()
        self.removeObservers()
        self._instances.discard(self)

    # --- helpers, also for the commits ---------------------------------------------------------------------------

    def resolve(self, reference, className: str):
        """A node of the scene from a node, an ID or a name, see node_lookup.py."""
        return resolve(reference, className)

    def keepEmbeddings(self, computed: engine.Computed) -> None:
        """Store what a job computed on the way.

        :raises InputError: a volume was removed or changed in the meantime, so results from it must not be used.
        """
        for item, (model, modality), embedding in computed.fresh:
            node = slicer.mrmlScene.GetNodeByID(item.nodeID)
            if node is None:
                raise InputError(texts.nodeGoneCause(), texts.nodeGoneRemedy())
            if not self.store.put(node, item.signature, model, modality, embedding):
                raise InputError(texts.changedMeanwhileCause(node.GetName()), texts.changedMeanwhileRemedy())

    @contextmanager
    def writing(self):
        """While active, changes of matched lists are the module's own and not edits by the user."""
        SAMv2SlicerLogic._writing += 1
        try:
            yield
        finally:
            SAMv2SlicerLogic._writing -= 1
            if not self.isWriting():
                for logic in list(self._instances):
                    logic.live.noteOwnWrites()
                    logic.tracker.noteOwnWrites()
                    logic.landmarkEdits.noteOwnWrites()

    def isWriting(self) -> bool:
        return SAMv2SlicerLogic._writing > 0

    def hasEmbedding(self, volumeNode, model: str = "auto") -> bool:
        """Whether a first match on this volume, by this model, needs no embedding."""
        return any(model in (engine.AUTO, name) for name, _ in self.store.get(volumeNode))

    def volumeInputs(
        self, nodes, modalities: Sequence[str], options: engine.Options, isVoxelsNeeded: bool = False, mask=None
    ) -> List[engine.VolumeInput]:
        """The volumes for a job: voxels are copied only where no valid embedding will do, or when they are needed.

        :param mask: SearchMask of the last one.
        """
        cached = [self.store.get(node) for node in nodes]
        model = self.engine.plannedModel(cached, modalities, options)
        inputs = []
        for node, modality, found in zip(nodes, modalities, cached):
            isEnough = not isVoxelsNeeded and model is not None and (model, modality) in found
            inputs.append(
                engine.VolumeInput(
                    nodeID=node.GetID(),
                    text=texts.progressEmbedding(node.GetName()),
                    modality=modality,
                    signature=signatureOf(node),
                    volume=None if isEnough else node_geometry.volumeFromNode(node, not self.engine.isRemote),
                    cached=found,
                    inside=mask if node is nodes[-1] else None,
                )
            )
        return inputs

    def submit(self, name: str, work, commit, onEnd) -> Job:
        """Queue work that needs PyTorch; see :class:`worker.Job`."""
        if self.engine.state() != "ready":
            raise ModelError(texts.noTorchCause(), texts.noTorchRemedy())
        if not self.engine.isRemote:
            return self.submitPlain(name, work, commit, onEnd, texts.progressStarting())
        return self.submitSteps(name, work, commit, onEnd, texts.progressStarting())

    def submitSteps(self, name: str, work, commit, onEnd, text: str) -> Job:
        """Begin work that others do, and that is looked at in steps; see :meth:`worker.Worker.submitSteps`."""
        job = self.worker.submitSteps(name, work, _drawnOnce(commit), onEnd, text)
        if self.onWake is not None:
            self.onWake()
        return job

    def submitPlain(self, name: str, work, commit, onEnd, text: str) -> Job:
        """Queue work of this process that needs no PyTorch (downloads, reports, checkerboards)."""
        job = self.worker.submit(name, work, _drawnOnce(commit), onEnd, text)
        if self.onWake is not None:
            self.onWake()
        return job

    def _finish(self, job: Job, progress: Optional[Progress]):
        return waitFor(self.worker, job, progress)

    # --- scene ---------------------------------------------------------------------------------------------------

    def _onSceneStartClose(self, caller, event) -> None:
        self.live.stop()
        self.tracker.stop()
        self.landmarkEdits.clear()
        self.worker.abandonAll()
        self.store.clear()
        self.masks.clear()
        self.engine.forgetMasks()
        self.engine.forgetScans()
        self.undoStack.clear()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeRemoved(self, caller, event, node) -> None:
        if node is not None and node.IsA("vtkMRMLVolumeNode"):
            self.store.drop(node.GetID())
            self.engine.forgetScans(node.GetID())
        elif match_list.isMatchList(node) and not slicer.mrmlScene.IsClosing():
            rings.remove(rings.ringsOf(node, slicer.mrmlScene))

    def _onVolumeStale(self, volumeNode) -> None:
        if self.onStale is not None:
            self.onStale(volumeNode)


def _drawnOnce(commit):
    """A completion handler during which no view is drawn; None for none."""
    if commit is None:
        return None

    def whole(result):
        with slice_views.drawnOnce():
            return commit(result)

    return whole
