"""What is kept of a benchmark: one small JSON per table, with all that is needed to measure it again.

``Testing/benchmarks/reports/NAME.json`` is written by a benchmark's ``--publish`` and read by
:mod:`Testing.benchmarks.page`, which makes every figure of README, model cards and ``Resources/Benchmarks.md`` of it.
Single trials are not kept (that is what ``--report`` is for).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("reports")
# Options that say where files are, not what was measured.
PLACES = (
    "--data",
    "--report",
    "--trials",
    "--cases",
    "--samples",
    "--plot",
    "--picture",
    "--cache",
    "--publish",
    "--tours",
    "--smaller",
)


@dataclasses.dataclass(frozen=True)
class Report:
    """One benchmark's result.

    :param table: Markdown, line by line, as the benchmark prints it.
    :param rows: the same as numbers, in mm and shares of 1; empty where only the table is known.
    :param notes: Markdown paragraphs on these figures; a new run begins without any.
    :param transcribed: the table was carried over from a text: its trials, and intervals not told here, are lost.
    """

    command: str
    date: str
    commit: str
    machine: str
    model: str
    sha256: str
    data: str
    table: List[str]
    rows: List[Dict[str, Any]]
    notes: List[str] = dataclasses.field(default_factory=list)
    transcribed: bool = False

    def row(self, **facts: str) -> Dict[str, Any]:
        """The one row with these facts, as ``row(experiment="simulated follow-up", method="default")``."""
        (found,) = [row for row in self.rows if all(row.get(key) == value for key, value in facts.items())]
        return found


def names() -> List[str]:
    """All that is kept."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Report:
    """A report that was kept.

    :raises FileNotFoundError: no benchmark has published this name.
    """
    return Report(**json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def save(
    name: str,
    table: str,
    rows: Sequence[Dict[str, Any]],
    model: str = "–",
    sha256: str = "",
    data: str = "",
) -> Path:
    """Keep a result of this process, and what it was measured with.

    :param table: Markdown.
    :param data: in words, how many scans of which folders.
    """
    report = Report(
        command=command(),
        date=datetime.now(timezone.utc).date().isoformat(),
        commit=commit(),
        machine=machine(),
        model=model,
        sha256=sha256,
        data=data,
        table=table.splitlines(),
        rows=list(rows),
    )
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def command(argv: Optional[Sequence[str]] = None) -> str:
    """The command line of this process, without the options that name places."""
    program, *arguments = sys.argv if argv is None else argv
    kept, skip = [f"python -m Testing.benchmarks.{Path(program).stem}"], False
    for argument in arguments:
        if argument.startswith("--"):
            skip = argument.split("=")[0] in PLACES
        if not skip:
            kept.append(argument)
    return " ".join(kept)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def commit() -> str:
    """The commit of the checkout; ``unknown`` without git."""
    return _git("rev-parse", "--short", "HEAD") or "unknown"


def is_dirty() -> bool:
    """Whether code or weights differ from the commit (documents and reports may)."""
    code = ("SAMv2Core", "Training", "Testing", "Resources/Models", ":!*.md", ":!Testing/benchmarks/reports")
    return bool(_git("status", "--porcelain", "--", *code))


def machine() -> str:
    """Processor, how many of its cores, how busy it was, accelerator."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    facts = [f"{os.cpu_count()} cores of {name}"]
    if hasattr(os, "getloadavg"):
        facts.append(f"load {os.getloadavg()[0]:.0f}")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts.append(torch.cuda.get_device_name())
    return ", ".join(facts)
