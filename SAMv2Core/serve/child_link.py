"""A child process that computes, as its client holds it: started, spoken to, noticed when it dies, killed.

Nothing here waits unless it is told to, so that the thread of a window can use it. The child connects to a port of the
loopback and proves by a token, given to it in its environment, that it is ours.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Deque, List, Mapping, Optional, Sequence

import numpy as np

from SAMv2Core.errors import ServerError
from SAMv2Core.serve.frames import Frame, FrameError, FrameReader, Json, Limits, pack
from SAMv2Core.serve.shared import Shared, open_shared, sweep, sweep_dead

SHARED_BYTES = 1 << 20
"""Arrays from here on go through shared memory."""

READ_BYTES = 1 << 18
READS_AT_ONCE = 8
"""So much is read in one turn: a window is not held up by a large reply."""

VARIABLE = "SAMV2_CHILD"
"""Of the child's environment: where to connect, and with what token."""

STOP_SECONDS = 2.0
"""A child that is closed has so long to go by itself."""

_BOOT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from SAMv2Core.serve.child import main; main()"


class Prepared:
    """A request with its large arrays where the child sees them; made in any thread."""

    def __init__(self, header: Json, arrays: Sequence[np.ndarray]) -> None:
        self.memories: List[Shared] = []
        shared = {}
        for n, array in enumerate(arrays):
            if array.nbytes >= SHARED_BYTES:
                memory = Shared(array.shape, array.dtype.newbyteorder("="))
                memory.array[...] = array
                self.memories.append(memory)
                shared[n] = memory.name
        described = [_nothing_of(a) if n in shared else a for n, a in enumerate(arrays)]
        self.data = b"".join(pack(header, described, shared=shared))

    def release(self) -> None:
        """The child has answered."""
        for memory in self.memories:
            memory.release()


def _nothing_of(array: np.ndarray) -> np.ndarray:
    """An array of the same type and shape that takes no memory: only its description is sent."""
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


class ChildLink:
    """One child process and the connection to it.

    :param command: what starts it; by default the given Python with this SAMv2Core.
    :param python: an interpreter that has torch.
    :param environment: of the child; None for this process's.
    :param keep_bytes: what the child may keep of volumes and embeddings.
    """

    needs_threads = False
    """Replies come without any thread of this process."""

    def __init__(
        self,
        python: str = sys.executable,
        command: Optional[Sequence[str]] = None,
        environment: Optional[Mapping[str, str]] = None,
        keep_bytes: int = 4 << 30,
    ) -> None:
        root = str(Path(__file__).resolve().parents[2])
        self._command = list(command) if command is not None else [python, "-c", _BOOT, root]
        self._environment = None if environment is None else dict(environment)
        self._keep_bytes = keep_bytes
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._connection: Optional[socket.socket] = None
        self._listener: Optional[socket.socket] = None
        self._reader = FrameReader(Limits(bytes=1 << 40), open_shared=open_shared)
        self._outgoing: Deque[memoryview] = deque()
        self._is_proven = False
        self._token = secrets.token_hex(32)
        self._errors: Any = None
        self.pid = 0
        """Of the process that computes, once it has said so: a launcher may stand between."""
        self.problem = ""
        """Why the child is not there any more, one line; empty while it is."""

    def start(self) -> None:
        """Start the child; what is sent meanwhile waits for it.

        :raises ServerError: the program cannot be started.
        """
        sweep_dead()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4)
        self._listener.setblocking(False)
        self._errors = tempfile.TemporaryFile()
        port = self._listener.getsockname()[1]
        start = {"port": port, "token": self._token, "parent": os.getpid(), "keep_bytes": self._keep_bytes}
        environment = dict(os.environ if self._environment is None else self._environment)
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env={**environment, VARIABLE: json.dumps(start)},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows would show a console
            )
        except OSError as error:
            self.close()
            raise ServerError(
                f"{self._command[0]} cannot be started ({error.strerror or error}).", "Choose another Python."
            ) from error

    @property
    def is_up(self) -> bool:
        """Whether the child has connected."""
        return self._is_proven and not self.problem

    # --- frames --------------------------------------------------------------------------------------------------

    def prepare(self, header: Json, arrays: Sequence[np.ndarray]) -> Prepared:
        """Copies large arrays where the child sees them; takes as long as that, and may be called in any thread."""
        return Prepared(header, arrays)

    def send(self, prepared: Prepared) -> None:
        """Send a request as soon as the child takes it; returns at once."""
        self._outgoing.append(memoryview(prepared.data))
        self._flush()

    def receive(self, seconds: float = 0.0) -> List[Frame]:
        """What has arrived, waiting up to so long for the first; empty, with :attr:`problem` set, when it is gone."""
        if self.problem:
            return []
        self._flush()
        waiting = [s for s in (self._connection or self._listener,) if s is not None]
        writing = waiting if self._connection is not None and self._outgoing else []
        ready, _, _ = select.select(waiting, writing, [], seconds)
        if ready and self._connection is None:
            self._accept()
        frames = self._read() if ready and self._connection is not None else []
        if not frames and self._process is not None and self._process.poll() is not None:
            self._lose()
        self._flush()
        return frames

    def fileno(self) -> int:
        """Of the connection, for an event loop; -1 while there is none."""
        return self._connection.fileno() if self._connection is not None else -1

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            self._connection, _ = self._listener.accept()
            self._connection.setblocking(False)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._reader = FrameReader(Limits(bytes=1 << 40), open_shared=open_shared)

    def _read(self) -> List[Frame]:
        frames: List[Frame] = []
        for _ in range(READS_AT_ONCE):
            assert self._connection is not None
            try:
                data = self._connection.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                if self._is_proven:
                    self._lose()
                else:
                    self._refuse()
                break
            try:
                frames += self._reader.feed(data)
            except (FrameError, ValueError):
                if self._is_proven:
                    self._lose()
                else:
                    self._refuse()
                break
            if not self._is_proven and frames and not self._prove(frames.pop(0)):
                self._refuse()
                return []
        return frames

    def _prove(self, frame: Frame) -> bool:
        token = frame.header.get("token")
        if frame.header.get("kind") != "child" or not isinstance(token, str):
            return False
        self._is_proven = hmac.compare_digest(token.encode(), self._token.encode())
        if self._is_proven:
            self.pid = int(frame.header.get("value", frame.header).get("pid") or 0)
            assert self._listener is not None
            self._listener.close()
        return self._is_proven

    def _refuse(self) -> None:
        """Whoever connected is not our child; go on listening."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _flush(self) -> None:
        if not self._is_proven or self._connection is None:
            return
        try:
            while self._outgoing:
                sent = self._connection.send(self._outgoing[0])
                if sent < len(self._outgoing[0]):
                    self._outgoing[0] = self._outgoing[0][sent:]
                    return
                self._outgoing.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._lose()

    # --- the end -------------------------------------------------------------------------------------------------

    def _lose(self) -> None:
        if self.problem:
            return
        code: Optional[int] = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it has closed its connection: it is about to end
                code = self._process.wait(0.2)
        self.problem = _why(code, self._last_words())
        self.kill()

    def _last_words(self) -> str:
        try:
            self._errors.seek(0)
            lines = self._errors.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        except (OSError, ValueError, AttributeError):
            return ""
        return " ".join(lines[-1].split())[:200] if lines else ""

    def kill(self) -> None:
        """End it now, whatever it is doing."""
        self.problem = self.problem or "The computing process was ended."
        if self.pid:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.kill()
        self._release()

    def close(self) -> None:
        """Let it go; a child that does not is killed. Returns at once."""
        self.problem = self.problem or "The computing process was ended."
        self._release()
        process, pid = self._process, self.pid
        if process is not None:
            threading.Thread(target=_see_off, args=(process, pid), daemon=True).start()

    def _release(self) -> None:
        """Close everything; the child sees that, and ends."""
        for connection in (self._connection, self._listener):
            if connection is not None:
                connection.close()
        self._connection = self._listener = None
        self._outgoing.clear()
        if self._errors is not None:
            self._errors.close()
        if self.pid:
            sweep(self.pid)

    def wait(self, seconds: float) -> bool:
        """Whether the child ends within so long."""
        if self._process is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False


def _see_off(process: subprocess.Popen, pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        for number in {pid, process.pid} - {0}:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def _why(code: Optional[int], words: str) -> str:
    """One line for people."""
    if code is not None and -code == getattr(signal, "SIGKILL", 9):
        return "The computing process was killed from outside, perhaps because memory ran out."
    if code is not None and code < 0:
        return f"The computing process crashed (signal {-code})."
    if code:
        return f"The computing process ended with an error ({words or f'exit code {code}'})."
    return "The computing process ended."
