"""Downloads of models, from a server on 127.0.0.1 that has faults: whole and checked, or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import json
import shutil
import threading

import pytest

from SAMv2Core.errors import Cancelled, ModelError, OutputError
from SAMv2Core.models import catalogue, library
from SAMv2Core.models import download as download_module
from SAMv2Core.models.records import read_record, write_record

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 4000  # looks like a checkpoint; is never loaded here
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """The user's models folder, not made yet; nothing is bundled; no waiting."""
    (tmp_path / "bundled").mkdir()
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path / "Modelle ü"))
    monkeypatch.setattr(catalogue, "bundled_folder", lambda: tmp_path / "bundled")
    monkeypatch.setattr(download_module, "RETRY_SECONDS", 0.0)
    return tmp_path / "Modelle ü"


class Server:
    """A server of one file on 127.0.0.1, with the faults asked for."""

    def __init__(self):
        self.content = CONTENT
        self.etag = '"one"'
        self.cut_after = []  # bytes after which the connection breaks, one per answer
        self.status = 200
        self.ranges = []  # the Range of every request
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self._httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._httpd.server_address[1]}"
        threading.Thread(target=self._httpd.serve_forever, daemon=True).start()

    def answer(self, handler):
        self.ranges.append(handler.headers.get("Range"))
        if self.status != 200:
            handler.send_error(self.status)
            return
        begin = 0
        if handler.headers.get("Range") and handler.headers.get("If-Range") == self.etag:
            begin = int(handler.headers["Range"][len("bytes=") : -1])
        part = self.content[begin:]
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(part[: self.cut_after.pop(0)] if self.cut_after else part)
        handler.close_connection = True

    def close(self):
        self._httpd.shutdown()
        self._httpd.server_close()


@pytest.fixture
def server(monkeypatch):
    running = Server()
    monkeypatch.setenv("SAMV2_MODELS_URL", running.url + "/models/")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield running
    running.close()


def left_over(user):
    return sorted(path.name for path in user.iterdir()) if user.exists() else []


def test_a_download_is_whole_recorded_and_not_repeated(server, user):
    told = []
    info = library.download("sam", lambda fraction, text: told.append(fraction))
    assert info.path.read_bytes() == CONTENT and info.sha256 == SHA256 and not info.trusted
    assert left_over(user) == ["SAM.json", "SAM.pth"]
    assert read_record(info.path)["origin"].startswith(server.url)
    assert told == sorted(told) and told[-1] == 1.0
    library.download("sam")
    assert len(server.ranges) == 1


def test_a_broken_connection_is_resumed_in_the_same_call(server):
    server.cut_after = [300_000, 200_000]
    assert library.download("sam").path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_what_has_arrived_is_kept_for_the_next_call(server, user):
    server.cut_after = [1000] * download_module.ATTEMPTS
    with pytest.raises(ModelError) as caught:
        library.download("sam")
    assert "failed" in caught.value.cause and "again" in caught.value.remedy
    assert not (user / "SAM.pth").exists()
    assert library.download("sam").path.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=4000-"
    assert left_over(user) == ["SAM.json", "SAM.pth"]


def test_a_file_that_changed_meanwhile_is_fetched_whole(server):
    server.cut_after = [1000] * download_module.ATTEMPTS
    with pytest.raises(ModelError):
        library.download("sam")
    server.content, server.etag = CONTENT[::-1].replace(CONTENT[:4][::-1], b"") + b"end", '"two"'
    server.content = b"PK\x03\x04" + server.content
    assert library.download("sam").path.read_bytes() == server.content


def test_a_cancelled_download_is_continued(server, user):
    def cancel(fraction, text):
        if fraction > 0.4:
            raise Cancelled()

    with pytest.raises(Cancelled):
        library.download("sam", cancel)
    assert not (user / "SAM.pth").exists()
    assert library.download("sam").path.read_bytes() == CONTENT
    assert server.ranges[-1] is not None


def test_another_file_than_before_is_refused_and_not_kept(server, user):
    user.mkdir()
    write_record(user / "SAM.pth", "0" * 64, "an earlier download")
    with pytest.raises(ModelError, match=SHA256) as caught:
        library.download("sam")
    assert "SAM.json" in caught.value.remedy
    assert left_over(user) == ["SAM.json"]


def test_a_file_that_the_catalogue_does_not_expect_is_refused(server, user, tmp_path, monkeypatch):
    entries = json.loads(json.dumps(catalogue.catalogue()))
    entries["sam"]["sha256"] = "1" * 64
    monkeypatch.setattr(catalogue, "_read_catalogue", lambda: entries)
    with pytest.raises(ModelError, match="1111"):
        library.download("sam")
    assert left_over(user) == []
    entries["sam"]["sha256"] = SHA256
    assert library.download("sam").trusted


def test_a_web_page_is_not_taken_for_a_model(server, user):
    server.content = b"<!DOCTYPE html><html>please log in</html>"
    with pytest.raises(ModelError, match="web page"):
        library.download("sam")
    assert left_over(user) == []


@pytest.mark.parametrize("status, n_requests", [(404, 1), (403, 1), (503, download_module.ATTEMPTS)])
def test_answers_of_failure_are_told(server, status, n_requests):
    server.status = status
    with pytest.raises(ModelError, match=str(status)) as caught:
        library.download("sam")
    assert "import" in caught.value.remedy
    assert len(server.ranges) == n_requests


def test_no_server_at_all(monkeypatch):
    monkeypatch.setenv("SAMV2_MODELS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ModelError, match="failed"):
        library.download("sam")


def test_a_disk_without_room_is_told_before_it_is_full(server, user, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(OutputError, match="free"):
        library.download("sam")


def test_a_disk_that_gets_full_is_told_and_given_back_its_room(server, user, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download_module.os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        library.download("sam")
    assert left_over(user) == []


def test_a_folder_that_cannot_be_made(server, user, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path / "file" / "models"))
    with pytest.raises(OutputError):
        library.download("sam")


def test_what_cannot_be_downloaded():
    with pytest.raises(ModelError, match="lite-ct"):
        library.download("lite-ct")
    with pytest.raises(ModelError, match="vgg"):
        library.download("vgg")
