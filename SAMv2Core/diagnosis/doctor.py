"""What is installed, which devices really compute, which models are ready, and what to do about the rest.

Works without torch and with a broken one, because that is when it is needed: torch is tried in another process
(:mod:`SAMv2Core.diagnosis.torch_probe`), everything else is looked at here. Known traps are named with their remedy:

* torch 2.2, the last one for Intel Macs (and for Slicer there), is compiled for NumPy 1 and fails with NumPy 2;
* a torch for CPUs beside an NVIDIA driver, or one without kernels for the card that is there;
* MPS without 3-D convolutions.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from SAMv2Core import __version__
from SAMv2Core.errors import ModelError

if TYPE_CHECKING:
    from SAMv2Core.models.library import ModelInfo

# The first import of torch from a slow or cold disk takes up to a minute.
PROBE_SECONDS = 180
MIN_TORCH = (2, 0)
PACKAGES = ("numpy", "scipy", "SimpleITK")
INSTALL_TORCH = "Install it: `pip install torch`; in Slicer use the PyTorch extension."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    :param topic: what, in a word or two.
    :param status: ``"ok"``, ``"warning"`` (something will not work or be slow) or ``"problem"`` (SAMv2 cannot run).
    :param text: what was found, one line.
    :param remedy: what to do, one line; empty when nothing has to be done.
    """

    topic: str
    status: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the same as plain data for a report.

    :param findings: in the order to be read.
    :param facts: versions, devices, memory, cache and models; JSON types only.
    """

    findings: Tuple[Finding, ...]
    facts: Dict[str, Any]

    @property
    def is_usable(self) -> bool:
        """True when SAMv2 can embed and match here."""
        return all(finding.status != "problem" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 usable, 4 only a model is missing, 1 something else is."""
        problems = {finding.topic for finding in self.findings if finding.status == "problem"}
        return (4 if problems == {"models"} else 1) if problems else 0


def examine() -> Diagnosis:
    """Look at everything; takes a few seconds, mostly torch's import in the other process."""
    findings: List[Finding] = [_samv2()]
    facts: Dict[str, Any] = {
        "samv2": __version__,
        "location": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "slicer": _slicer_version(),
        "packages": {},
    }
    for name in PACKAGES:
        version, finding = _package(name)
        facts["packages"][name] = version
        findings.append(finding)
    torch = probe_torch()
    facts["torch"] = torch
    findings += judge_torch(torch, facts["packages"]["numpy"])
    facts["memory"] = _memory()
    findings.append(_judge_memory(facts["memory"]))
    for name, look in (("cache", _cache), ("models", _models)):
        facts[name], found = look()
        findings += found
    return Diagnosis(tuple(findings), facts)


def _samv2() -> Finding:
    slicer = _slicer_version()
    where = f"in Slicer {slicer}" if slicer else f"Python {platform.python_version()}, {platform.system()}"
    return Finding("SAMv2", "ok", f"{__version__}, {where} {platform.machine()}, {Path(__file__).parents[1]}")


def _slicer_version() -> str:
    """Slicer's version when this runs in its Python; Slicer puts it into the environment of its processes."""
    home = os.environ.get("SLICER_HOME", "")
    if not home:
        return ""
    found = [path.name for path in Path(home, "lib").glob("Slicer-*")]
    return found[0].replace("Slicer-", "") if found else "(unknown version)"


def _package(name: str) -> Tuple[str, Finding]:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # an import can fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return "", Finding(name, "problem", f"cannot be imported ({reason})", f"Run `pip install {name}`.")
    version = str(getattr(module, "__version__", "unknown version"))
    return version, Finding(name, "ok", version)


def probe_torch() -> Dict[str, Any]:
    """What :mod:`SAMv2Core.diagnosis.torch_probe` says, or ``{"problem": why it says nothing}``."""
    source = Path(__file__).with_name("torch_probe.py").read_text(encoding="utf-8")
    command = [sys.executable, "-c", source]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"importing torch took more than {PROBE_SECONDS} s"}
    except OSError as error:
        return {"problem": f"{sys.executable} cannot be started ({error.strerror})"}
    if done.returncode < 0:
        return {"problem": f"importing torch crashes the process (signal {-done.returncode})"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"problem": lines[-1][:300]}


def judge_torch(torch: Dict[str, Any], numpy_version: str) -> List[Finding]:
    """Findings about torch and its devices.

    :param torch: the answer of :func:`probe_torch`.
    :param numpy_version: for the advice; empty when NumPy is missing.
    """
    problem = torch.get("problem", "")
    if "No module named 'torch'" in problem:
        return [Finding("torch", "problem", "is not installed", INSTALL_TORCH)]
    if problem:
        return [Finding("torch", "problem", problem, "Uninstall torch completely, then install it again.")]
    findings = [_judge_version(torch), *_judge_numpy_bridge(torch, numpy_version)]
    findings += [_judge_device(device) for device in torch["devices"]]
    has_cuda = any(device["name"].startswith("cuda") for device in torch["devices"])
    if shutil.which("nvidia-smi") and not has_cuda:
        reason = "torch is built for CPUs only" if not torch["cuda_build"] else "torch does not see it"
        remedy = "Install a torch with CUDA (pytorch.org, or Slicer's PyTorch extension), and a driver that fits it."
        findings.append(Finding("GPU", "warning", f"an NVIDIA driver is installed, but {reason}", remedy))
    return findings


def _judge_version(torch: Dict[str, Any]) -> Finding:
    version = torch["version"]
    text = f"{version}, {torch['threads']} threads of {os.cpu_count()} CPUs"
    if tuple(int(part) for part in version.split("+")[0].split(".")[:2]) < MIN_TORCH:
        minimum = ".".join(map(str, MIN_TORCH))
        return Finding("torch", "problem", f"{version} is too old", f"Install torch {minimum} or newer.")
    return Finding("torch", "ok", text)


def _judge_numpy_bridge(torch: Dict[str, Any], numpy_version: str) -> List[Finding]:
    if not torch["numpy_problem"]:
        return []
    return [
        Finding(
            "torch and NumPy",
            "problem",
            f"torch {torch['version']} cannot exchange arrays with NumPy {numpy_version} ({torch['numpy_problem']})",
            "Install `numpy<2` (the way on Intel Macs, where torch ends at 2.2.2) or a newer torch.",
        )
    ]


def _judge_device(device: Dict[str, Any]) -> Finding:
    name = device["name"]
    label = f" ({device['label']})" if device.get("label") else ""
    memory = f", {device['memory_bytes'] / 2**30:.0f} GiB" if device.get("memory_bytes") else ""
    if device["works"]:
        return Finding(name, "ok", f"computes{label}{memory}")
    status = "problem" if name == "cpu" else "warning"
    remedy = "Reinstall torch." if name == "cpu" else "Use --device cpu, or another version of torch."
    return Finding(name, status, f"is listed{label} but does not compute ({device['problem']})", remedy)


def _memory() -> Dict[str, Optional[int]]:
    from SAMv2Core.embedding.memory import available_bytes

    return {"available_bytes": available_bytes()}


def _judge_memory(memory: Dict[str, Optional[int]]) -> Finding:
    available = memory["available_bytes"]
    if available is None:
        return Finding("memory", "ok", "not known on this platform")
    text = f"{available / 2**30:.1f} GiB available"
    if available < 2 * 2**30:
        return Finding("memory", "warning", text, "Close other programs; large scans need 1.5 GiB or more.")
    return Finding("memory", "ok", text)


def _cache() -> Tuple[Dict[str, Any], List[Finding]]:
    from SAMv2Core.embedding.cache import ENVIRONMENT_VARIABLE, Cache

    cache = Cache()
    facts: Dict[str, Any] = {"folder": str(cache.folder), "bytes": cache.size_bytes(), "max_bytes": cache.max_bytes}
    existing = next(path for path in (cache.folder, *cache.folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        remedy = f"Set {ENVIRONMENT_VARIABLE} to a folder of yours; without it every scan is embedded anew."
        return facts, [Finding("cache", "warning", f"{cache.folder} cannot be written", remedy)]
    size = f"{facts['bytes'] / 2**30:.2f} of at most {facts['max_bytes'] / 2**30:.0f} GiB"
    return facts, [Finding("cache", "ok", f"{cache.folder}, {size}")]


def _models() -> Tuple[List[Dict[str, Any]], List[Finding]]:
    from SAMv2Core.models import library

    facts: List[Dict[str, Any]] = []
    findings: List[Finding] = []
    for info in library.list_models():
        if not info.is_ready:
            facts.append({"name": info.name, "state": "absent", "file": None, "sha256": None, "trusted": False})
            continue
        state = "bundled" if info.origin == "bundled" else "ready"
        try:
            info = library.verify(info.name)
            findings.append(Finding(f"model {info.name}", "ok", f"{state}, {_trust(info)}"))
        except ModelError as error:
            state = "damaged"
            findings.append(Finding(f"model {info.name}", "warning", error.cause, error.remedy))
        file, sha256 = str(info.path), info.sha256 or None
        facts.append({"name": info.name, "state": state, "file": file, "sha256": sha256, "trusted": info.trusted})
    if not any(model["state"] in ("bundled", "ready") for model in facts):
        remedy = "Install SAMv2 again (weights come with it), or run `samv2 models download sampp`."
        findings.append(Finding("models", "problem", "no model is here", remedy))
    absent = [model["name"] for model in facts if model["state"] == "absent"]
    if absent:
        findings.append(Finding("models", "ok", f"not downloaded: {', '.join(absent)} (samv2 models download NAME)"))
    return facts, findings


def _trust(info: ModelInfo) -> str:
    known = "hash as published with this program" if info.trusted else "hash not known to this program"
    return f"{known} ({info.sha256[:12]})"
