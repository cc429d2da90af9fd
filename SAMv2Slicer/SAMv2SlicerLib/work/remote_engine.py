"""The engine that computes in another process: here is only its client, and nothing here ever waits.

Same methods as :class:`engine.Engine`, but each is a generator that the worker advances in the main thread, between two
events of the window: requests leave and replies arrive through a connection that is looked at and never waited for, and
what takes a while (hashing and copying a scan) is done by a thread that needs Python's lock only for moments. No
PyTorch is needed here. A process that dies is told in one line and started again; scans are sent again by themselves,
so a job can simply be repeated.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Callable, Dict, Generator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import InputError, ServerError
from SAMv2Core.io.volume import Volume
from SAMv2Core.serve.client import Call, Client, Mask, Scan, facts_of
from SAMv2Core.serve.service import REFUSAL
from SAMv2SlicerLib.work.engine import Computed, Engine, Options, VolumeInput, torchState
from SAMv2SlicerLib.work.lesion_engine import LesionInput, VerifiedInput, coreLesion, coreVerified, trackedStudy

logger = logging.getLogger(__name__)

Steps = Generator[None, None, Computed]
Progress = Callable[[float, str], None]

STUCK_SECONDS = 5.0
"""A computation that was cancelled and does not stop by itself is ended with its process."""

GRANT_SECONDS = 0.008
"""Time per turn for threads that prepare or speak to a server: Slicer's event loop keeps Python's lock otherwise."""


class RemoteEngine(Engine):
    """Computes over a link.

    :param makeLink: gives a link that is not started yet (:class:`SAMv2Core.serve.child_link.ChildLink` or
        :class:`SAMv2Core.serve.http_link.HttpLink`); called again when a process has died.
    :param needsTorchHere: the other process is this Slicer's own Python.
    """

    isRemote = True
    timerMs = 4

    def __init__(self, makeLink: Callable[[], Any], needsTorchHere: bool = False) -> None:
        super().__init__()
        self._makeLink, self._needsTorchHere = makeLink, needsTorchHere
        self._client: Optional[Client] = None
        self._contents: Dict[Tuple[str, Any], str] = {}
        """(node ID, signature) -> hash of the content."""
        self._mask: Optional[Mask] = None
        """The last one: hashing it takes a moment."""
        self._about: Optional[Call] = None

    # --- the process ---------------------------------------------------------------------------------------------

    def state(self) -> str:
        return torchState() if self._needsTorchHere else "ready"

    def start(self) -> None:
        """Start the process ahead, so that the first click does not wait for it.

        :raises ServerError: it cannot be started.
        """
        if self.state() == "ready":
            self._live()

    def _live(self) -> Client:
        """The client of a process that runs; it is started when it does not."""
        if self._client is not None:
            self._client.poll()
            if not self._client.link.problem:
                return self._client
            self._client.link.close()
        link = self._makeLink()
        link.start()
        self._client = Client(link, has_event_loop=True)
        self._about = self._client.request("info", {})  # which also loads PyTorch there, ahead of the first job
        return self._client

    def ask(self) -> None:
        self._about = self._live().request("info", {})

    def facts(self) -> Tuple[Optional[Dict[str, Any]], Optional[Exception]]:
        return (self._about.value, self._about.error) if self._about is not None else (None, None)

    def isUp(self) -> bool:
        return self._client is not None and not self._client.link.problem

    def pump(self, seconds: float) -> None:
        """Take what has arrived; waits up to so long, and only where threads or the caller need it."""
        client = self._client
        if client is None:
            return
        if client.tasks:
            client.tasks[0].wait(max(seconds, GRANT_SECONDS))
            client.poll()
        else:
            client.poll(max(seconds, GRANT_SECONDS if client.link.needs_threads and client.is_waiting() else 0.0))
        if client.is_stuck(STUCK_SECONDS) and not client.link.needs_threads:
            logger.info("A cancelled computation did not stop; its process is ended.")
            client.link.kill()
            client.poll()
        if client.link.problem:
            self._restart(client.link.problem)

    def _restart(self, problem: str) -> None:
        client, self._client = self._client, None
        wasUp = client is not None and bool(client.link.pid)
        if self.onEnded is not None:
            self.onEnded(problem)
        if wasUp:  # else it would die again: the next job tries
            try:
                self._live()
            except ServerError:
                logger.debug("The process cannot be started again", exc_info=True)

    def clear(self) -> None:
        """Let the process go."""
        super().clear()
        client, self._client = self._client, None
        if client is not None:
            client.link.close()
        self._contents.clear()

    def forgetScans(self, nodeID: Optional[str] = None) -> None:
        """The process needs to keep nothing of a node, None for any."""
        keys = [key for key in self._contents if nodeID in (None, key[0])]
        contents = {self._contents.pop(key) for key in keys} - set(self._contents.values())
        if self._client is not None:
            self._client.forget(sorted(contents))

    def forgetMasks(self) -> None:
        if self._mask is not None and self._client is not None and self._mask.content:
            self._client.forget([self._mask.content])
        self._mask = None

    def plannedModel(self, cached: Any, modalities: Any, options: Options) -> Optional[str]:
        return None  # the other side decides; what is handed over for it is no copy

    # --- work ----------------------------------------------------------------------------------------------------

    def embed(self, inputs: Sequence[VolumeInput], options: Options, progress: Progress) -> Steps:  # type: ignore
        found, fresh = [], []
        for n, item in enumerate(inputs):
            part = _partOf(progress, n, len(inputs))
            computed = yield from self._do("embed", {"source": item}, options, item.text, part)
            found += computed.embeddings
            fresh += computed.fresh
        return Computed(None, tuple(found), tuple(fresh))

    def vectors(self, item: VolumeInput, options: Options, progress: Progress) -> Steps:
        """The embedding itself, a ``SAMv2Core.Embedding``: for scripts; needs PyTorch here."""
        from SAMv2Core.embedding.cache import with_names
        from SAMv2Core.embedding.file import from_tensors

        found = yield from self._do("vectors", {"source": item}, options, item.text, progress)
        embedding = from_tensors(*found.results)
        whole = replace(with_names(embedding, item.volume), warnings=found.embeddings[0].warnings)
        return Computed(whole, found.embeddings, found.fresh)

    def match(  # type: ignore
        self, template, query, pointsLPS, method, options, text, progress, further=(), expect=None
    ) -> Steps:
        knobs = {"starts_per_axis": self.startsPerAxis, "matched_above": self.matchedAbove, "expect": expect}
        lists = [np.asarray(points, float).reshape(-1, 3) for points in (pointsLPS, *(item for _, item in further))]
        values = {"points": lists if further else lists[0], "method": method, **knobs}
        scans = {"template": [template, *(item for item, _ in further)] if further else template, "query": query}
        return (yield from self._do("match", scans, options, text, progress, values, query.inside))

    def follow(self, template, query, pointLPS, options, text, progress) -> Steps:  # type: ignore
        values = {"points": np.asarray(pointLPS, float).reshape(-1, 3)}
        pair = {"template": template, "query": query}
        found = yield from self._do("locate", pair, options, text, progress, values, query.inside)
        place = found.results[0]
        return Computed((None if np.isnan(place).any() else place,), found.embeddings, found.fresh)

    def register(  # type: ignore
        self, fixed, moving, transform, options, text, progress, isDeformable=False, isResampled=False, deformText=""
    ) -> Steps:
        values = {"transform": transform, "deformable": isDeformable, "resampled": isResampled}
        pair = {"fixed": fixed, "moving": moving}
        found = yield from self._do("register", pair, options, text, progress, values)
        registration, deformation, array = found.results
        resampled = None
        if array is not None:
            resampled = Volume(array, fixed.volume.ijk_to_lps, moving.volume.source)
        return Computed((registration, deformation, resampled), found.embeddings, found.fresh)

    def track(  # type: ignore
        self,
        baseline,
        followUps,
        lesions: Sequence[LesionInput],
        verified: Sequence[VerifiedInput],
        options,
        text,
        progress,
        segmented: Sequence[Any] = (),
    ) -> Steps:
        values = {
            "lesions": [coreLesion(item) for item in lesions],
            "verified": [coreVerified(item) for item in verified],
            "drawn": {item.label: item.endsLPS for item in lesions if item.endsLPS is not None},
        }
        scans = {"baseline": baseline, "follow_ups": list(followUps)}
        found = yield from self._do("track", scans, options, text, progress, values)
        findings, ends = found.results
        studies = [
            trackedStudy(findings, n + 1, parts, ends[n] if ends else {})
            for n, parts in enumerate(segmented or [None] * len(followUps))
        ]
        return Computed(studies, found.embeddings, found.fresh)

    def landmarks(self, volume, only, atlas, options, text, progress) -> Steps:  # type: ignore
        values = {"only": only, "atlas": atlas}
        return (yield from self._do("landmarks", {"source": volume}, options, text, progress, values))

    def colors(self, volume, options, text, progress) -> Steps:  # type: ignore
        return (yield from self._do("colors", {"source": volume}, options, text, progress))

    def similarityMap(self, template, query, pointLPS, options, text, progress) -> Steps:  # type: ignore
        values = {"points": np.asarray(pointLPS, float).reshape(1, 3)}
        found = yield from self._do(
            "similarity_map", {"template": template, "query": query}, options, text, progress, values
        )
        array, grid = found.results
        return Computed(Volume(array, grid.ijk_to_lps, text), found.embeddings, found.fresh)

    def _do(
        self,
        operation: str,
        scans: Mapping[str, Any],
        options: Options,
        text: str,
        progress: Progress,
        values: Optional[Mapping[str, Any]] = None,
        inside: Any = None,
    ) -> Steps:
        """One operation of the service.

        :param scans: its names of scans -> a VolumeInput, or a list of them.
        """
        client = self._live()
        inputs = [item for entry in scans.values() for item in (entry if isinstance(entry, list) else [entry])]
        asScan = {id(item): self._scanOf(item, options) for item in inputs}
        ordered = [asScan[id(item)] for item in inputs]
        mask = self._maskOf(inside)

        def arguments() -> Dict[str, Any]:
            def source(entry: Any) -> Any:
                return [source(item) for item in entry] if isinstance(entry, list) else asScan[id(entry)].source()

            named = {name: source(entry) for name, entry in scans.items()}
            return {**named, **(values or {}), **({"inside": mask.content} if mask is not None else {})}

        tell = _telling(progress, text, inputs[0].text)
        try:
            value = yield from client.steps(operation, ordered, arguments, tell, [mask] if mask is not None else [])
        except InputError as error:
            if error.cause == REFUSAL and inside is not None:
                raise InputError(*inside.refusal) from None
            raise
        finally:  # also after a cancellation: what was sent is kept there until it is forgotten
            for item, scan in zip(inputs, ordered):
                if scan.content:
                    self._contents[item.nodeID, item.signature] = scan.content
        return self._computed(value, inputs, ordered, options)

    def _computed(self, value: Any, inputs: List[VolumeInput], scans: List[Scan], options: Options) -> Computed:
        facts = facts_of(value, scans)
        fresh, voxelsSent = [], []
        for item, scan, one in zip(inputs, scans, facts):
            if (one.key, item.modality) not in item.cached:
                fresh.append((item, (one.key, item.modality), one))
            if one.seconds is not None:
                voxelsSent.append(scan.content)
                self.noteRate(one.voxels, one.seconds, options.device)
        if self._client is not None and voxelsSent:
            self._client.release_voxels(voxelsSent)  # Slicer has them, and they are sent again when they are needed
        return Computed(value["value"], tuple(facts), tuple(fresh))

    def _scanOf(self, item: VolumeInput, options: Options) -> Scan:
        source = {
            "modality": item.modality,
            "model": options.model,
            "device": options.device,
            "cache": self.usesDiskCache,
            "max_memory_gib": self.memoryLimitGiB,
        }
        content = self._contents.get((item.nodeID, item.signature), "")
        name = item.volume.source if item.volume is not None else item.text
        return Scan(item.volume, name, content, source)

    def _maskOf(self, inside: Any) -> Optional[Mask]:
        if inside is None:
            return None
        if self._mask is None or self._mask.mask.key != inside.key:
            self.forgetMasks()
            self._mask = Mask(inside)
        return self._mask


def _telling(progress: Progress, text: str, before: str = "") -> Callable[[float, str, str], None]:
    """A progress with a stage for one without."""

    def tell(fraction: float, said: str, stage: str) -> None:
        if stage == "work":
            said = ": ".join(part for part in (text, said) if part)
        progress(fraction, said or (text if stage == "work" else before))

    return tell


def _partOf(progress: Progress, n: int, count: int) -> Progress:
    return lambda fraction, text: progress((n + fraction) / count, text)
