"""The image of the compute server, each of its steps in a plain folder: there need be no Docker where tests run."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Dict, List

import pytest

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> Dict[str, str]:
    """The Dockerfile's instructions by name; the arguments of several of one name as lines."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    found: Dict[str, str] = {}
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        if name:
            found[name] = f"{found[name]}\n{rest}" if name in found else rest
    return found


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file into the context of the build: the last line that applies decides."""
    parts, is_in = path.split("/"), True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        pattern = line.lstrip("!").replace("**/", "")
        above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        names = above if pattern == line.lstrip("!") else parts
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            is_in = line.startswith("!")
    return is_in


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> Path:
    """What COPY . . copies."""
    folder = tmp_path_factory.mktemp("context")
    everything, *rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert everything == "*"
    for top in {rule[1:].partition("/")[0] for rule in rules if rule[0] == "!"}:
        for path in [ROOT / top, *(ROOT / top).rglob("*")]:
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and in_context(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)
    return folder


def test_the_context_has_what_the_steps_need_and_no_more(context):
    (constraints,) = re.findall(r"pip install -c (\S+) \"\.\[server\]\"", instructions()["RUN"])
    top = {path.relative_to(context).as_posix() for path in context.iterdir()}
    assert top == {"LICENSE.txt", "NOTICE", "README.md", "pyproject.toml", "SAMv2Core", "Resources", "requirements"}
    assert (context / constraints).is_file()
    major, minor = re.findall(r"python:(\d+)\.(\d+)", instructions()["FROM"])[0]
    (torch,) = re.findall(r"torch==\S+", instructions()["RUN"])
    (pinned,) = [
        line
        for line in (context / constraints).read_text(encoding="utf-8").splitlines()
        if line.startswith("torch==") and '>= "3.10"' in line
    ]
    assert (int(major), int(minor)) >= (3, 10) and pinned.split(" ")[0] == torch, "one torch, not fetched twice"


def test_the_package_is_built_from_the_context_with_all_models(context, tmp_path):
    pytest.importorskip("hatchling", reason="the build backend is not installed (pip install '.[test]')")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(context)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    models = {path.name for path in (ROOT / "Resources" / "Models").iterdir() if path.is_file()}
    assert models and {f"SAMv2Core/_models/{name}" for name in models} <= names


def test_it_serves_with_a_token_and_tls_and_is_nobody():
    from SAMv2Core.cli.main import build_parser

    found = instructions()
    program, *arguments = json.loads(found["ENTRYPOINT"]) + json.loads(found["CMD"])
    args = build_parser().parse_args(arguments)
    assert program == "samv2" and args.token_file and args.tls_cert and args.tls_key and not args.insecure
    assert str(args.port) == found["EXPOSE"] and args.cache is None
    assert found["USER"] == "samv2" and re.search(r"useradd .*samv2$", found["RUN"])
    assert found["ARG"].startswith("TORCH_INDEX=") and found["ARG"].endswith("/cpu")


class _Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.mark.parametrize(("scheme", "status", "code"), [("http", 200, 0), ("https", 200, 0), ("https", 500, 1)])
def test_the_health_check_asks_whether_it_answers(scheme, status, code, tmp_path):
    """With and without TLS; a port that is open and says nothing right is not healthy."""
    handler = type("Handler", (_Health,), {"status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    if scheme == "https":
        server.socket = _context(tmp_path).wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert _check(server.server_port) == code
    finally:
        server.shutdown()
        server.server_close()
    assert _check(server.server_port) != 0


def _check(port: int) -> int:
    """Exit code of the health check, at another port."""
    command: List[str] = json.loads(instructions()["HEALTHCHECK"].partition(" CMD ")[2])
    command = [sys.executable, *(part.replace(":8123/", f":{port}/") for part in command[1:])]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode


def _context(folder: Path):
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = str(folder / "key.pem"), str(folder / "cert.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
