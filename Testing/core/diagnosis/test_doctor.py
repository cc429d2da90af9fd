"""What doctor concludes from what it finds: each known trap, and the healthy case on this machine."""

from __future__ import annotations

import builtins
import json
import sys
from types import SimpleNamespace

import pytest

from SAMv2Core.diagnosis import doctor
from SAMv2Core.diagnosis.doctor import Diagnosis, Finding, judge_torch

CPU = {"name": "cpu", "works": True, "problem": "", "seconds": 0.01}
HEALTHY = {
    "version": "2.13.0+cpu",
    "file": "torch/__init__.py",
    "cuda_build": None,
    "threads": 2,
    "numpy_problem": "",
    "devices": [CPU],
}


@pytest.fixture(autouse=True)
def no_nvidia_driver(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)


def worst(findings) -> Finding:
    return max(findings, key=lambda finding: ["ok", "warning", "problem"].index(finding.status))


def test_healthy_torch():
    assert worst(judge_torch(HEALTHY, "2.4.6")).status == "ok"


@pytest.mark.parametrize(
    ("torch", "status", "text", "remedy"),
    [
        ({"problem": "ModuleNotFoundError: No module named 'torch'"}, "problem", "not installed", "PyTorch extension"),
        ({"problem": "importing torch crashes the process (signal 11)"}, "problem", "crashes", "install it again"),
        ({**HEALTHY, "version": "1.13.1"}, "problem", "too old", "2.0"),
        ({**HEALTHY, "numpy_problem": "RuntimeError: Numpy is not available"}, "problem", "NumPy 2.4.6", "numpy<2"),
        ({**HEALTHY, "devices": [{**CPU, "works": False, "problem": "wrong"}]}, "problem", "wrong", "Reinstall"),
        (
            {**HEALTHY, "devices": [CPU, {**CPU, "name": "mps", "works": False, "problem": "Conv3D is not supported"}]},
            "warning",
            "Conv3D",
            "--device cpu",
        ),
    ],
)  # fmt: skip
def test_traps_are_named_with_their_remedy(torch, status, text, remedy):
    finding = worst(judge_torch(torch, "2.4.6"))
    assert finding.status == status
    assert text in finding.text and remedy in finding.remedy


@pytest.mark.parametrize(("build", "reason"), [(None, "CPUs only"), ("12.8", "does not see it")])
def test_nvidia_driver_that_torch_does_not_use(monkeypatch, build, reason):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    finding = worst(judge_torch({**HEALTHY, "cuda_build": build}, "2.4.6"))
    assert finding.topic == "GPU" and finding.status == "warning" and reason in finding.text


def test_gpu_that_works_is_named():
    gpu = {**CPU, "name": "cuda:0", "label": "NVIDIA H100", "memory_bytes": 80 * 2**30}
    findings = judge_torch({**HEALTHY, "devices": [CPU, gpu]}, "2.4.6")
    assert findings[-1] == Finding("cuda:0", "ok", "computes (NVIDIA H100), 80 GiB")


def test_probe_tries_this_torch():
    found = doctor.probe_torch()
    assert found["devices"][0]["name"] == "cpu" and found["devices"][0]["works"]
    assert found["numpy_problem"] == ""


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named 'torch'"),
        ("import time; time.sleep(60)", "more than"),
        ("print('noise')", "no message"),
    ],
)
def test_probe_survives_a_broken_torch(monkeypatch, tmp_path, program, told):
    broken = tmp_path / "torch_probe.py"
    broken.write_text(program)
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 3 if "sleep" in program else 60)
    assert told in doctor.probe_torch()["problem"]


def test_interpreter_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert "cannot be started" in doctor.probe_torch()["problem"]


def test_exit_codes():
    ok, warning = Finding("a", "ok", ""), Finding("b", "warning", "")
    no_model, no_torch = Finding("models", "problem", ""), Finding("torch", "problem", "")
    codes = [Diagnosis(found, {}).exit_code for found in ((ok, warning), (ok, no_model), (no_model, no_torch))]
    assert codes == [0, 4, 1]


def test_package_that_cannot_be_imported():
    version, finding = doctor._package("no_such_package_at_all")
    assert (version, finding.status) == ("", "problem") and "pip install" in finding.remedy


def test_examine_does_not_load_torch_here_and_gives_plain_data(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMV2_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SAMV2_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(doctor, "probe_torch", lambda: {"problem": "No module named 'torch'"})
    real_import = builtins.__import__

    def refuse_torch(name, *rest, **options):
        assert name.split(".")[0] != "torch"
        return real_import(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse_torch)
    diagnosis = doctor.examine()
    assert not diagnosis.is_usable and diagnosis.exit_code == 1
    json.dumps(diagnosis.facts, allow_nan=False)
    assert {"cache", "models", "memory", "torch", "packages"} <= set(diagnosis.facts)
    assert all(finding.remedy for finding in diagnosis.findings if finding.status != "ok")


def test_little_memory_is_a_warning():
    assert doctor._judge_memory({"available_bytes": 2**30}).status == "warning"
    assert doctor._judge_memory({"available_bytes": None}).status == "ok"


def test_damaged_and_missing_models(monkeypatch):
    from SAMv2Core.errors import ModelError
    from SAMv2Core.models import library

    def refuse(name):
        raise ModelError("not the file that it was", "Delete it.")

    info = SimpleNamespace(name="lite-ct", is_ready=True, origin="bundled", path="x", sha256="", trusted=False)
    monkeypatch.setattr(library, "list_models", lambda: [info])
    monkeypatch.setattr(library, "verify", refuse)
    facts, findings = doctor._models()
    assert facts[0]["state"] == "damaged"
    assert [finding.status for finding in findings] == ["warning", "problem"]
