"""What computes, for whoever asks: volumes by their content, embeddings kept, results as SAMv2Core gives them.

Requests and replies are frames (:mod:`SAMv2Core.serve.frames`); how they travel is the business of others: a child
process (:mod:`SAMv2Core.serve.child`) or a server (:mod:`SAMv2Core.serve.http`). ``Resources/Server.md`` lists the
operations. A request names its scans by their content (:func:`SAMv2Core.embedding.cache.cache_key`); when one is not
here the reply says which, and the client sends it. Names of files or patients never come here: a scan's text is
``{volume:HASH}`` in every message, and its client puts the name in.

Loads torch with the first work, not before.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core import __version__
from SAMv2Core.embedding.cache import Cache, cache_key
from SAMv2Core.errors import Cancelled, InputError, SAMv2Error, ServerError, UsageError, as_samv2_error
from SAMv2Core.io.volume import Volume
from SAMv2Core.matching.search_mask import LastRestricted, SearchMask, match_inside
from SAMv2Core.progress import Progress, part
from SAMv2Core.serve.frames import Frame, FrameError, Json
from SAMv2Core.serve.keys import mask_key
from SAMv2Core.serve.lanes import Lane
from SAMv2Core.serve.store import EMBEDDING, MASK, VOLUME, Store
from SAMv2Core.serve.values import decode, encode

logger = logging.getLogger(__name__)

PROTOCOL = 1
AUTO = "auto"

TELL_SECONDS = 0.05
"""Progress is told no more often."""

MOST_WAITING = 64
"""Requests of one client in one lane; more are refused."""

SHARE_OF_EMBEDDING = 0.9
"""Of the progress, when anything must be embedded."""

_Embedded = Tuple[List[Any], List[Json]]

Tell = Callable[[Json, Sequence[np.ndarray]], None]
"""Sends a reply: (header, arrays). Called from any thread; must neither raise nor wait long."""


def volume_text(content: str) -> str:
    """What stands for a scan's name in messages; its client knows the name."""
    return f"{{volume:{content[:16]}}}"


REST_SECONDS, MOST_REST_SECONDS = 0.25, 5.0
"""So long after a hand's last movement an embedding goes on, and so long it waits at most before its next part."""

FEW_POINTS = 4
"""So many are matched by one thread."""

REFUSAL = "{refusal}"
"""Stands for what a client says of a mask that has nothing to do with its scan."""


@dataclass(frozen=True)
class Settings:
    """What a service is allowed.

    :param device: where models run; None: where each request says.
    :param models: names that may be asked for; None: any, and files too.
    :param max_memory_gib: of the whole process, for embedding.
    :param keep_bytes: of volumes and embeddings together.
    :param cache: keep embeddings on disk: True, False, or None where each request says.
    :param cache_folder: where; empty for the user's own cache.
    :param is_trusting: the client is our own parent: contents are what it says they are.
    """

    device: Optional[str] = None
    models: Optional[Tuple[str, ...]] = None
    max_memory_gib: Optional[float] = None
    keep_bytes: int = 4 << 30
    cache: Optional[bool] = None
    cache_folder: str = ""
    is_trusting: bool = False


class MissingError(SAMv2Error):
    """Some content is not here (any more); the client sends it and asks again."""

    def __init__(self, contents: Sequence[str]) -> None:
        super().__init__("A scan is not on the server.", "Send it.")
        self.contents = tuple(contents)


@dataclass(eq=False)
class Request:
    """A request that is waiting or running.

    :param values: the decoded arguments.
    :param rest: called before each part of an embedding, see :meth:`Service.rest`.
    """

    client: str
    number: int
    operation: str
    values: Dict[str, Any]
    tell: Tell
    last_told: float = 0.0
    rest: Callable[[Request], None] = lambda request: None

    def __post_init__(self) -> None:
        self.is_cancelled = threading.Event()

    def progress(self, stage: str) -> Progress:
        """Tells the client how far it is, now and then, and ends the work when nobody wants it any more.

        :param stage: ``"embed"`` or ``"work"``.
        """

        def report(fraction: float, text: str) -> None:
            if stage == "embed":
                self.rest(self)
            if self.is_cancelled.is_set():
                raise Cancelled()
            now = time.monotonic()
            if now - self.last_told >= TELL_SECONDS:
                self.last_told = now
                fraction = min(max(float(fraction), 0.0), 1.0)
                self.reply({"kind": "progress", "fraction": fraction, "text": text, "stage": stage})

        return report

    def reply(self, header: Json, arrays: Sequence[np.ndarray] = ()) -> None:
        self.tell({"id": self.number, **header}, arrays)


class Service:
    """Computes for clients until :meth:`close`.

    :param load_model: of (name, device), gives a :class:`SAMv2Core.Model`; None for SAMv2Core's own.
    :param default_model: of modalities, gives the name of the model for them; None for SAMv2Core's own.
    """

    def __init__(
        self,
        settings: Settings = Settings(),
        load_model: Optional[Callable[[str, str], Any]] = None,
        default_model: Optional[Callable[..., str]] = None,
    ) -> None:
        self.settings = settings
        self.store = Store(settings.keep_bytes)
        self._load_model, self._default_model = load_model, default_model
        self._lanes = {name: Lane(name, name == "embed") for name in ("receive", "quick", "compute", "embed")}
        self._open: Dict[Tuple[str, int], Request] = {}
        self._last_quick = float("-inf")
        self._lock = threading.Lock()
        self._models: Dict[Tuple[str, str], Any] = {}
        self._models_lock = threading.Lock()
        self._fitting: Dict[Tuple[str, ...], str] = {}
        self._detected: Dict[str, str] = {}
        """Modality of contents that nobody named one for."""
        self._narrow = LastRestricted()
        self._n_threads: Optional[int] = None

    # --- requests ------------------------------------------------------------------------------------------------

    def submit(self, client: str, frame: Frame, tell: Tell) -> None:
        """Take a request; its replies come through ``tell``, the last one being a result or an error.

        :param client: whose turn it is; replies and cancellations never reach another one.
        :raises FrameError: no request.
        """
        header = frame.header
        number, operation = header.get("id"), header.get("op")
        if type(number) is not int or not isinstance(operation, str):
            raise FrameError("A request has no number or no operation.")
        try:
            values = decode(header.get("args", {}), frame.arrays)
        except RecursionError:
            raise FrameError("A request is nested too deeply.") from None
        except SAMv2Error as error:
            tell({"id": number, **_error(error)}, ())
            return
        if not isinstance(values, dict):
            raise FrameError("A request has no arguments.")
        request = Request(client, number, operation, values, tell)
        if header.get("v") != PROTOCOL:
            request.reply(_error(_other_protocol(header.get("v"))))
            return
        immediate = {"hello": self.hello, "forget": self._forget, "cancel": self._cancel}.get(operation)
        if immediate is not None:
            self._answer(request, immediate)
            return
        with self._lock:
            if (client, number) in self._open:
                raise FrameError("A request has the number of another one.")
            self._open[client, number] = request
        name = self._lane_of(request)
        if self.settings.is_trusting:  # one user, whose hand comes first; a server's users must not hold up one another
            if name == "quick":
                self._last_quick = time.monotonic()
            else:
                request.rest = self.rest
        lane = self._lanes[name]
        if lane.n_waiting(client) >= MOST_WAITING:
            self._end(request)
            request.reply(_error(ServerError("The server has too many of your requests.", "Wait for some of them.")))
            return
        lane.add(client, lambda: self._run(request, name))

    def cancel(self, client: str, number: Optional[int] = None) -> None:
        """Stop a request of a client, None for all of them: at its next report of progress."""
        with self._lock:
            for (owner, n), request in self._open.items():
                if owner == client and number in (None, n):
                    request.is_cancelled.set()

    def rest(self, request: Request) -> None:
        """Wait while the cursor moves: on two cores an embedding takes a quarter of its places, even yielding."""
        end = time.monotonic() + MOST_REST_SECONDS
        while time.monotonic() < min(end, self._last_quick + REST_SECONDS):
            if request.is_cancelled.wait(REST_SECONDS / 10):
                return

    def close(self) -> None:
        """Take no more work, and forget everything."""
        for lane in self._lanes.values():
            lane.close()
        with self._lock:
            for request in self._open.values():
                request.is_cancelled.set()
        self.store.clear()

    def _lane_of(self, request: Request) -> str:
        operation = request.operation
        if operation in ("put", "put_mask"):
            return "receive"
        if not self._are_embedded(_sources(request.values)):
            return "embed"
        is_quick = operation == "locate" or (operation == "match" and request.values.get("method") == "nearest")
        return "quick" if is_quick else "compute"

    def _are_embedded(self, sources: Sequence[Any]) -> bool:
        """Whether nothing must be embedded first; looks at no voxels."""

        def nobody(unknown: List[Any]) -> List[Volume]:
            if unknown:
                raise MissingError([])
            return []

        try:
            return all(self.store.has(self._embedding_key(item)) for item in self._with_model(sources, nobody))
        except (SAMv2Error, ValueError, TypeError):  # an error, then, and it is told when it is its turn
            return False

    def _run(self, request: Request, lane: str) -> None:
        try:
            if lane != "receive":
                self._use_threads(lane == "quick" or (lane == "compute" and _is_small(request)))
            handler = HANDLERS.get(request.operation)
            if handler is None:
                known = ", ".join(("hello", "forget", "cancel", *HANDLERS))
                error = UsageError(f"There is no operation {request.operation[:20]!r}.", f"There are: {known}.")
                request.reply(_error(error))
            elif request.is_cancelled.is_set():
                request.reply(_error(Cancelled()))
            else:
                self._answer(request, lambda asked: handler(self, asked))
        finally:
            self._end(request)

    def _use_threads(self, is_small: bool) -> None:
        """Let torch compute in this thread by itself, or with as many threads as it would.

        A few points are too little work to share: on two cores, where threads wait for one another while something
        else computes, a place of the cursor takes 42 ms of processor time by two threads and 12 by one.
        """
        try:
            import torch
        except Exception:  # broken or missing: whatever needs it says so
            return
        with self._lock:
            if self._n_threads is None:
                self._n_threads = torch.get_num_threads()  # of the process; below it is this thread's own
            n_threads = 1 if is_small else self._n_threads
        torch.set_num_threads(n_threads)

    def _end(self, request: Request) -> None:
        with self._lock:
            self._open.pop((request.client, request.number), None)

    def _answer(self, request: Request, handler: Callable[[Request], Any]) -> None:
        """Run a handler and send what it returns or raises."""
        arrays: List[np.ndarray] = []
        try:
            header = {"kind": "result", "value": encode(handler(request), arrays)}
        except MissingError as missing:
            header, arrays = {"kind": "missing", "contents": list(missing.contents)}, []
        except BadArgument as bad:
            header = _error(UsageError(f"A request of {request.operation!r} makes no sense: {bad}."))
            arrays = []
        except Exception as error:
            logger.debug("A request failed", exc_info=True)
            header, arrays = _error(as_samv2_error(error)), []
        request.reply(header, arrays)

    # --- operations ----------------------------------------------------------------------------------------------

    def hello(self, request: Optional[Request] = None) -> Dict[str, Any]:
        """Who is here; loads nothing."""
        return {
            "protocol": PROTOCOL,
            "samv2": __version__,
            "python": platform.python_version(),
            "pid": os.getpid() if self.settings.is_trusting else 0,
            "limit_bytes": self.store.limit_bytes,
        }

    def info(self, request: Request) -> Dict[str, Any]:
        """Device, memory, models; loads torch, and the model that is named, so that it is warm."""
        import torch

        from SAMv2Core.embedding.memory import available_bytes
        from SAMv2Core.models.library import list_models
        from SAMv2Core.network.device import resolve_device

        device = resolve_device(self.settings.device or _text(request.values, "device", AUTO))
        names = [info.name for info in list_models() if info.path is not None]
        if self.settings.models is not None:
            names = [name for name in names if name in self.settings.models]
        warm = _text(request.values, "warm", "")
        if warm:
            self._model(warm, str(device))
        is_cuda = device.type == "cuda"
        return {
            "device": str(device),
            "device_name": torch.cuda.get_device_name(device) if is_cuda else platform.processor() or "CPU",
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "memory_bytes": (torch.cuda.mem_get_info(device)[1] if is_cuda else available_bytes()) or 0,
            "models": names,
            "kept": self.store.facts(),
            **self.hello(),
        }

    def choose(self, request: Request) -> Dict[str, Any]:
        """The model for some modalities, or of a name, loaded and verified."""
        name = _text(request.values, "model", AUTO)
        if name == AUTO:
            modalities = tuple(sorted({str(item) for item in _list(request.values, "modalities")}))
            name = self._model_for(modalities)
        device = self.settings.device or _text(request.values, "device", AUTO)
        model = self._model(name, device)
        warnings = list(getattr(model.info, "warnings", ()))
        facts = {"name": model.info.name, "sha256": model.info.sha256, "warnings": warnings}
        return {"key": name, "device": str(model.device), **facts}

    def put(self, request: Request) -> Dict[str, Any]:
        """A volume: its array, geometry, modality if it is known, and the hash of all that."""
        values = request.values
        content, array = _text(values, "content"), _array(values, "array")
        modality = values.get("modality")
        if modality not in (None, "ct", "mr"):
            raise BadArgument("a modality")
        volume = _volume(array, _array(values, "ijk_to_lps"), volume_text(content), modality)
        if not self.settings.is_trusting and cache_key(volume, {}) != content:
            raise InputError("A scan is not what its hash says.", "Send it again.")
        self.store.put((VOLUME, content), volume, volume.array.nbytes, request.client)
        return {}

    def put_mask(self, request: Request) -> Dict[str, Any]:
        """Where to look for matches: one bit per voxel, and its geometry."""
        values = request.values
        content, shape = _text(values, "content"), _ints(values, "shape_zyx", 3)
        bits = _array(values, "bits")
        if not self.settings.is_trusting and mask_key(bits, shape, _array(values, "lps_to_ijk")) != content:
            raise InputError("A mask is not what its hash says.", "Send it again.")
        count = int(np.prod(shape, dtype=object))
        if bits.dtype != np.uint8 or bits.size != -(-count // 8) or count > 1 << 34:
            raise BadArgument("bits")
        array = np.unpackbits(bits.reshape(-1), count=count).view(bool).reshape(shape)
        mask = SearchMask((content,), "", array, _array(values, "lps_to_ijk").reshape(4, 4), (REFUSAL, ""))
        self.store.put((MASK, content), mask, array.nbytes, request.client)
        return {}

    def _forget(self, request: Request) -> Dict[str, Any]:
        kind = _text(request.values, "kind", "")
        for content in _list(request.values, "contents"):
            self.store.forget(request.client, str(content), kind)
        return {}

    def _cancel(self, request: Request) -> Dict[str, Any]:
        self.cancel(request.client, request.values.get("call"))
        return {}

    def embed(self, request: Request) -> Dict[str, Any]:
        """What was decided about a scan; its vectors stay here."""
        _, facts = self._embeddings(request, [_source(request.values, "source")], whole=True)
        return {"value": None, "embeddings": facts}

    def vectors(self, request: Request) -> Dict[str, Any]:
        """An embedding itself, as :mod:`SAMv2Core.embedding.file` lays it out."""
        from SAMv2Core.embedding.file import as_tensors

        (emb,), facts = self._embeddings(request, [_source(request.values, "source")], whole=True)
        return {"value": as_tensors(emb), "embeddings": facts}

    def match(self, request: Request) -> Dict[str, Any]:
        """Of several templates, ``points`` has an array for each, NaN where a point is not marked."""
        values = request.values
        templates: Any
        points: Any
        if isinstance(values.get("template"), list):
            sources, points = _list(values, "template"), _list(values, "points")
            if not sources or not all(isinstance(item, np.ndarray) for item in points):
                raise BadArgument("points")
            found, facts = self._embeddings(request, [*sources, _source(values, "query")])
            templates = found[:-1]
        else:
            found, facts = self._pair(request, "template", "query")
            templates, points = found[0], _points(values)
        matches = match_inside(
            templates,
            found[-1],
            points,
            _text(values, "method", "fixed-point"),
            self._mask(values),
            self._narrow,
            values.get("starts_per_axis"),
            values.get("matched_above"),
            values.get("expect"),
            self._working(request, facts),
        )
        return {"value": matches, "embeddings": facts}

    def locate(self, request: Request) -> Dict[str, Any]:
        from SAMv2Core.matching.match import locate

        pair, facts = self._pair(request, "template", "query")
        searched = self._narrow(pair[1], self._mask(request.values))
        return {"value": locate(pair[0], searched, _points(request.values)), "embeddings": facts}

    def similarity_map(self, request: Request) -> Dict[str, Any]:
        from SAMv2Core.matching.match import similarity_map

        pair, facts = self._pair(request, "template", "query")
        self._working(request, facts)(0.0, "")
        array, grid = similarity_map(pair[0], pair[1], _points(request.values)[0].tolist())
        return {"value": (array, grid), "embeddings": facts}

    def colors(self, request: Request) -> Dict[str, Any]:
        from SAMv2Core.embedding.pca import embedding_pca

        (emb,), facts = self._embeddings(request, [_source(request.values, "source")])
        self._working(request, facts)(0.0, "")
        return {"value": (embedding_pca(emb), emb.fine.grid.ijk_to_lps), "embeddings": facts}

    def landmarks(self, request: Request) -> Dict[str, Any]:
        from SAMv2Core.landmarks.atlas import BUNDLED, Atlas, atlas_for, join, load_atlas
        from SAMv2Core.landmarks.find import find_landmarks

        values = request.values
        path, only = _text(values, "atlas", ""), values.get("only")
        sent = _list(values, "atlases") if values.get("atlases") else []
        if not all(item == BUNDLED or isinstance(item, Atlas) for item in sent):
            raise BadArgument("atlases")
        if path and not self.settings.is_trusting:
            raise UsageError("A server opens no file for others.", "Send the atlas itself.")
        (emb,), facts = self._embeddings(request, [_source(values, "source")])
        atlas = load_atlas(path) if path else None
        if sent:
            atlas = join([atlas_for(emb) if item == BUNDLED else item for item in sent])
        found = find_landmarks(emb, atlas, only, self._working(request, facts))
        return {"value": found, "embeddings": facts}

    def register(self, request: Request) -> Dict[str, Any]:
        from SAMv2Core.io.resample import resample_to
        from SAMv2Core.registration.deformable import deform
        from SAMv2Core.registration.register import register

        values = request.values
        fixed, moving = self._volumes(request, [_source(values, "fixed"), _source(values, "moving")])
        pair, facts = self._pair(request, "fixed", "moving")
        is_deformable, is_resampled = bool(values.get("deformable")), bool(values.get("resampled"))
        tell = self._working(request, facts)
        result = register(
            pair[0],
            pair[1],
            transform=_text(values, "transform", "rigid"),
            seed=int(values.get("seed", 0)),
            progress=part(tell, 0.0, 0.5 if is_deformable else 1.0),
            fixed_volume=fixed,
            moving_volume=moving,
            refine=_text(values, "refine", AUTO),
            initial=values.get("initial"),
        )
        deformation = resampled = None
        if result.status != "failed" and is_deformable:
            deformation = deform(fixed, moving, result.matrix, part(tell, 0.5, 0.95))
        if result.status != "failed" and is_resampled:
            through = result.matrix if deformation is None else deformation.to_itk()
            resampled = resample_to(fixed.grid, moving, through).array
        return {"value": (result, deformation, resampled), "embeddings": facts}

    def track(self, request: Request) -> Dict[str, Any]:
        from SAMv2Core.tracking.diameters import match_ends
        from SAMv2Core.tracking.track import track

        values = request.values
        sources = [_source(values, "baseline"), *_list(values, "follow_ups")]
        found, facts = self._embeddings(request, sources)
        tell, drawn = self._working(request, facts), dict(values.get("drawn") or {})
        findings = track(
            found[0],
            list(found[1:]),
            _list(values, "lesions"),
            verified=_list(values, "verified", []),
            progress=part(tell, 0.0, 0.8 if drawn else 1.0),
            seed=int(values.get("seed", 0)),
        )
        ends = []
        for n in range(1, len(found)) if drawn else ():
            here = [finding for finding in findings if finding.study == n]
            step = part(tell, 0.8 + 0.2 * (n - 1) / (len(found) - 1), 0.8 + 0.2 * n / (len(found) - 1))
            ends.append(dict(match_ends(found[0], found[n], drawn, here, step)))
        return {"value": (findings, ends), "embeddings": facts}

    # --- scans and models ----------------------------------------------------------------------------------------

    def _embedding_key(self, source: Any) -> Tuple[Any, ...]:
        """Under what a source's embedding is kept; ``auto`` models are resolved before."""
        names = (_text(source, "content"), _text(source, "modality", AUTO), _text(source, "model", AUTO))
        return (EMBEDDING, *names, self._device(source), _text(source, "precision", AUTO))

    def _device(self, source: Any) -> str:
        return self.settings.device or _text(source, "device", AUTO)

    def _volumes(self, request: Request, sources: Sequence[Any]) -> List[Volume]:
        found: Dict[str, Volume] = {}
        missing = []
        for content in {_text(source, "content"): None for source in sources}:
            volume = self.store.get((VOLUME, content))
            if volume is None:
                missing.append(content)
            else:
                found[content] = volume
        if missing:
            raise MissingError(missing)
        return [found[_text(source, "content")] for source in sources]

    def _pair(self, request: Request, first: str, second: str) -> _Embedded:
        return self._embeddings(request, [_source(request.values, first), _source(request.values, second)])

    def _embeddings(self, request: Request, sources: Sequence[Any], whole: bool = False) -> _Embedded:
        """Embeddings of scans by one model, with what is told of them; those that are not kept are computed.

        :raises MissingError: the voxels of some are needed and not here.
        """
        sources = self._with_model(sources, lambda unknown: self._volumes(request, unknown))
        found: List[Any] = [self.store.get(self._embedding_key(source)) for source in sources]
        lacking = [n for n, emb in enumerate(found) if emb is None]
        volumes = self._volumes(request, [sources[n] for n in lacking])
        share = (1.0 if whole else SHARE_OF_EMBEDDING) / max(len(lacking), 1)
        facts = [_facts(source, emb) if emb is not None else {} for source, emb in zip(sources, found)]
        for step, (n, volume) in enumerate(zip(lacking, volumes)):
            key, again = self._embedding_key(sources[n]), None
            for earlier in lacking[:step]:  # a scan beside itself is embedded once
                again = found[earlier] if self._embedding_key(sources[earlier]) == key else again
            started = time.monotonic()
            tell = part(request.progress("embed"), share * step, share * (step + 1))
            found[n] = again or self._embed_one(request, sources[n], volume, tell)
            seconds = time.monotonic() - started
            facts[n] = _facts(sources[n], found[n], seconds)
            self.store.put(key, found[n], found[n].nbytes, request.client)
        return found, facts

    def _embed_one(self, request: Request, source: Any, volume: Volume, tell: Progress) -> Any:
        tell(0.0, "")
        model = self._model(_text(source, "model"), self._device(source))
        cache = self.settings.cache if self.settings.cache is not None else bool(source.get("cache"))
        return model.embed(
            volume,
            _text(source, "modality", AUTO),
            tell,
            precision=_text(source, "precision", AUTO),
            max_memory_gib=self.settings.max_memory_gib or source.get("max_memory_gib"),
            cache=Cache(self.settings.cache_folder or None) if cache else None,
        )

    def _with_model(self, sources: Sequence[Any], volumes: Callable[[List[Any]], List[Volume]]) -> List[Dict[str, Any]]:
        """The sources, each with the name of a model: the one that fits all of them, where nobody named one.

        :param volumes: gives the volumes of sources whose modality nobody knows.
        """
        named = [dict(source) for source in sources]
        if all(_text(source, "model", AUTO) != AUTO for source in named):
            return named
        from SAMv2Core.preprocessing.modality import detect_modality

        asked = [_text(source, "modality", AUTO) for source in named]
        unknown = [s for s, m in zip(named, asked) if m == AUTO and _text(s, "content") not in self._detected]
        for source, volume in zip(unknown, volumes(unknown)):
            self._detected[source["content"]] = detect_modality(volume)[0]
        modalities = {m if m != AUTO else self._detected[_text(s, "content")] for s, m in zip(named, asked)}
        name = self._model_for(tuple(sorted(modalities)))
        return [{**source, "model": name} for source in named]

    def _model_for(self, modalities: Tuple[str, ...]) -> str:
        from SAMv2Core.models.library import default_model

        if modalities not in self._fitting:  # reads the headers of files
            self._fitting[modalities] = (self._default_model or default_model)(*modalities)
        return self._fitting[modalities]

    def _model(self, name: str, device: str) -> Any:
        """A model, loaded once."""
        from SAMv2Core.embedding.load import load_model
        from SAMv2Core.models.library import list_models

        if not self.settings.is_trusting:  # a file's path is never taken from a client
            allowed = self.settings.models or tuple(info.name for info in list_models())
            if name not in allowed and self._load_model is None:
                raise UsageError(f"The server has no model {name[:40]!r}.", f"It has: {', '.join(allowed)}.")
        with self._models_lock:
            if (name, device) not in self._models:
                self._models[name, device] = (self._load_model or load_model)(name, device)
            return self._models[name, device]

    def _mask(self, values: Dict[str, Any]) -> Optional[SearchMask]:
        content = values.get("inside")
        if content is None:
            return None
        mask = self.store.get((MASK, content))
        if mask is None:
            raise MissingError([str(content)])
        return mask

    def _working(self, request: Request, facts: Sequence[Json]) -> Progress:
        """Progress of what comes after the embeddings."""
        low = SHARE_OF_EMBEDDING if any("seconds" in item for item in facts) else 0.0
        return part(request.progress("work"), low, 1.0)


HANDLERS: Dict[str, Callable[[Service, Request], Any]] = {
    "info": Service.info,
    "choose": Service.choose,
    "put": Service.put,
    "put_mask": Service.put_mask,
    "embed": Service.embed,
    "vectors": Service.vectors,
    "match": Service.match,
    "locate": Service.locate,
    "similarity_map": Service.similarity_map,
    "colors": Service.colors,
    "landmarks": Service.landmarks,
    "register": Service.register,
    "track": Service.track,
}


class BadArgument(ValueError):
    """An argument that is none of ours."""


def _volume(array: np.ndarray, ijk_to_lps: np.ndarray, source: str, modality: Optional[str]) -> Volume:
    """A volume with exactly this matrix: its client's Volume has made the axes perpendicular, and to do it again would
    change the last bits, hence the results'."""
    volume = Volume(array, ijk_to_lps, source, modality)
    if not np.allclose(volume.ijk_to_lps, ijk_to_lps, rtol=0, atol=1e-9):
        raise BadArgument("a matrix")
    matrix = np.array(ijk_to_lps, np.float64)
    matrix.setflags(write=False)
    object.__setattr__(volume, "ijk_to_lps", matrix)
    return volume


def _is_small(request: Request) -> bool:
    points = request.values.get("points")
    return request.operation == "match" and isinstance(points, np.ndarray) and points.size <= 3 * FEW_POINTS


def _sources(values: Dict[str, Any]) -> List[Any]:
    """The scans of a request, whatever it calls them."""
    names = ("source", "template", "query", "fixed", "moving", "baseline", "follow_ups")
    named = [values[name] for name in names if values.get(name) is not None]
    return [item for entry in named for item in (entry if isinstance(entry, list) else [entry])]


def _facts(source: Any, emb: Any, seconds: Optional[float] = None) -> Json:
    """What a client is told of an embedding; ``seconds`` when it was computed just now."""
    facts = {
        "content": source["content"],
        "modality": emb.modality,
        "model": emb.model,
        "key": source["model"],
        "model_sha256": emb.model_sha256,
        "nbytes": emb.nbytes,
        "warnings": list(emb.warnings),
        "voxels": emb.input_grid.n_voxels,
    }
    return facts if seconds is None else {**facts, "seconds": seconds}


def _error(error: SAMv2Error) -> Json:
    kind = type(error).__name__
    return {"kind": "error", "error": kind, "cause": error.cause, "remedy": error.remedy, "exit_code": error.exit_code}


def _other_protocol(version: Any) -> ServerError:
    return ServerError(
        f"This side speaks version {PROTOCOL} of the protocol, the other one {str(version)[:10]}.",
        "Install the same version of SAMv2 on both.",
    )


_NOTHING = object()


def _text(values: Any, name: str, default: Any = _NOTHING) -> str:
    value = values.get(name) if isinstance(values, dict) else None
    if value is None and default is not _NOTHING:
        return default
    if not isinstance(value, str) or len(value) > 4096:
        raise BadArgument(name)
    return value


def _list(values: Any, name: str, default: Any = _NOTHING) -> List[Any]:
    value = values.get(name, None if default is _NOTHING else default)
    if not isinstance(value, list):
        raise BadArgument(name)
    return value


def _source(values: Any, name: str) -> Dict[str, Any]:
    value = values.get(name)
    if not isinstance(value, dict):
        raise BadArgument(name)
    return value


def _array(values: Any, name: str) -> np.ndarray:
    value = values.get(name)
    if not isinstance(value, np.ndarray):
        raise BadArgument(name)
    return value


def _ints(values: Any, name: str, count: int) -> Tuple[int, ...]:
    value = values.get(name)
    if not isinstance(value, list) or len(value) != count or not all(type(n) is int and n > 0 for n in value):
        raise BadArgument(name)
    return tuple(value)


def _points(values: Any) -> np.ndarray:
    points = _array(values, "points")
    if points.ndim != 2 or points.shape[1] != 3:
        raise BadArgument("points")
    return points
