"""``samv2 serve`` and its clients as users run them: the files are those of one process, and torch is not needed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from Testing.end_to_end.conftest import ROOT, environment, read_json

pytest.importorskip("uvicorn", reason="the extra samv2[server] is not installed")

TORCHLESS = f"""if True:
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    class NoTorch:
        @staticmethod
        def find_spec(name, *others):
            if name.split(".")[0] == "torch":
                raise ModuleNotFoundError("There is no torch here", name="torch")
    sys.meta_path.insert(0, NoTorch)
    from SAMv2Core.cli.main import main
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def server(cache, scans, tmp_path_factory):
    """(url, token file) of a server that has the small model under the name ``tiny``."""
    folder = tmp_path_factory.mktemp("server")
    options = {"env": environment(cache), "cwd": folder, "encoding": "utf-8"}
    command = [sys.executable, "-m", "SAMv2Core"]
    imported = [*command, "models", "import", str(scans / "tiny.safetensors"), "--as", "tiny"]
    subprocess.run(imported, check=True, capture_output=True, **options)
    asked = ["serve", "--port", "0", "--token-file", "token", "--device", "cpu", "--keep", "1"]
    process = subprocess.Popen([*command, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    said = process.stdout.readline() + process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert found, said + process.stderr.read()
    yield found.group(), folder / "token"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err, (out, err)


@pytest.fixture
def elsewhere(server, cache, tmp_path):
    """Run ``samv2`` without torch, on the server."""

    def run(*arguments, token=None):
        url, token_file = server
        command = [sys.executable, "-c", TORCHLESS, *map(str, arguments), "--model", "tiny"]
        return subprocess.run(
            [*command, "--server", url, "--token-file", str(token or token_file)],
            env={**environment(cache), "PYTHONPATH": ""}, cwd=tmp_path, capture_output=True, encoding="utf-8",
            timeout=120, check=False,
        )  # fmt: skip

    return run


def results(path):
    """What a report says but for times, places and the machine."""
    report = read_json(path)
    kept = ("points", "findings", "matrix", "status", "inliers", "residual_mm", "model", "landmarks", "region", "near")
    found = {name: report.get("results", report).get(name, report.get(name)) for name in kept}
    assert any(value for value in found.values())
    return found


def test_files_are_those_of_one_process(elsewhere, samv2, scans, atlas, tmp_path):
    pair = ["--template", scans / "template.nii.gz", "--query", scans / "query.nii.gz", "--points"]
    later = ["--baseline", scans / "template.nii.gz", "--follow-up", scans / "query.nii.gz", "--lesions"]
    own = ["--image", scans / "query.nii.gz", "--atlas", atlas]  # of this user: the server has none for this model
    commands = {
        "match": [*pair, scans / "points.csv", "--output", "{}.csv", "--similarity-map", "{}.nii.gz"],
        "track": [*later, scans / "points.csv", "--output", "{}.csv"],
        "landmarks": [*own, "--output", "{}.csv"],
        "where": [*own, "--point=20,-10,160"],
    }
    for name, arguments in commands.items():
        ended = {}
        for where in ("here", "there"):
            given = [name, *(str(item).format(f"{where}-{name}") for item in arguments)]
            given += ["--report", f"{where}-{name}.json"]
            ended[where] = elsewhere(*given) if where == "there" else samv2(*given, "--model", "tiny")
        here, there = ended["here"], ended["there"]
        assert (there.returncode, there.stdout) == (here.code, here.out), there.stderr
        written = [path for path in tmp_path.glob(f"here-{name}*") if path.suffix != ".json"]
        assert written or name == "where"
        for path in written:
            twin = tmp_path / path.name.replace("here", "there")
            assert _without_name(twin) == _without_name(path), path.name
        assert results(tmp_path / f"here-{name}.json") == results(tmp_path / f"there-{name}.json")
        assert read_json(tmp_path / f"there-{name}.json")["device"] == "server, cpu"


def _without_name(path):
    return path.read_bytes().replace(b"here-", b"").replace(b"there-", b"")


def test_a_wrong_token_ends_with_4_and_nothing_is_written(elsewhere, scans, tmp_path):
    (tmp_path / "wrong").write_text("w" * 40)
    given = ["match", "--template", scans / "template.nii.gz", "--query", scans / "query.nii.gz", "--points"]
    ended = elsewhere(*given, scans / "points.csv", "--output", "out.csv", token="wrong")
    assert ended.returncode == 4 and "does not accept the token" in ended.stderr
    assert not (tmp_path / "out.csv").exists() and len(ended.stderr.strip().splitlines()) == 2


@pytest.mark.parametrize("more", [["--device", "cpu"], ["--threads", "2"]], ids=lambda o: o[0])
def test_what_the_server_chooses_cannot_be_asked_for(elsewhere, scans, more):
    given = ["match", "--template", scans / "template.nii.gz", "--query", scans / "query.nii.gz", "--points"]
    ended = elsewhere(*given, scans / "points.csv", "--output", "out.csv", *more)
    assert ended.returncode == 2 and more[0] in ended.stderr


def test_a_server_is_not_started_where_others_could_read(samv2):
    ended = samv2("serve", "--host", "0.0.0.0", "--token-file", "t")
    assert ended.code == 2 and "--tls-cert" in ended.err
    assert samv2("serve").code == 2
    ended = samv2("serve", "--token-file", "t", "--tls-cert", "x.pem")
    assert ended.code == 2 and "key" in ended.err
