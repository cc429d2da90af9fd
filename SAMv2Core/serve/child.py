"""The process that computes for one client on the same computer: 3D Slicer stays as quick as without.

Its client starts it with ``{"port": ..., "token": ...}`` in the environment variable ``SAMV2_CHILD``, listens on that
port of the loopback and gets frames from here over one connection. When that ends, also because the client was killed,
this process ends at once, whatever it is computing. Started by :class:`SAMv2Core.serve.child_link.ChildLink`, with any
Python that has torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any, Optional, Sequence

import numpy as np

from SAMv2Core.serve.frames import Frame, FrameError, FrameReader, Json, Limits, pack
from SAMv2Core.serve.lanes import rise
from SAMv2Core.serve.service import Service, Settings
from SAMv2Core.serve.shared import Shared, open_shared, sweep

CLIENT = "parent"
VARIABLE = "SAMV2_CHILD"
SHARED_BYTES = 1 << 20
"""Arrays from here on go through shared memory."""


def main(service: Optional[Service] = None) -> None:
    """Serve the parent until it is gone.

    :param service: None for one with SAMv2Core's own models.
    """
    rise()
    sys.stdout = sys.stderr  # what libraries print
    with contextlib.suppress(ValueError):  # the terminal's Ctrl-C is for the parent, which ends us
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = json.loads(os.environ.pop(VARIABLE))
    parent = int(start["parent"])
    if service is None:
        service = Service(Settings(is_trusting=True, keep_bytes=int(start["keep_bytes"])))
    connection = socket.create_connection(("127.0.0.1", int(start["port"])))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _Link(connection, service, str(start["token"])).run()
    _end(parent)


def _end(parent: int) -> None:
    """At once: kernels in other threads are not waited for."""
    sweep(parent)
    sweep(os.getpid())
    os._exit(0)


class _Link:
    """Requests in, replies out; one thread writes, so that no reply waits in a kernel's thread."""

    def __init__(self, connection: socket.socket, service: Service, token: str) -> None:
        self._connection, self._service, self._token = connection, service, token
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run(self) -> None:
        """Until the parent closes the connection, or says what makes no sense."""
        threading.Thread(target=self._write, daemon=True).start()
        self.tell({"kind": "child", "token": self._token, **self._service.hello()}, ())
        reader = FrameReader(Limits(bytes=1 << 40), open_shared=open_shared)
        with contextlib.suppress(OSError, FrameError, ValueError):
            while True:
                data = self._connection.recv(1 << 18)
                if not data:
                    return
                for frame in reader.feed(data):
                    self._service.submit(CLIENT, frame, self.tell)

    def tell(self, header: Json, arrays: Sequence[np.ndarray]) -> None:
        self._replies.put(Frame(header, tuple(arrays)))

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                frame: Frame = self._replies.get()
                shared = {}
                for n, array in enumerate(frame.arrays):
                    if array.nbytes >= SHARED_BYTES:
                        memory = Shared(array.shape, array.dtype)
                        memory.array[...] = array
                        shared[n] = memory.hand_over()
                for piece in pack(frame.header, frame.arrays, shared=shared):
                    self._connection.sendall(piece)


if __name__ == "__main__":
    main()
