"""A server with everyone on the other side: clients, several at once, and those who mean harm."""

import contextlib
import http.client
import os
import random
import socket
import ssl
import stat
import struct
import subprocess
import threading
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra samv2[server] is not installed")

import SAMv2Core as s
from SAMv2Core.errors import Cancelled, InputError, ServerError, UsageError
from SAMv2Core.serve import http as server
from SAMv2Core.serve.client import Client, Scan
from SAMv2Core.serve.frames import MAGIC, FrameReader, to_bytes
from SAMv2Core.serve.http_link import HttpLink, read_token
from SAMv2Core.serve.service import PROTOCOL
from Testing.core.serve.conftest import POINTS, small_torso
from Testing.core.serve.test_child import begin_slowly, embed, match
from Testing.core.serve.test_service import plain
from Testing.samples.small_service import load, small_service

TOKEN = "a token of the tests, long enough"


@contextlib.contextmanager
def serving(service, tls=None):
    """The port of a server in a thread of this process."""
    started, ports = threading.Event(), []

    def on_start(port):
        ports.append(port)
        started.set()

    arguments = (service, TOKEN, "127.0.0.1", 0, tls, on_start)
    thread = threading.Thread(target=server.run, args=arguments, daemon=True)
    thread.start()
    assert started.wait(30)
    yield ports[0]
    service.close()


@pytest.fixture(scope="module")
def service():
    return small_service(keep_bytes=64 << 20)


@pytest.fixture(scope="module")
def port(service):
    with serving(service) as port:
        yield port


@pytest.fixture
def client(port):
    return Client(HttpLink(f"http://127.0.0.1:{port}", TOKEN))


def test_results_are_those_of_one_process_and_voxels_go_once(client, port, scans):
    model = load("lite-test", "cpu")
    local = [model.embed(scan.volume) for scan in scans]
    assert plain(match(client, scans)) == plain(s.match(*local, POINTS))
    sent, pack = [], client.link.prepare
    client.link.prepare = lambda header, arrays: sent.append(header["op"]) or pack(header, arrays)
    assert plain(match(client, scans)) == plain(s.match(*local, POINTS))
    assert sent == ["match"]
    several = {"template": [scan.source() for scan in scans], "query": scans[1].source()}
    values = {**several, "points": [POINTS, POINTS], "method": "fixed-point"}
    found = client.run(client.steps("match", [*scans, scans[1]], lambda: values))["value"]
    assert plain(found) == plain(s.match(local, local[1], [POINTS, POINTS]))


def test_floats_and_a_full_geometry_travel(client):
    tilted = np.array([[1.9, 0.3, 0, 5], [-0.3, 1.9, 0, 6], [0, 0, -2, 700], [0, 0, 0, 1.0]])
    volume = s.Volume(small_torso(0).array.astype(np.float64) + 0.25, tilted, "tilted")
    scan = Scan(volume, "tilted")
    client.run(embed(client, scan))
    found = client.run(client.steps("vectors", [scan], lambda: {"source": scan.source()}))["value"]
    from SAMv2Core.embedding.file import as_tensors

    local = load("lite-test", "cpu").embed(volume)
    assert plain(found[0]) == plain(as_tensors(local)[0])


def test_two_clients_at_once(port, scans):
    outcomes = {}

    def work(number):
        mine = Client(HttpLink(f"http://127.0.0.1:{port}", TOKEN))
        own = [Scan(small_torso(10 + number + n), f"scan {n}") for n in (0, 1)]
        outcomes[number] = plain(match(mine, own)), own

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    model = load("lite-test", "cpu")
    for found, own in outcomes.values():
        assert found == plain(s.match(*[model.embed(scan.volume) for scan in own], POINTS))
    assert len(outcomes) == 2


def test_a_client_that_leaves_or_cancels_has_its_work_stopped(port, service, client):
    steps = begin_slowly(client)
    with pytest.raises(Cancelled):
        steps.throw(Cancelled())
    until = time.monotonic() + 10
    while service._open and time.monotonic() < until:
        client.poll(0.02)
    assert not service._open
    leaving = socket.create_connection(("127.0.0.1", port))
    request = {"v": PROTOCOL, "id": 1, "client": "x", "op": "embed"}
    source = {"content": Scan(small_torso(7)).content or _content(small_torso(7)), "model": "slow"}
    leaving.sendall(_post(to_bytes({**request, "args": {"source": source}})))
    until = time.monotonic() + 20
    while not service._open and time.monotonic() < until:
        time.sleep(0.01)
    assert service._open
    leaving.close()
    while service._open and time.monotonic() < until:
        time.sleep(0.02)
    assert not service._open


def _content(volume):
    from SAMv2Core.embedding.cache import cache_key

    return cache_key(volume, {})


def _post(body, token=TOKEN, length=None, path="/v1"):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return (head + f"Authorization: Bearer {token}\r\n\r\n").encode() + body


# --- harm ------------------------------------------------------------------------------------------------------------


def answer(port, data, is_closed=False):
    """The status of what is answered to some bytes; 0 when the connection was closed without a word."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if is_closed:
                connection.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(OSError):
            while b"\r\n" not in said:
                more = connection.recv(4096)
                if not more:
                    break
                said += more
        return int(said.split()[1]) if said.startswith(b"HTTP/1.1 ") else 0


def is_alive(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/health")
    return connection.getresponse().read() == b"ok\n"


def test_a_token_is_always_wanted(port):
    hello = to_bytes({"v": PROTOCOL, "id": 1, "client": "x", "op": "hello"})
    assert answer(port, _post(hello)) == 200
    for token in ("", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        assert answer(port, _post(hello, token)) == 401
    bare = _post(hello).replace(b"Authorization: Bearer " + TOKEN.encode() + b"\r\n", b"")
    assert answer(port, bare) == 401
    assert answer(port, _post(hello, "wrong", path="/nothing")) == 401, "what is there is nobody's business"
    wrong = Client(HttpLink(f"http://127.0.0.1:{port}", "quite another token"))
    with pytest.raises(ServerError, match="does not accept the token") as raised:
        wrong.run(wrong.steps("info", [], dict))
    assert raised.value.exit_code == 4


@pytest.mark.parametrize(
    "body, status",
    [
        (b"", 400),
        (b"no frame at all", 400),
        (to_bytes({"v": 1, "id": 1, "op": "hello"}), 400),  # no client
        (to_bytes({"v": 1, "id": 1, "op": "hello", "client": "x" * 100}), 400),
        (to_bytes({"v": 1, "id": 1, "op": "hello", "client": "x"}) * 2, 400),
        (to_bytes({"v": 1, "id": 1, "op": "hello", "client": "x"})[:-1], 400),
        (struct.pack("<4sI", MAGIC, 1 << 31), 400),
    ],
)
def test_what_is_no_request_is_refused(port, body, status):
    assert answer(port, _post(body)) == status


def test_a_claim_of_100_gb_is_refused_at_once(port, service):
    blob = {"dtype": "<i2", "shape": [50_000_000_000], "how": "raw"}
    assert answer(port, _post(to_bytes({"blobs": [blob]}), length=100_000_000_000)) == 400
    within = {**blob, "shape": [(40 << 20) // 2]}
    with socket.create_connection(("127.0.0.1", port)) as first:  # claims most of the room, and sends nothing
        first.sendall(
            _post(to_bytes({"v": 1, "id": 1, "op": "put", "client": "x", "blobs": [within]}), length=41 << 20)
        )
        until = time.monotonic() + 10
        while service.store.n_bytes() < 40 << 20 and time.monotonic() < until:
            time.sleep(0.01)
        assert answer(port, _post(to_bytes({"blobs": [within]}), length=41 << 20)) == 507
    while service.store.n_bytes() >= 40 << 20 and time.monotonic() < until:
        time.sleep(0.01)
    assert service.store.n_bytes() < 40 << 20, "the room is given back"


def test_a_thousand_malformed_requests_leave_the_server_as_it_was(port, client, scans):
    """Damaged frames and damaged HTTP, torn anywhere; memory stays flat."""
    rng, before = random.Random(3), None
    array = np.arange(6000, dtype=np.int16).reshape(20, 20, 15)
    put = {"v": 1, "id": 1, "op": "put", "client": "x", "args": {"content": "0" * 64, "array": {"~": "array", "n": 0}}}
    whole = to_bytes(put, [array], compress=True)
    statuses = {}
    for n in range(1000):
        body = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(body)) if rng.random() < 0.5 else rng.randrange(200)
            body[at] ^= 1 << rng.randrange(8)
        request = bytearray(_post(bytes(body)))
        if n % 5 == 0:
            request = request[: rng.randrange(len(request))]
        elif n % 5 == 1:
            request[rng.randrange(60)] ^= 1 << rng.randrange(8)
        status = answer(port, bytes(request), is_closed=n % 5 < 2)
        statuses[status] = statuses.get(status, 0) + 1
        if n == 300:
            before = _resident()
    assert is_alive(port) and statuses.get(400, 0) > 300 and 500 not in statuses, statuses
    assert _resident() - before < 16 << 20
    assert len(match(client, scans)) == len(POINTS)


def _resident():
    with open("/proc/self/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_silent_and_slow_clients_lose_their_connection_only(port, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(server, "SILENCE_SECONDS", 0.5)
    frame = to_bytes({"v": 1, "id": 1, "op": "hello", "client": "x"})
    for said in (b"", b"POST /v1 HT", _post(frame[:10], length=len(frame))):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(said)
            assert not connection.recv(1000).startswith(b"HTTP/1.1 200")  # in the end it is closed
    dripping = socket.create_connection(("127.0.0.1", port), timeout=20)
    dripping.sendall(_post(b"", length=1 << 20))
    with contextlib.suppress(OSError):
        for byte in frame * 20:
            dripping.sendall(bytes([byte]))
            time.sleep(0.01)
    dripping.close()
    assert is_alive(port)


def test_too_large_a_scan_is_told_to_its_client(client):
    big = Scan(s.Volume(np.zeros((100, 500, 700), np.float32), np.eye(4)), "big")  # 140 MB; the server has 64
    with pytest.raises(ServerError, match=r"refused the request|cannot be reached"):
        client.run(embed(client, big))


def test_another_clients_content_cannot_be_forged(client):
    volume = small_torso(3)
    values = {"content": _content(small_torso(4)), "array": volume.array, "ijk_to_lps": volume.ijk_to_lps.copy()}
    call = client.request("put", values)
    while not call.is_done:
        client.poll(0.05)
    assert isinstance(call.error, InputError) and "not what its hash says" in str(call.error)


def test_replies_are_frames_that_anyone_can_read(port):
    """With nothing but http.client, as the documentation says."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = to_bytes({"v": 1, "id": 7, "client": "me", "op": "info", "args": {}})
    connection.request("POST", "/v1", body, {"Authorization": f"Bearer {TOKEN}"})
    response = connection.getresponse()
    frames = FrameReader().feed(response.read())
    assert response.status == 200 and frames[-1].header["kind"] == "result"
    assert frames[-1].header["value"]["protocol"] == PROTOCOL and frames[-1].header["value"]["pid"] == 0


# --- starting ---------------------------------------------------------------------------------------------------------


def test_beyond_loopback_only_with_tls_or_when_someone_insists():
    for host in ("127.0.0.1", "localhost", "::1", "127.3.2.1"):
        server.check_host(host, False, False)
    for host in ("0.0.0.0", "192.168.1.5", "::", "gpu.hospital.example"):
        with pytest.raises(UsageError, match="could read"):
            server.check_host(host, False, False)
        server.check_host(host, True, False)
        server.check_host(host, False, True)


def test_a_token_is_made_for_the_owner_alone(tmp_path):
    path = tmp_path / "token"
    token, is_new = server.token_from(path)
    assert is_new and len(token) > 40 and read_token(str(path)) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and server.token_from(path) == (token, False)
    path.write_text("short")
    with pytest.raises(UsageError):
        server.token_from(path)


@pytest.mark.parametrize("url", ["ftp://x:1", "http://", "http://x:port", "http://x:1/path", "", "http://x:99999"])
def test_addresses_without_sense(url):
    with pytest.raises(UsageError, match="no address"):
        HttpLink(url, TOKEN)


def test_nobody_there():
    client = Client(HttpLink("http://127.0.0.1:9", TOKEN))
    with pytest.raises(ServerError, match="cannot be reached"):
        client.run(client.steps("info", [], dict))


def test_certificates_are_checked(tmp_path, monkeypatch, service):
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    try:
        extra = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run([*command, *extra], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"openssl makes no certificate here: {error}")
    with serving(small_service(), (certificate, key)) as port:
        stranger = Client(HttpLink(f"https://127.0.0.1:{port}", TOKEN))
        with pytest.raises(ServerError, match=r"(?i)certificate"):
            stranger.run(stranger.steps("info", [], dict))
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        assert ssl.get_default_verify_paths().cafile == certificate
        friend = Client(HttpLink(f"https://127.0.0.1:{port}", TOKEN))
        assert friend.run(friend.steps("info", [], dict))["protocol"] == PROTOCOL
