"""Lesions followed as studies arrive: a watcher beside an Orthanc.

When a study is complete (Orthanc calls it stable), ``samv2 batch track`` finds the patient's prior with a report of
lesions (TID 1500), follows these into the new study, and stores the new report beside it. Nothing is compared twice,
and what was not finished when the watcher was ended is begun again. See README.md beside this file::

    python watcher.py --orthanc http://127.0.0.1:8042 --work work/ -- --rules rules.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, List, Optional

_SECONDS = 60.0
_AT_ONCE = 100


def run_samv2(arguments: List[str]) -> int:
    """A process of its own: whatever a study does to it, the watcher goes on."""
    return subprocess.run([sys.executable, "-m", "SAMv2Core", *arguments], check=False).returncode


class Watcher:
    """What has arrived in an Orthanc, and what was done about it.

    :param orthanc: its address; :param work: folder for results and for the number of the last change seen.
    :param options: further ones of ``samv2 batch track``.
    """

    def __init__(
        self, orthanc: str, work: Path, options: Optional[List[str]] = None, run: Callable[..., int] = run_samv2
    ) -> None:
        self._orthanc, self._work, self._options, self._run = orthanc.rstrip("/"), work, options or [], run
        self._seen = work / "last-change"
        work.mkdir(parents=True, exist_ok=True)

    def look(self) -> List[str]:
        """Handle what has arrived since the last look; the UIDs of the studies that were looked at."""
        looked_at: List[str] = []
        while True:
            since = int(self._seen.read_text()) if self._seen.exists() else 0
            found = self._ask(f"/changes?since={since}&limit={_AT_ONCE}")
            for change in found["Changes"]:
                uid = self._uid_of(change["ID"]) if change["ChangeType"] == "StableStudy" else None
                # The report that we have stored makes the study arrive once more.
                if uid is not None and not (self._work / uid / "summary.csv").exists():
                    self._track(uid)
                    looked_at.append(uid)
                self._seen.write_text(str(change["Seq"]))
            if found["Done"]:
                return looked_at

    def _uid_of(self, name: str) -> Optional[str]:
        """Study Instance UID of what Orthanc calls by a name of its own; None: deleted in the meantime."""
        try:
            return str(self._ask(f"/studies/{name}")["MainDicomTags"]["StudyInstanceUID"])
        except urllib.error.HTTPError:
            return None

    def _track(self, uid: str) -> None:
        folder = self._work / uid
        archive = ["--archive", f"{self._orthanc}/dicom-web", "--studies", uid, "--stow"]
        code = self._run(["batch", "track", *archive, "--output", str(folder), "--resume", *self._options])
        print(f"{uid}: exit code {code}", flush=True)

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self._orthanc + path, timeout=_SECONDS) as answer:
            return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orthanc", default="http://127.0.0.1:8042", help="default: %(default)s")
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between looks; default: %(default)s")
    parser.add_argument("options", nargs="*", help="after --: further options of samv2 batch track")
    args = parser.parse_args()
    watcher = Watcher(args.orthanc, args.work, args.options)
    while True:
        try:
            watcher.look()
        except OSError as error:  # Orthanc is being restarted
            print(f"{args.orthanc}: {error}", file=sys.stderr, flush=True)
        time.sleep(args.every)


if __name__ == "__main__":
    main()
