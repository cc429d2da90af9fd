"""The shape of the code base: who may import whom, what loads torch, what Slicer packages.

CONTRIBUTING.md gives the reasons; here they are enforced by parsing the sources (nothing is imported).
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "SAMv2Core"

# From the ground up. A folder imports from its own line and from the lines above it, never from those below.
LAYERS = (
    ("errors", "progress"),
    ("geometry", "network"),
    ("io",),
    ("models", "preprocessing", "simulation"),
    ("embedding",),
    ("matching",),
    ("tracking", "registration", "landmarks"),
    ("evaluation", "batch", "serve"),
    ("demo", "diagnosis"),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# `samv2 models`, `samv2 doctor`, reading and writing files must work where torch is missing or broken: these folders
# and modules load no torch.
TORCH_FREE = {
    "__init__", "__main__", "errors", "progress", "geometry", "io", "preprocessing", "simulation", "diagnosis", "batch",
    "serve", "cli", "matching.result", "matching.search_mask", "tracking.finding", "tracking.assignment",
    "landmarks.landmark", "landmarks.atlas", "registration.choice", "registration.verdict", "registration.deformable",
    "models.library", "models.catalogue", "models.records", "models.download", "network.precision",
    "embedding.cache", "embedding.memory",
}  # fmt: skip


class Import(NamedTuple):
    target: str  # dotted name
    line: int
    at_file_scope: bool


def python_files(folder: Path) -> List[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def walk(node: ast.AST, deferred: bool = False) -> Iterator[Import]:
    """Every import below ``node``; those under ``if TYPE_CHECKING`` do not exist at run time and are skipped."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, not deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import (write the full name)"
            yield Import(child.module or "", child.lineno, not deferred)
            # `from SAMv2Core import geometry` names a module too.
            yield from (Import(f"{child.module}.{alias.name}", child.lineno, not deferred) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from walk(other, deferred)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, deferred or is_function)


@functools.cache
def imports_of(path: Path) -> List[Import]:
    return list(walk(ast.parse(path.read_text(encoding="utf-8"), str(path))))


def unit_of(path: Path) -> str:
    """``SAMv2Core/network/lite.py`` -> ``network``: a folder is one unit of the layering."""
    return path.relative_to(CORE).parts[0].replace(".py", "")


def core_units(imported: Import) -> Set[str]:
    parts = imported.target.split(".")
    return {parts[1]} & set(LEVEL) if parts[0] == "SAMv2Core" and len(parts) > 1 else set()


def all_imports(folder: Path) -> Iterator[tuple]:
    for path in python_files(folder):
        for imported in imports_of(path):
            yield path, imported


def test_every_module_has_its_layer():
    units = {unit_of(path) for path in python_files(CORE)}
    assert units <= set(LEVEL), f"add to LAYERS, from the ground up: {sorted(units - set(LEVEL))}"


def test_imports_inside_core_go_one_way():
    wrong = []
    for path, imported in all_imports(CORE):
        source = unit_of(path)
        for target in core_units(imported):
            if LEVEL[target] <= LEVEL[source]:
                continue
            wrong.append(f"{path.relative_to(ROOT)}:{imported.line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles_at_file_scope():
    graph: Dict[str, Set[str]] = {}
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in python_files(CORE)}
    for name, path in names.items():
        found = {imported.target for imported in imports_of(path) if imported.at_file_scope}
        graph[name.replace(".__init__", "")] = {target for target in found if target in names} - {name}
    done: Set[str] = set()

    def visit(name: str, trail: List[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


@pytest.mark.parametrize(
    "package", ["slicer", "qt", "ctk", "vtk", "Training", "Testing", "SAMv2Slicer", "SAMv2SlicerLib"]
)
def test_core_stands_alone(package):
    wrong = [f"{path}:{i.line}" for path, i in all_imports(CORE) if i.target.split(".")[0] == package]
    assert not wrong, wrong


def test_training_does_not_know_slicer_or_tests():
    outside = {"slicer", "qt", "ctk", "Testing", "SAMv2Slicer", "SAMv2SlicerLib"}
    wrong = [f"{p}:{i.line}" for p, i in all_imports(ROOT / "Training") if i.target.split(".")[0] in outside]
    assert not wrong, wrong


def test_slicer_side_does_not_know_training_or_tests_and_loads_no_torch():
    wrong = []
    for path, imported in all_imports(ROOT / "SAMv2Slicer"):
        top = imported.target.split(".")[0]
        if top in {"Training", "Testing"} or (top == "torch" and imported.at_file_scope):
            wrong.append(f"{path.relative_to(ROOT)}:{imported.line} imports {imported.target}")
    assert not wrong, "\n".join(wrong)


def heavy_modules() -> Set[str]:
    """Dotted names of Core modules whose import loads torch, directly or through others."""
    direct: Dict[str, Set[str]] = {}
    for path in python_files(CORE):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).replace(".__init__", "")
        direct[name] = {imported.target for imported in imports_of(path) if imported.at_file_scope}
    heavy = {name for name, targets in direct.items() if any(t.split(".")[0] == "torch" for t in targets)}
    while True:
        more = {name for name, targets in direct.items() if targets & heavy} | heavy
        if more == heavy:
            return heavy
        heavy = more


def test_torch_free_modules_do_not_load_torch():
    names = {".".join(path.relative_to(CORE).with_suffix("").parts) for path in python_files(CORE)}
    free = {name for name in names if TORCH_FREE & {name, name.split(".")[0]}}
    assert not {f"SAMv2Core.{name}".replace(".__init__", "") for name in free} & heavy_modules()


def cmake_list(path: Path, variable: str) -> Set[str]:
    found = re.search(rf"set\({variable}\s(.*?)\)", path.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{path} sets no {variable}"
    return set(re.sub(r"#.*", "", found.group(1)).split())


def files_below(folder: Path) -> Set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    kept = (path for path in paths if "__pycache__" not in path.parts and path.name != "CMakeLists.txt")
    return {path.relative_to(folder).as_posix() for path in kept}


def test_cmake_lists_equal_the_tree_of_core():
    listing = CORE / "CMakeLists.txt"
    scripts, resources = (cmake_list(listing, f"MODULE_PYTHON_{kind}") for kind in ("SCRIPTS", "RESOURCES"))
    tree = files_below(CORE)
    assert scripts == {name for name in tree if name.endswith(".py")}
    assert resources == {name for name in tree if not name.endswith(".py")}


@pytest.mark.parametrize("folder", ["SAMv2Core", "Training", "SAMv2Slicer", "Testing", "Resources", "requirements"])
def test_syntax_is_that_of_python_3_9(folder):
    for path in python_files(ROOT / folder):
        if path.name != "lock.py":  # a maintainer's script for Python 3.11+
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


def test_every_module_of_core_says_why_it_exists():
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files(CORE)
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_library_does_not_print():
    """Results go to the caller and messages to logging; only the command line has a terminal."""
    wrong = []
    for path in python_files(CORE):
        if unit_of(path) in {"cli", "__main__"} or path.stem == "torch_probe":  # the last one is a program of its own
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong, wrong
