"""The other side of a service: asks, shows progress, sends scans that are not there yet, gives results back.

Numpy and the standard library; torch is never loaded. The same client speaks to a child process
(:class:`SAMv2Core.serve.child_link.ChildLink`) and to a server (:class:`SAMv2Core.serve.http_link.HttpLink`), and the
results are those of SAMv2Core itself, bit for bit.

:meth:`Client.steps` is a generator: whoever has an event loop advances it there, and nothing ever waits;
:meth:`Client.run` advances it until the end.
"""

from __future__ import annotations

import itertools
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Generator, List, Mapping, Optional, Sequence, TypeVar

import numpy as np

from SAMv2Core import errors
from SAMv2Core.errors import InputError, SAMv2Error, ServerError
from SAMv2Core.progress import Progress
from SAMv2Core.serve.frames import Frame, FrameError, Json
from SAMv2Core.serve.values import decode, encode

PROTOCOL = 1
ATTEMPTS = 3
"""A scan that a service forgets so often in the middle of one request does not fit there."""

_PLACEHOLDER = re.compile(r"\{volume:([0-9a-f]{16})\}")

T = TypeVar("T")
Steps = Generator[None, None, T]


@dataclass(eq=False)
class Scan:
    """A scan as a client knows it.

    :param volume: its voxels; None when only the service has them.
    :param content: the hash of its content, empty until it is known (:func:`SAMv2Core.embedding.cache.cache_key`).
    :param options: ``modality``, ``model``, ``device``, ``precision``, ``cache``, ``max_memory_gib``.
    """

    volume: Any
    name: str = "the volume"
    content: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def source(self) -> Json:
        """How a request names it."""
        return {"content": self.content, **{k: v for k, v in self.options.items() if v is not None}}


@dataclass(frozen=True)
class EmbeddingFacts:
    """What is known here of an embedding that a service keeps; with the names that an Embedding has for the same.

    :param key: the model as it was asked for: its name.
    :param content: hash of the scan's content.
    :param seconds: that it took, None when it was there.
    """

    content: str
    modality: str
    model: str
    model_sha256: str
    key: str
    nbytes: int
    voxels: int
    warnings: tuple = ()
    seconds: Optional[float] = None


class Call:
    """A request that was sent.

    :ivar fraction, text, stage: its progress. :ivar value: the result. :ivar missing: contents that the service wants
        first.
    """

    def __init__(self, number: int, prepared: Any) -> None:
        self.number, self._prepared = number, prepared
        self.fraction, self.text, self.stage = 0.0, "", ""
        self.is_done = False
        self.value: Any = None
        self.error: Optional[SAMv2Error] = None
        self.missing: List[str] = []

    def take(self, frame: Frame) -> None:
        header = frame.header
        kind = header.get("kind")
        if kind == "progress":
            self.fraction, self.text = float(header.get("fraction", 0.0)), str(header.get("text", ""))
            self.stage = str(header.get("stage", ""))
            return
        if kind == "result":
            try:
                self.value = decode(header.get("value"), frame.arrays)
            except (FrameError, RecursionError) as error:
                self.error = ServerError(f"The answer makes no sense ({error}).", "Use the same version on both sides.")
            except SAMv2Error as error:
                self.error = error
        elif kind == "missing":
            self.missing = [str(content) for content in header.get("contents", ())]
        elif kind == "error":
            self.error = _typed(header)
        else:
            return
        self.finish()

    def finish(self, error: Optional[SAMv2Error] = None) -> None:
        if not self.is_done:
            self.error, self.is_done = error or self.error, True
            self._prepared.release()


class Client:
    """Speaks to one service over a link, from one thread.

    :param link: a ChildLink or an HttpLink; started here.
    :param has_event_loop: work that takes a while (hashing, copying) is done beside it, in a thread.
    """

    def __init__(self, link: Any, has_event_loop: bool = False) -> None:
        self.link = link
        self._name = secrets.token_hex(16)
        self._has_event_loop = has_event_loop
        self._numbers = itertools.count(1)
        self._open: Dict[int, Call] = {}
        self._cancelled: Dict[int, float] = {}
        """When requests were cancelled that have no answer yet."""
        self.tasks: List[Task] = []
        """What is being done beside the event loop, and needs turns of Python's lock."""

    # --- requests ------------------------------------------------------------------------------------------------

    def request(self, operation: str, values: Mapping[str, Any]) -> Call:
        """Send a request; :meth:`poll` brings its progress and its end."""
        return self._send(self._prepare(operation, values))

    def _prepare(self, operation: str, values: Mapping[str, Any]) -> Any:
        arrays: List[np.ndarray] = []
        number = next(self._numbers)
        header = {"v": PROTOCOL, "id": number, "client": self._name, "op": operation}
        header["args"] = encode(dict(values), arrays)
        return number, self.link.prepare(header, arrays)

    def _send(self, prepared: Any) -> Call:
        number, content = prepared
        call = self._open[number] = Call(number, content)
        if self.link.problem:
            self._lost()
        else:
            self.link.send(content)
        return call

    def poll(self, seconds: float = 0.0) -> None:
        """Take what has arrived, waiting up to so long for something."""
        for frame in self.link.receive(seconds):
            call = self._open.get(frame.header.get("id", 0))
            if call is not None:
                call.take(frame)
                if call.is_done:
                    self._open.pop(call.number, None)
                    self._cancelled.pop(call.number, None)
        if self.link.problem:
            self._lost()

    def _lost(self) -> None:
        for call in list(self._open.values()):
            call.finish(ServerError(self.link.problem, "Nothing was changed; repeat the command."))
        self._open.clear()
        self._cancelled.clear()

    def cancel(self, call: Call) -> None:
        """Ask the service to stop a request."""
        if not call.is_done and not self.link.problem:
            self._cancelled.setdefault(call.number, time.monotonic())
            self.request("cancel", {"call": call.number})

    def is_stuck(self, seconds: float) -> bool:
        """Whether a request was cancelled so long ago and the service still works on it."""
        return any(time.monotonic() - since > seconds for since in self._cancelled.values())

    def is_waiting(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._open)

    def forget(self, contents: Sequence[str]) -> None:
        """Tell the service that some scans are needed no more."""
        if contents and not self.link.problem:
            self.request("forget", {"contents": list(contents)})

    def release_voxels(self, contents: Sequence[str]) -> None:
        """Tell the service that it need not keep the voxels of some scans, only what it made of them."""
        if contents and not self.link.problem:
            self.request("forget", {"contents": list(contents), "kind": "volume"})

    # --- work ----------------------------------------------------------------------------------------------------

    def steps(
        self,
        operation: str,
        scans: Sequence[Scan],
        values: Callable[[], Mapping[str, Any]],
        progress: Optional[Callable[[float, str, str], None]] = None,
        masks: Sequence[Any] = (),
    ) -> Steps[Any]:
        """Do one operation; advance it whenever :meth:`poll` may have brought something. Gives the result's value.

        :param values: the arguments, asked for when the contents of the scans are known.
        :param progress: called with (fraction, text, stage) whenever advanced; what it raises cancels the request.
        :param masks: :class:`Mask` that the values name.
        """
        for item in (*scans, *masks):
            if not item.content:
                item.content = yield from self._beside(item.hashed if isinstance(item, Mask) else _hash_of(item))
        names = {scan.content[:16]: scan.name for scan in scans}
        for _ in range(ATTEMPTS):
            call = self.request(operation, values())
            yield from self._until_done(call, progress, names)
            if not call.missing:
                if call.error is not None:
                    raise named(call.error, names)
                return call.value
            for content in call.missing:
                yield from self._put(content, scans, masks)
        raise errors.MemoryLimitError(
            "The scans do not fit together into the memory of what computes.", "Let it keep more, or crop them."
        )

    def run(self, steps: Steps[T]) -> T:
        """Advance until the end."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value
            self.poll(0.05)

    def _until_done(self, call: Call, progress: Any, names: Mapping[str, str]) -> Steps[None]:
        try:
            while True:
                if progress is not None and not call.is_done:
                    progress(call.fraction, with_names(call.text, names), call.stage)
                if call.is_done:
                    return
                yield
        except BaseException:
            self.cancel(call)
            raise

    def _put(self, content: str, scans: Sequence[Scan], masks: Sequence[Any]) -> Steps[None]:
        scan = next((scan for scan in scans if scan.content == content and scan.volume is not None), None)
        mask = next((mask for mask in masks if mask.content == content), None)
        if scan is None and mask is None:
            raise ServerError("The voxels of a scan are needed again.", "Repeat the command.")
        operation = "put" if scan is not None else "put_mask"

        def prepare() -> Any:
            if scan is None:
                return self._prepare(operation, mask.arguments())  # type: ignore[union-attr]
            if _hash_of(scan)() != content:
                raise InputError(f"{scan.name} was changed meanwhile.", "Repeat the command.")
            volume = scan.volume
            geometry = {"ijk_to_lps": np.array(volume.ijk_to_lps), "modality": volume.modality}
            return self._prepare(operation, {"content": content, "array": volume.array, **geometry})

        prepared = yield from self._beside(prepare, lambda prepared: prepared[1].release())
        call = self._send(prepared)
        yield from self._until_done(call, None, {})
        if call.error is not None:
            raise named(call.error, {s.content[:16]: s.name for s in scans})

    def _beside(self, work: Callable[[], T], discard: Optional[Callable[[T], None]] = None) -> Steps[T]:
        """Do some work without holding up the event loop, if there is one.

        :param discard: gets the result when nobody wants it any more.
        """
        if not self._has_event_loop:
            return work()
        task = Task(work, discard)
        self.tasks.append(task)
        try:
            while not task.is_done:
                yield
        except BaseException:
            task.abandon()
            raise
        finally:
            self.tasks.remove(task)
        return task.result()


class Task:
    """Some work in a thread of its own."""

    def __init__(self, work: Callable[[], Any], discard: Optional[Callable[[Any], None]] = None) -> None:
        self._work, self._discard = work, discard
        self._value: Any = None
        self._error: Optional[BaseException] = None
        self._ended, self._lock, self._is_abandoned = threading.Event(), threading.Lock(), False
        threading.Thread(target=self._run, name="samv2 preparing", daemon=True).start()

    @property
    def is_done(self) -> bool:
        return self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        return self._ended.wait(seconds)

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value

    def abandon(self) -> None:
        """Nobody wants the result."""
        with self._lock:
            self._is_abandoned = True
            value, self._value = self._value, None
        if value is not None and self._discard is not None:
            self._discard(value)

    def _run(self) -> None:
        try:
            value = self._work()
            with self._lock:
                is_wanted = not self._is_abandoned
                self._value = value if is_wanted else None
            if not is_wanted and self._discard is not None:
                self._discard(value)
        except BaseException as error:
            self._error = error
        finally:
            self._work = lambda: None  # its closure holds voxels
            self._ended.set()


@dataclass(eq=False)
class Mask:
    """Where to look for matches.

    :param mask: a :class:`SAMv2Core.matching.search_mask.SearchMask`; its name and texts stay here.
    """

    mask: Any
    content: str = ""

    def hashed(self) -> str:
        from SAMv2Core.serve.keys import mask_key

        return mask_key(self._bits(), self.mask.array.shape, self.mask.lps_to_ijk)

    def _bits(self) -> np.ndarray:
        return np.packbits(np.asarray(self.mask.array, bool).reshape(-1))

    def arguments(self) -> Json:
        shape = [int(n) for n in self.mask.array.shape]
        geometry = np.array(self.mask.lps_to_ijk, np.float64)
        return {"content": self.content, "shape_zyx": shape, "lps_to_ijk": geometry, "bits": self._bits()}


def _hash_of(scan: Scan) -> Callable[[], str]:
    def work() -> str:
        from SAMv2Core.embedding.cache import cache_key

        return cache_key(scan.volume, {})

    return work


def facts_of(value: Mapping[str, Any], scans: Sequence[Scan]) -> List[EmbeddingFacts]:
    """What a reply says of the embeddings, in the order of the scans, with the scans' names and own warnings in."""
    names = {scan.content[:16]: scan.name for scan in scans}
    found = []
    for facts, scan in zip(value["embeddings"], scans):
        told = [with_names(text, names) for text in facts["warnings"]]
        own = list(scan.volume.warnings) if scan.volume is not None else []
        warnings = tuple(own + [text for text in told if text not in own])
        found.append(EmbeddingFacts(**{**facts, "warnings": warnings}))
    return found


def with_names(text: str, names: Mapping[str, str]) -> str:
    """A text of a service with the scans' names in."""
    return _PLACEHOLDER.sub(lambda found: names.get(found.group(1), "the volume"), text)


def named(error: SAMv2Error, names: Mapping[str, str]) -> SAMv2Error:
    """An error of a service with the scans' names in."""
    again = type(error)(with_names(error.cause, names), with_names(error.remedy, names))
    again.exit_code = error.exit_code
    return again


def _typed(header: Json) -> SAMv2Error:
    kind = getattr(errors, str(header.get("error")), None)
    if not (isinstance(kind, type) and issubclass(kind, SAMv2Error)):
        kind = ServerError
    return kind(str(header.get("cause", "The server failed.")), str(header.get("remedy", "")))


def for_progress(progress: Optional[Progress]) -> Optional[Callable[[float, str, str], None]]:
    """A progress of SAMv2Core for :meth:`Client.steps`."""
    return None if progress is None else lambda fraction, text, stage: progress(fraction, text)
