"""A compute server as its client speaks to it: one POST per request, frames back until the result.

Each request has a thread of its own that sends, compresses and reads; replies are fetched with
:meth:`HttpLink.receive`. Certificates are checked as the system has them (``SSL_CERT_FILE`` names another file).
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import ssl
import threading
from pathlib import Path
from typing import Any, Iterator, List, Sequence, Tuple
from urllib.parse import urlsplit

import numpy as np

from SAMv2Core.errors import ServerError, UsageError
from SAMv2Core.serve.frames import Frame, FrameError, FrameReader, Json, pack

PATH = "/v1"
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""A server says something at least every 15 seconds."""

READ_BYTES = 1 << 18
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def read_token(path: str) -> str:
    """The token in a file: its first line.

    :raises UsageError: no such file, or no token in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The token file {path} cannot be read.", "Check its name and permissions.") from error
    if not lines or len(lines[0].strip()) < 16:
        raise UsageError(f"{path} holds no token of at least 16 characters.", "Ask whoever runs the server for it.")
    return lines[0].strip()


class Prepared:
    """A request that has not been sent; nothing is copied."""

    def __init__(self, header: Json, arrays: Sequence[np.ndarray]) -> None:
        self.header, self.arrays = header, tuple(arrays)

    def release(self) -> None:
        """The server has answered."""


class HttpLink:
    """One server.

    :param url: ``http://HOST:PORT`` or ``https://...``.
    :param token: what the server wants to hear.
    :raises UsageError: no such address.
    """

    needs_threads = True

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}", "http")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or not host or parts.path.strip("/"):
            raise UsageError(f"{url} is no address of a server.", "Write it as http://HOST:PORT or https://HOST:PORT.")
        if not token.isascii() or not token.isprintable():
            raise UsageError("The token has characters that cannot be sent.", "Make another one.")
        self.url, self.pid, self.problem = url, 0, ""
        self.is_open_to_others = parts.scheme == "http" and host not in _LOOPBACK
        """Whether whoever is between can read what is sent."""
        self._address: Tuple[str, str, int] = (parts.scheme, host, port or (443 if parts.scheme == "https" else 8123))
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
        self._arrived: queue.SimpleQueue[Frame] = queue.SimpleQueue()

    def start(self) -> None:
        """Nothing is to be started."""

    @property
    def is_up(self) -> bool:
        return True

    def prepare(self, header: Json, arrays: Sequence[np.ndarray]) -> Prepared:
        return Prepared(header, arrays)

    def send(self, prepared: Prepared) -> None:
        """Send a request; returns at once."""
        threading.Thread(target=self._exchange, args=(prepared,), name="samv2 request", daemon=True).start()

    def receive(self, seconds: float = 0.0) -> List[Frame]:
        """What has arrived, waiting up to so long for the first."""
        frames: List[Frame] = []
        with contextlib.suppress(queue.Empty):
            frames.append(self._arrived.get(timeout=seconds) if seconds > 0 else self._arrived.get_nowait())
            while len(frames) < 64:
                frames.append(self._arrived.get_nowait())
        return frames

    def fileno(self) -> int:
        return -1

    def kill(self) -> None:
        """A server is not ours to end."""

    close = kill

    def _exchange(self, prepared: Prepared) -> None:
        number = prepared.header.get("id")
        try:
            self._post(prepared, number)
        except ServerError as error:
            self._fail(number, error)
        except (OSError, http.client.HTTPException, FrameError) as error:
            reason = " ".join(str(getattr(error, "strerror", "") or error or type(error).__name__).split())[:160]
            remedy = "Check the address, and that `samv2 serve` runs there."
            self._fail(number, ServerError(f"The server {self.url} cannot be reached or broke off ({reason}).", remedy))

    def _fail(self, number: Any, error: ServerError) -> None:
        header = {"id": number, "kind": "error", "error": "ServerError", "cause": error.cause, "remedy": error.remedy}
        self._arrived.put(Frame(header))

    def _post(self, prepared: Prepared, number: Any) -> None:
        scheme, host, port = self._address
        connection: http.client.HTTPConnection
        if scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        with contextlib.closing(connection):
            connection.connect()
            connection.sock.settimeout(SILENCE_SECONDS)
            body = _joined(pack(prepared.header, prepared.arrays, compress=True))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has refused, and says why
                connection.request("POST", PATH, body, self._headers, encode_chunked=True)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(self.url, response)
            reader, is_done = FrameReader(), False
            while not is_done:
                data = response.read1(READ_BYTES)
                if not data:
                    raise http.client.IncompleteRead(b"")
                for frame in reader.feed(data):
                    is_done = frame.header.get("kind") in ("result", "error", "missing")
                    if frame.header.get("kind") != "alive":
                        self._arrived.put(frame)


def _joined(pieces: Iterator[Any]) -> Iterator[bytes]:
    for piece in pieces:
        yield bytes(piece)


def _refusal(url: str, response: http.client.HTTPResponse) -> ServerError:
    said = " ".join(response.read(300).decode("utf-8", "replace").split())
    if response.status == 401:
        return ServerError(f"The server {url} does not accept the token.", "Ask whoever runs it for the token.")
    if response.status in (404, 405):
        return ServerError(f"{url} is no compute server of SAMv2.", "Check the address.")
    return ServerError(f"The server {url} refused the request ({response.status}: {said}).", "Try again later.")
