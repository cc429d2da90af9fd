"""The service over HTTP, for a department: one POST per request, replies as a stream of frames.

Everyone who can reach the port may try anything, so: a token before anything else is looked at, limits on connections,
headers, bytes and time, and whatever goes wrong ends one connection. A client that is gone has its work stopped. One
process, one event loop; the work is done by the service's own threads. Needs the extra ``server`` (uvicorn).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List, MutableMapping, Optional, Sequence, Tuple

import numpy as np

from SAMv2Core.errors import OutputError, SAMv2Error, UsageError
from SAMv2Core.io.files import PathLike
from SAMv2Core.serve.frames import Frame, FrameError, FrameReader, Json, Limits, pack, to_bytes
from SAMv2Core.serve.http_link import read_token
from SAMv2Core.serve.service import Service

logger = logging.getLogger(__name__)

PATH, HEALTH = "/v1", "/health"
HEADER_SECONDS = 10.0
"""A connection that has not asked for anything by then is closed."""
SILENCE_SECONDS = 30.0
"""A client that sends, or takes, nothing for so long is gone."""
LEAST_RATE = 20_000
"""Bytes per second of a request, after the first half minute."""
ALIVE_SECONDS = 15.0
"""The server says something at least so often, so that nobody between closes a connection that waits."""
MOST_CONNECTIONS = 128
MOST_REPLIES_WAITING = 200
"""Progress that a slow client does not fetch is dropped from there on."""
SMALL = 1 << 16
_LONGEST_NAME = 64

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _GoneError(Exception):
    """The client has left, or is too slow."""


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Application:
    """The ASGI application.

    :param token: what a client must say.
    """

    def __init__(self, service: Service, token: str) -> None:
        self._service, self._token = service, token.encode()
        self._limits = Limits(bytes=service.store.limit_bytes)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await self._handle(scope, receive, send)
        except _Refused as refused:
            with contextlib.suppress(Exception):
                await _answer(send, refused.status, refused.text)
        except (_GoneError, asyncio.TimeoutError):
            logger.info("A client left, or was too slow.")
        except Exception:
            logger.exception("A request failed")
            with contextlib.suppress(Exception):
                await _answer(send, 500, "The server has a fault; its log says more.")

    async def _handle(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == HEALTH and scope["method"] in ("GET", "HEAD"):
            await _answer(send, 200, "ok")
            return
        if not self._is_known(scope["headers"]):
            raise _Refused(401, "The token is missing or wrong.")
        if scope["path"] != PATH:
            raise _Refused(404, f"There is nothing but {PATH}.")
        if scope["method"] != "POST":
            raise _Refused(405, "Requests are posted.")
        with self._service.store.reserved() as reserve:
            frame = await self._read(receive, reserve)
            client = frame.header.get("client")
            if not isinstance(client, str) or not 0 < len(client) <= _LONGEST_NAME:
                raise _Refused(400, "A request has no client.")
            await self._work(client, frame, receive, send, reserve.give_back)

    def _is_known(self, headers: Sequence[Tuple[bytes, bytes]]) -> bool:
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"")
        return hmac.compare_digest(given, b"Bearer " + self._token)

    async def _read(self, receive: Receive, reserve: Callable[[int], None]) -> Frame:
        """The one frame of a request's body."""
        reader, frames, n_bytes = FrameReader(self._limits, reserve), [], 0
        started, loop = time.monotonic(), asyncio.get_running_loop()
        while True:
            message = await asyncio.wait_for(receive(), SILENCE_SECONDS)
            if message["type"] == "http.disconnect":
                raise _GoneError()
            data = message.get("body", b"")
            n_bytes += len(data)
            seconds = time.monotonic() - started
            if seconds > SILENCE_SECONDS and n_bytes < LEAST_RATE * seconds:
                raise _Refused(408, "The request comes too slowly.")
            try:
                if len(data) > SMALL:  # unpacking takes a while
                    frames += await loop.run_in_executor(None, reader.feed, data)
                else:
                    frames += reader.feed(data)
            except FrameError as error:
                raise _Refused(400, str(error)) from None
            except SAMv2Error as error:
                raise _Refused(507, str(error)) from None
            if len(frames) > 1 or (frames and reader.is_inside):
                raise _Refused(400, "A request is one frame.")
            if not message.get("more_body", False):
                if not frames:
                    raise _Refused(400, "A request is one whole frame.")
                return frames[0]

    async def _work(
        self, client: str, frame: Frame, receive: Receive, send: Send, give_back: Callable[[], None]
    ) -> None:
        """Do what a frame asks for, and send the replies; stop when the client leaves."""
        loop, replies = asyncio.get_running_loop(), asyncio.Queue()  # type: ignore[var-annotated]
        number = frame.header.get("id")

        def tell(header: Json, arrays: Sequence[np.ndarray]) -> None:
            def put() -> None:
                if header["kind"] != "progress" or replies.qsize() < MOST_REPLIES_WAITING:
                    replies.put_nowait((header, arrays))

            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(put)

        try:
            self._service.submit(client, frame, tell)
        except FrameError as error:
            raise _Refused(400, str(error)) from None
        del frame  # its arrays belong to the service now, which may let them go
        await send({"type": "http.response.start", "status": 200, "headers": _headers(b"application/octet-stream")})
        left = asyncio.ensure_future(_until_left(receive))
        try:
            while True:
                reply = asyncio.ensure_future(replies.get())
                done, _ = await asyncio.wait({reply, left}, timeout=ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if left in done:
                    reply.cancel()
                    raise _GoneError()
                if reply not in done:
                    reply.cancel()
                    await _send(send, to_bytes({"id": number, "kind": "alive"}))
                    continue
                header, arrays = reply.result()
                is_last = header["kind"] != "progress"
                for piece in await loop.run_in_executor(None, _packed, header, arrays):
                    await _send(send, piece)
                if is_last:
                    await send({"type": "http.response.body", "body": b""})
                    return
        finally:
            left.cancel()
            give_back()
            if isinstance(number, int):
                self._service.cancel(client, number)


def _packed(header: Json, arrays: Sequence[np.ndarray]) -> List[bytes]:
    return [bytes(piece) for piece in pack(header, arrays, compress=True)]


async def _send(send: Send, data: bytes) -> None:
    await asyncio.wait_for(send({"type": "http.response.body", "body": data, "more_body": True}), SILENCE_SECONDS)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(kind: bytes) -> List[Tuple[bytes, bytes]]:
    return [(b"content-type", kind), (b"cache-control", b"no-store"), (b"connection", b"close")]


async def _answer(send: Send, status: int, text: str) -> None:
    headers = _headers(b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode() + b"\n"})


# --- starting one ---------------------------------------------------------------------------------------------------


def check_host(host: str, has_tls: bool, is_insecure: bool) -> None:
    """Refuse to be reached from other computers in the clear, unless someone insists.

    :raises UsageError: that.
    """
    if host == "localhost" or has_tls or is_insecure:
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    raise UsageError(
        f"On {host} others could read the scans and the token on their way.",
        "Give --tls-cert and --tls-key, or stay on 127.0.0.1 behind a proxy; --insecure if you know better.",
    )


def token_from(path: PathLike) -> Tuple[str, bool]:
    """The token in a file, and whether it was made just now: a file that is not there gets a random one.

    :raises UsageError: no token in it. :raises OutputError: the file cannot be made.
    """
    if Path(path).exists():
        return read_token(str(path)), False
    token = secrets.token_urlsafe(32)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(token + "\n")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", "Choose another place.") from error
    return token, True


def run(
    service: Service, token: str, host: str, port: int, tls: Optional[Tuple[str, str]] = None, on_start: Any = None
) -> None:
    """Serve until the process is told to end.

    :param tls: files of certificate and key.
    :param on_start: called with the port when connections are taken.
    :raises UsageError: uvicorn is missing, the port is taken, or the certificate makes no sense.
    """
    try:
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError:
        raise UsageError(
            "The package uvicorn, which serves, is missing.", "Install it: pip install 'samv2[server]'."
        ) from None

    class Protocol(H11Protocol):
        """Closes connections that ask for nothing."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(HEADER_SECONDS, self._close_if_silent, transport)

        def _close_if_silent(self, transport: Any) -> None:
            if getattr(self, "cycle", None) is None and not transport.is_closing():
                transport.close()

    class Server(uvicorn.Server):
        """Says when it is there."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if on_start is not None and self.started:
                on_start(self.servers[0].sockets[0].getsockname()[1])

    certificate: Dict[str, Any] = {"ssl_certfile": tls[0], "ssl_keyfile": tls[1]} if tls else {}
    config = uvicorn.Config(
        Application(service, token),
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=1 << 15,
        **certificate,
    )
    try:
        config.load()
    except OSError as error:  # ssl's errors, too
        raise UsageError(f"The certificate or its key cannot be used ({error}).", "Give PEM files.") from error
    try:
        Server(config).run()
    except SystemExit:  # uvicorn has logged why
        raise UsageError(f"{host}:{port} cannot be served.", "Choose another --port or --host.") from None
    except KeyboardInterrupt:
        pass
    finally:
        service.close()
