"""The two packages that users get, built here: the wheel of pip and the extension of Slicer (with a stub of Slicer)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List, Set

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "Testing" / "cmake_stub"
MODULES = "lib/Slicer-5.12/qt-scripted-modules"


def files_below(folder: Path) -> Set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in paths}


def core_files() -> Set[str]:
    return files_below(ROOT / "SAMv2Core") - {"CMakeLists.txt"}


def model_files() -> Set[str]:
    return files_below(ROOT / "Resources" / "Models")


def run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="the build backend is not installed (pip install '.[test]')")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    run(*pip, "--wheel-dir", str(folder), str(ROOT))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def extension(tmp_path_factory) -> Path:
    """The folder into which CMake installs the extension."""
    missing = [tool for tool in ("cmake", "cc", "c++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    build, prefix = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("package")
    run("cmake", "-S", str(ROOT), "-B", str(build), f"-DSlicer_DIR={STUB}")
    run("cmake", "--install", str(build), "--prefix", str(prefix))
    return prefix / MODULES


def test_wheel_holds_core_and_models_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    expected = {f"SAMv2Core/{name}" for name in core_files()} | {f"SAMv2Core/_models/{name}" for name in model_files()}
    assert ours == expected


def test_wheel_metadata(wheel):
    import SAMv2Core

    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE.txt")]
    assert f"\nVersion: {SAMv2Core.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.9\n" in metadata
    required = re.findall(r"^Requires-Dist: ([A-Za-z0-9]+)[^;\n]*$", metadata, re.MULTILINE)
    assert {name.lower() for name in required} == {"numpy", "pydicom", "scipy", "simpleitk", "torch"}
    assert "samv2 = SAMv2Core.__main__:main" in entry_points
    assert len(licences) == 1


def test_extension_holds_core_and_models(extension):
    expected = core_files() | {f"_models/{name}" for name in model_files()}
    assert files_below(extension / "SAMv2Core") == expected


def test_extension_holds_the_module_and_its_library(extension):
    installed = {name for name in files_below(extension) if not name.startswith("SAMv2Core/")}
    assert "SAMv2Slicer.py" in installed
    source = files_below(ROOT / "SAMv2Slicer")
    assert installed == {name for name in source if not name.startswith("Testing/") and name != "CMakeLists.txt"}


def test_cmake_stops_at_a_listed_file_that_does_not_exist(tmp_path):
    """The stub must be as strict as Slicer, or the tests above would prove nothing."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(Broken LANGUAGES NONE)\nfind_package(Slicer REQUIRED)\n"
        "include(${Slicer_USE_FILE})\nslicerMacroBuildScriptedModule(NAME Broken SCRIPTS missing.py)\n"
    )
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), f"-DSlicer_DIR={STUB}"]
    assert subprocess.run(command, capture_output=True, timeout=100, check=False).returncode != 0


def pins() -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {}
    for line in (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, pin = re.fullmatch(r"([\w.-]+)==([^ ;]+)(?: ; .*)?", line).groups()
            found.setdefault(name.lower().replace("_", "-"), []).append(pin)
    return found


def test_everything_that_is_required_is_pinned():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'"([A-Za-z][\w.-]*)[^"\[\]]*?[><=]=[^"]*"', text.split("[project.scripts]")[0])
    names = {name.lower().replace("_", "-") for name in listed if name.lower() != "python"}
    assert {"numpy", "torch", "pytest", "ruff", "hatchling"} <= names
    assert names <= set(pins())


def test_root_cmake_is_what_the_extensions_index_reads():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    # The index takes the first textual match, comments included.
    assert re.search(r"project\((\w+)", text).group(1) == "SAMv2"
    for key in ("ICONURL", "SCREENSHOTURLS", "HOMEPAGE"):
        assert re.search(rf'^set\(EXTENSION_{key} "https://[^"?]+"\)$', text, re.MULTILINE), key
    assert 'set(EXTENSION_DEPENDS "PyTorch")' in text


def test_pictures_named_in_cmake_exist():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    paths = re.findall(r"SlicerSAMv2/main/([\w./-]+)", text)
    assert len(paths) >= 2
    for path in paths:
        assert (ROOT / path).is_file(), path


def test_one_home_page():
    """pyproject.toml, CMakeLists.txt, CITATION.cff and the command line send people to one place."""
    found = set()
    for name in ("pyproject.toml", "CMakeLists.txt", "CITATION.cff", "SAMv2Core/cli/session.py"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found |= set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", text))
    assert len(found) == 1, found


def test_version_is_the_same_everywhere():
    import SAMv2Core

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {SAMv2Core.__version__}\n" in citation
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE).group(1) == SAMv2Core.__version__


def test_models_registry_is_valid_json():
    """Slicer and the wheel carry it as data: a stray comma would be found by users first."""
    json.loads((ROOT / "SAMv2Core" / "models" / "models.json").read_text(encoding="utf-8"))


def test_the_entry_for_slicers_index_names_this_extension():
    """Schema 1.0.2 of the Extensions Index: the file is named as the project and knows no other keys."""
    entry = json.loads((ROOT / "Resources" / "ExtensionsIndex" / "SAMv2.json").read_text(encoding="utf-8"))
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"project\((\w+)", text).group(1) == "SAMv2"
    optional = {"scm_revision", "scm_type", "build_dependencies", "build_subdirectory", "tier", "enabled"}
    assert {"$schema", "category", "scm_url"} <= set(entry) <= {"$schema", "category", "scm_url", *optional}
    values = dict(re.findall(r'set\(EXTENSION_(\w+) "([^"]*)"\)', text))
    assert entry["scm_url"] == values["HOMEPAGE"] + ".git" and entry["category"] == values["CATEGORY"]
    assert entry["build_dependencies"] == [values["DEPENDS"]] and str(entry["tier"]) == values["TIER"]
    assert all(values[name] for name in ("CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "KEYWORDS"))
    for address in [values["ICONURL"], *values["SCREENSHOTURLS"].split()]:
        assert (ROOT / address.split("/main/")[1]).is_file(), address
