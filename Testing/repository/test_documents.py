"""What the documents state holds: paths and anchors exist, the command line is as described, figures are generated."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "Resources").rglob("*.md"), *(ROOT / "Training").glob("*.md")])
    if path.name != "CHANGELOG.md"
]
COMMAND_LINE = ROOT / "Resources" / "CommandLine.md"
LONGEST = {"README.md": 150, "Resources/Models/lite-ct.md": 60, "Resources/Models/lite-ctmr.md": 60}
# Places that exist in what users get, not in a checkout.
INSTALLED = {"SAMv2Core/_models"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> Set[str]:
    """GitHub's anchors of the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8").replace("\n", " ")):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong


def named_paths(text: str) -> Iterator[str]:
    """What stands in backticks and looks like a file or folder of the checkout."""
    made = ("runs", "demo-output", "build", "dist")  # what commands write, ignored by git
    folders = (p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith("."))
    tops = "|".join(re.escape(name) for name in folders if name not in made)
    for quoted in re.findall(r"`([^`\n]+)`", text):
        for word in quoted.split():
            if re.fullmatch(rf"(?:{tops})/[\w./-]*", word):
                yield word.rstrip(".")


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_files_and_folders_exist(document):
    named = set(named_paths(document.read_text(encoding="utf-8"))) - INSTALLED
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_sources_exist(document):
    """``panel.py`` or ``cli/main.py`` in backticks is the end of some file's path."""
    folders = ("SAMv2Core", "SAMv2Slicer", "Training", "Testing", "Resources", "requirements")
    files = [f"/{name_of(path)}" for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    named = re.findall(r"`((?:[\w.-]+/)*\w+\.(?:py|yaml))`", document.read_text(encoding="utf-8"))
    assert not [name for name in named if not any(file.endswith(f"/{name}") for file in files)]


def test_questions_lead_to_what_they_name():
    """The third column of CONTRIBUTING's table is defined in the file of the second."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| `([\w/.]+\.py)`.* \| `(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) > 15
    for path, name in rows:
        defined = rf"^\s*(?:def {name}\(|class {name}\b|{name}(?::.*)? = )"
        assert re.search(defined, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{name} in {path}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_modules_exist(document):
    """``python -m Training.prepare`` and the like, and ``Training.views.geometry`` in backticks."""
    text = document.read_text(encoding="utf-8")
    dotted = re.findall(r"-m ((?:Training|Testing|SAMv2Core)[\w.]*)", text)
    dotted += re.findall(r"`((?:Training|Testing)(?:\.\w+)+)`", text)
    missing = []
    for name in dotted:
        place = ROOT.joinpath(*name.rstrip(".").split("."))
        if not (place.with_suffix(".py").is_file() or place.is_dir()):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("document", LONGEST)
def test_short_documents_stay_short(document):
    assert len((ROOT / document).read_text(encoding="utf-8").splitlines()) <= LONGEST[document]


def leaves(parser: argparse.ArgumentParser, name: str = "samv2") -> Iterator[Tuple[str, argparse.ArgumentParser]]:
    """(name, parser) of every command that runs something."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not found:
        yield name, parser
    for action in found:
        for sub_name, sub_parser in action.choices.items():
            yield from leaves(sub_parser, f"{name} {sub_name}")


def parsers() -> Dict[str, argparse.ArgumentParser]:
    from SAMv2Core.cli.main import build_parser

    return dict(leaves(build_parser()))


def options_of(parser: argparse.ArgumentParser) -> Set[str]:
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


def sections(text: str) -> Dict[str, str]:
    """Heading -> the text below it, down to the next heading of any level."""
    parts: List[str] = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def named_options(text: str) -> Set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))


def test_every_command_and_option_is_described():
    described = sections(COMMAND_LINE.read_text(encoding="utf-8"))
    common = named_options(described["Options of many commands"]) | {"--help"}
    missing = []
    for name, parser in parsers().items():
        words = name.split()
        above = [" ".join(words[:n]) for n in range(2, len(words) + 1) if " ".join(words[:n]) in described]
        if not above or not any(name in described[heading] or heading == name for heading in above):
            missing.append(name)
        said = common | {option for heading in above for option in named_options(described[heading])}
        options = {o for o in options_of(parser) if not o.startswith(("--modality-", "--series-"))}
        missing += [f"{name} {option}" for option in sorted(options - said)]
    assert not missing, f"describe in {name_of(COMMAND_LINE)}"


def test_every_described_command_and_option_exists():
    described = sections(COMMAND_LINE.read_text(encoding="utf-8"))
    known = parsers()
    everywhere = set().union(*(options_of(parser) for parser in known.values()), {"--version"})
    assert named_options("\n".join(described.values())) <= everywhere
    for heading, text in described.items():
        if not heading.startswith("samv2 "):
            continue
        below = [options_of(parser) for name, parser in known.items() if f"{name} ".startswith(f"{heading} ")]
        assert below, f"no command {heading}"
        assert named_options(text) <= set().union(*below), heading


def test_options_in_example_files_exist():
    """Workflows and scripts of Resources/Examples name options that samv2 has, beside those of their own programs."""
    others = {"--snakefile", "--cores", "--results", "--host", "--port", "--nworkers", "--nthreads"}
    files = [path for path in (ROOT / "Resources" / "Examples" / "cohorts").iterdir() if path.is_file()]
    known = {
        option
        for name, parser in parsers().items()
        if name.split()[1] in ("track", "batch")
        for option in options_of(parser)
    }
    assert len(files) >= 4
    for path in files:
        text = "\n".join(
            line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#SBATCH")
        )
        assert "samv2 " in text and not named_options(text) - known - others, path


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_in_examples_are_understood(document):
    """``samv2 ...`` lines of code blocks name existing commands and options."""
    known, wrong = parsers(), []
    for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split(" #")[0].split()
            if words[:1] != ["samv2"]:
                continue
            named = [name for name in known if words[: len(name.split())] == name.split()]
            if not named or named_options(" ".join(words)) - options_of(known[named[0]]):
                wrong.append(line)
    assert not wrong
