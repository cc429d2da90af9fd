"""Write constraints.txt: the exact version of every package that `make` installs, per Python version.

pyproject.toml says *what* is needed, in ranges wide enough for 3D Slicer's own Python; this file's output says *which*
version a checkout gets, so that two machines run the same code and a figure in the README can be reproduced. One file
with environment markers serves every Python: pip applies the lines that fit.

Run it with any Python 3.11+ on Linux when a pin has to move::

    python requirements/lock.py python3.9 python3.10 python3.11

The newest interpreter given stands for all later ones. NVIDIA's libraries are left out: torch's own wheels on PyPI
require them by exact version, its CPU wheels do not want them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent

# The newest torch for which all figures in the README were measured. Python 3.9 ends at 2.8.0.
TORCH = {"3.9": "2.8.0"}
TORCH_DEFAULT = "2.13.0"

# PyTorch's last build for Intel Macs is 2.2.2, compiled against NumPy 1: with NumPy 2 `torch.from_numpy` fails.
INTEL_MAC = 'sys_platform == "darwin" and platform_machine == "x86_64"'
NOT_INTEL_MAC = '(sys_platform != "darwin" or platform_machine != "x86_64")'
INTEL_MAC_PINS = {"numpy": "1.26.4", "scipy": "1.13.1", "torch": "2.2.2", "matplotlib": "3.9.4"}

HEADER = """\
# Exact versions of everything that `make` installs; written by requirements/lock.py, not by hand.
# Ranges are in pyproject.toml. Usage: pip install -c requirements/constraints.txt '.[demo]'
"""


def python_version(interpreter: str) -> str:
    """``"3.9"`` for an interpreter's path or name."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([interpreter, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def wanted() -> list[str]:
    """Every requirement of pyproject.toml: the package's, all extras', the build backend's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = list(project["project"]["dependencies"]) + list(project["build-system"]["requires"]) + ["editables"]
    for extra in project["project"]["optional-dependencies"].values():
        lines += [line for line in extra if not line.startswith("samv2[")]
    return sorted(set(lines))


def resolve(interpreter: str, version: str) -> dict[str, str]:
    """Name -> version of the closure that pip picks for one interpreter; downloads metadata, installs nothing."""
    torch = TORCH.get(version, TORCH_DEFAULT)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [interpreter, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report"]
        subprocess.run([*command, str(report), f"torch=={torch}", *wanted()], check=True)
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = {item["metadata"]["name"].lower(): item["metadata"]["version"].split("+")[0] for item in installed}
    return {name: pin for name, pin in pins.items() if not name.startswith(("nvidia-", "cuda-", "triton"))}


def marker(versions: list[str], known: list[str]) -> str:
    """The environment marker for a run of consecutive Python versions, the last known one being open-ended."""
    first, last = versions[0], versions[-1]
    bounds = []
    if first != known[0]:
        bounds.append(f'python_version >= "{first}"')
    if last != known[-1]:
        bounds.append(f'python_version < "{known[known.index(last) + 1]}"')
    return " and ".join(bounds)


def lines(resolved: dict[str, dict[str, str]]) -> list[str]:
    """Constraint lines, packages in alphabetical order, equal pins of neighbouring Pythons merged."""
    known = list(resolved)
    output = []
    for name in sorted({name for pins in resolved.values() for name in pins}):
        runs: list[tuple[str, list[str]]] = []
        for version in known:
            pin = resolved[version].get(name)
            if pin is None:
                continue
            if runs and runs[-1][0] == pin:
                runs[-1][1].append(version)
            else:
                runs.append((pin, [version]))
        for pin, versions in runs:
            conditions = [marker(versions, known), NOT_INTEL_MAC if name in INTEL_MAC_PINS else ""]
            condition = " and ".join(text for text in conditions if text)
            output.append(f"{name}=={pin}" + (f" ; {condition}" if condition else ""))
        if name in INTEL_MAC_PINS:
            output.append(f"{name}=={INTEL_MAC_PINS[name]} ; {INTEL_MAC}")
    return output


def main(interpreters: list[str]) -> None:
    by_version = {python_version(interpreter): interpreter for interpreter in interpreters}
    ordered = sorted(by_version, key=lambda text: tuple(map(int, text.split("."))))
    resolved = {version: resolve(by_version[version], version) for version in ordered}
    path = ROOT / "requirements" / "constraints.txt"
    path.write_text(HEADER + "\n".join(lines(resolved)) + "\n", encoding="utf-8")
    print(f"{path}: {len(resolved)} Python versions")


if __name__ == "__main__":
    main(sys.argv[1:] or ["python3"])
