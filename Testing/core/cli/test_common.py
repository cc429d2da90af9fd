"""The command line's own machinery: parsing, progress, warnings, endings, reports. No scan is read here."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

import pytest

from SAMv2Core.cli import common
from SAMv2Core.cli import main as cli_main
from SAMv2Core.cli.batch import _shared
from SAMv2Core.cli.common import open_cache
from SAMv2Core.cli.main import build_parser, main
from SAMv2Core.cli.match import conclude, describe, gist_of, map_path
from SAMv2Core.cli.progress import ProgressBar
from SAMv2Core.cli.session import Session, as_samv2_error
from SAMv2Core.embedding.cache import DEFAULT_MAX_BYTES
from SAMv2Core.errors import (
    Cancelled,
    InputError,
    MemoryLimitError,
    ModelError,
    OutputError,
    UnreliableResultError,
    UsageError,
)
from SAMv2Core.io.points import Point, PointList

ROOT = Path(__file__).resolve().parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def session(command, **options) -> Session:
    defaults = {"command": "test", "run": command, "report": None, "quiet": False, "log_level": "warning"}
    return Session(Namespace(**{**defaults, **options}))


def failing(error):
    def command(_session):
        raise error

    return command


# --- endings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("cause", "remedy"), 2),
        (InputError("cause", "remedy"), 3),
        (OutputError("cause", "remedy"), 3),
        (ModelError("cause", "remedy"), 4),
        (MemoryLimitError("cause", "remedy"), 5),
        (UnreliableResultError("cause", "remedy"), 6),
        (Cancelled(), 130),
        (MemoryError(), 5),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes"), 5),
        (OSError(28, "No space left on device"), 3),
        (ZeroDivisionError("a fault of ours"), 1),
    ],
)
def test_every_failure_has_its_code_and_two_lines(error, code, capsys):
    assert session(failing(error)).run() == code
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "remedy"]


def test_traceback_only_when_debugging(capsys):
    session(failing(ValueError("x"))).run()
    assert "Traceback" not in capsys.readouterr().err
    session(failing(ValueError("x")), log_level="debug").run()
    assert "Traceback" in capsys.readouterr().err


def test_a_cause_of_several_lines_becomes_one(capsys):
    session(failing(InputError("first\n  second", "do\nthis"))).run()
    assert capsys.readouterr().err == "error: first second\nremedy: do this\n"


def test_unexpected_errors_ask_for_a_report():
    assert "report this at https://" in as_samv2_error(KeyError("x")).remedy


# --- reports ------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_report_of_a_success(tmp_path):
    def command(running):
        running.declare()
        with running.stage("think", 0, 1):
            running.warn("mind the gap")
            running.warn("mind the gap")
        running.results["answer"] = float("nan")

    path = tmp_path / "report.json"
    assert session(command, report=str(path), threads=2).run() == 0
    report = read(path)
    assert report["command"] == "test" and report["options"]["threads"] == 2
    assert report["warnings"] == ["mind the gap"]
    assert report["answer"] is None
    assert list(report["seconds"]) == ["think"]
    assert (report["exit_code"], report["error"]) == (0, None)
    assert report["versions"]["samv2"]


@pytest.mark.parametrize("error", [InputError("cause", "remedy"), UnreliableResultError("cause", "remedy")])
def test_report_of_a_failure_keeps_the_results(tmp_path, error):
    def command(running):
        running.results["points"] = [1]
        raise error

    path = tmp_path / "report.json"
    session(command, report=str(path)).run()
    report = read(path)
    assert report["error"] == {"cause": "cause", "remedy": "remedy"}
    assert (report["exit_code"], report["points"]) == (error.exit_code, [1])


@pytest.mark.parametrize("error", [Cancelled(), UsageError("cause", "remedy")])
def test_no_report_of_a_command_that_was_interrupted_or_not_understood(tmp_path, error):
    path = tmp_path / "report.json"
    assert session(failing(error), report=str(path)).run() == error.exit_code
    assert not path.exists()


def test_outputs_are_refused_before_the_work(tmp_path):
    existing = tmp_path / "in.nii.gz"
    existing.touch()
    running = session(None, report=str(tmp_path / "r.json"))
    with pytest.raises(OutputError, match="also an input"):
        running.declare([str(existing)], [str(existing)])
    with pytest.raises(OutputError, match="does not exist"):
        running.declare([], [str(tmp_path / "missing" / "out.nii.gz")])
    with pytest.raises(UsageError, match="two outputs"):
        running.declare([], [str(tmp_path / "r.json")])


# --- messages and progress ----------------------------------------------------------------------------------------


def test_library_warnings_reach_the_user_once_and_python_warnings_do_not(capsys, tmp_path):
    def command(running):
        running.declare()
        for _ in range(2):
            logging.getLogger("SAMv2Core.io.volume").warning("3 voxels\nare NaN")
        logging.getLogger("SAMv2Core.io.volume").info("details")
        logging.getLogger("py.warnings").warning("deprecated thing of torch")

    path = tmp_path / "r.json"
    session(command, report=str(path)).run()
    assert capsys.readouterr().err == "warning: 3 voxels are NaN\n"
    assert read(path)["warnings"] == ["3 voxels are NaN"]


def test_logging_is_as_before_afterwards():
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    session(lambda running: None, log_level="debug").run()
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == (handlers, level)


def test_quiet_prints_no_results(capsys):
    session(lambda running: running.say("a table"), quiet=True).run()
    session(lambda running: running.say("a table")).run()
    assert capsys.readouterr().out == "a table\n"


def test_progress_is_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    stream, now = Terminal(), [0.0]
    bar = ProgressBar(stream, enabled=True, clock=lambda: now[0])
    part = bar.part(0.5, 1.0, "embed")
    for step in range(5):
        now[0] += 1.0
        part(step / 4, "a text that is much longer than this narrow terminal can show in one line")
    bar.clear()
    text = stream.getvalue()
    assert "\n" not in text
    assert "50%" in text and "100%" in text and "75%" in text
    assert all(len(piece) < 60 for piece in text.split("\r"))
    assert text.split("\r")[-2].strip() == ""


def test_progress_is_silent_elsewhere():
    stream = io.StringIO()
    ProgressBar(stream, enabled=True).update(0.5, "x")
    terminal = Terminal()
    ProgressBar(terminal, enabled=False).update(0.5, "x")
    assert stream.getvalue() == terminal.getvalue() == ""


def test_progress_is_not_redrawn_too_often():
    stream = Terminal()
    bar = ProgressBar(stream, enabled=True, clock=lambda: 0.0)
    for step in range(100):
        bar.update(step / 1000, "x")
    assert stream.getvalue().count("[") == 1


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["match"], "--template"),
        (["match", "--template", "a", "--query", "b", "--points", "p", "--output", "o.txt"], ".mrk.json"),
        (["register", "--fixed", "a", "--moving", "b", "--output", "t.nii"], ".h5"),
        (["embed", "--image", "a", "--output", "e.safetensors", "--max-memory", "-1"], "positive number"),
        (["embed", "--image", "a", "--output", "e.safetensors", "--threads", "0"], "positive whole number"),
        (["embed", "--image", "a", "--output", "e.safetensors", "--precision", "int3"], "int3"),
    ],
)
def test_wrong_usage(arguments, cause, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ") and cause in lines[0]
    assert lines[1].startswith("remedy: `samv2") and "--help" in lines[1]


@pytest.mark.parametrize("module", cli_main.COMMANDS, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_every_command_has_help_and_the_common_options(module, capsys):
    name = module.__name__.rsplit(".", 1)[-1]
    first = {"evaluate": ["landmarks"], "batch": ["match"]}.get(name, [])  # its parts are commands of their own
    assert main([name, *first, "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--report", "--quiet", "--log-level"):
        assert option in text or name == "models"


def test_common_options_of_the_contract():
    arguments = "match --template T --query Q --points P --output M.csv --model sam --modality-template ct "
    arguments += "--modality-query mr --device cuda:1 --precision bf16 --max-memory 1.5 --threads 2 --cache off "
    arguments += "--cache-size 0.5 --method nearest --similarity-map S.nii.gz --report R.json "
    arguments += "--quiet --log-level debug --series 1.2.3"
    args = build_parser().parse_args(arguments.split())
    assert (args.modality_template, args.modality_query, args.max_memory, args.threads) == ("ct", "mr", 1.5, 2)
    assert open_cache(args) is None


def test_the_cache_is_as_large_as_was_said(tmp_path):
    batch = "batch match --table T.csv --output O --cache-size 0.5 --cache"
    args = build_parser().parse_args([*batch.split(), str(tmp_path)])
    assert (open_cache(args).folder, open_cache(args).max_bytes) == (tmp_path, 2**29)
    assert _shared(args, ["cache_size"]) == ["--cache-size", "0.5"]
    alone = build_parser().parse_args(
        ["match", "--template", "T", "--query", "Q", "--points", "P", "--output", "M.csv"]
    )
    assert open_cache(alone).max_bytes == DEFAULT_MAX_BYTES


def test_version(capsys):
    import SAMv2Core

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"samv2 {SAMv2Core.__version__}"


def test_signal_handlers_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    main(["--version"])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_suffixes_of_outputs():
    assert common.volume_to_write("A.NII.GZ") == "A.NII.GZ"
    with pytest.raises(ArgumentTypeError, match="must end in"):
        common.volume_to_write("a.png")


@pytest.mark.parametrize(
    ("path", "own", "shared", "expected"),
    [
        ("two", "1", None, "two/1"),
        ("two", None, "2", "two/2"),
        ("two", "1", "2", "two/1"),
        ("one", None, "2", "one/None"),  # --series is meant for the other input
        ("two", None, "9", "two holds no series 9"),
        ("two", None, None, "two holds 2 series"),
    ],
)
def test_series_counts_where_it_names_one(monkeypatch, path, own, shared, expected):
    from SAMv2Core.io import volume

    held = {"one": {"0"}, "two": {"1", "2"}}

    def read(name, series=None):
        if series is not None and series not in held[name]:
            raise InputError(f"{name} holds no series {series}", "")
        if series is None and len(held[name]) > 1:
            raise InputError(f"{name} holds 2 series", "")
        return f"{name}/{series}"

    monkeypatch.setattr(volume, "read_volume", read)
    try:
        assert common._read_series(path, own, shared) == expected
    except InputError as error:
        assert error.cause == expected


# --- match --------------------------------------------------------------------------------------------------------


def test_names_of_similarity_maps():
    assert map_path("out/s.nii.gz", 1, "carina") == "out/s.nii.gz"
    assert map_path("out/s.nii.gz", 2, "left / kidney: top") == "out/s_2_left_kidney_top.nii.gz"
    assert map_path("s.nrrd", 3, "") == "s_3.nrrd"


def test_description_of_a_match_without_numbers():
    nothing = Namespace(status="not_found", similarity=float("nan"), cycle_error_mm=float("nan"), confidence=0.0)
    assert describe(nothing) == "status=not_found; confidence=0.00"
    found = Namespace(status="matched", similarity=0.91234, cycle_error_mm=2.25, confidence=0.876)
    assert describe(found) == "status=matched; similarity=0.912; cycle_error_mm=2.2; confidence=0.88"
    assert describe(None) == "status=not_found"


# --- import -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", ["SAMv2Core", "SAMv2Core.cli.main", "SAMv2Core.diagnosis.doctor", "SAMv2Core.cli.report"]
)
def test_import_does_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_public_functions_keep_their_names_when_submodules_are_imported():
    import SAMv2Core as s

    for name in ("matching.match", "registration.register", "preprocessing.preprocess", "tracking.track"):
        __import__(f"SAMv2Core.{name}")
        assert callable(getattr(s, name.split(".")[1])), name


def test_public_names_exist_and_are_listed():
    import SAMv2Core as s

    assert set(s.__all__) <= set(dir(s))
    for name in s.__all__:
        assert getattr(s, name) is not None
    with pytest.raises(AttributeError):
        s.no_such_name  # noqa: B018


def test_a_table_says_what_speaks_against_a_match():
    assert (
        gist_of("Needs a look: similarity is only 0.42; another place looks as similar.") == "similarity is only 0.42"
    )
    assert (
        gist_of("The point lies 12 mm outside the template scan.") == "The point lies 12 mm outside the template scan"
    )
    assert gist_of("Needs a look.") == "Needs a look"
    assert gist_of("") == ""


def test_a_value_with_a_minus_is_told_how_to_be_written(capsys):
    assert main(["where", "--image", "a.nii.gz", "--point", "-21.4,174.2,-494.3"]) == 2
    assert "--point=-21.4" in capsys.readouterr().err


def test_a_warning_names_ten_points_and_says_how_many_more():
    said = []
    session = Namespace(args=Namespace(query="b.nii.gz"), warn=said.append)
    points = PointList(tuple(Point(f"P{n}", (0.0, 0.0, 0.0)) for n in range(14)))
    matched = Namespace(status="matched", reason="")
    conclude(session, points, [None] * 13 + [matched])
    assert said == ["13 of 14 points not found: P0, P1, P2, P3, P4, P5, P6, P7, P8, P9 and 3 more"]
