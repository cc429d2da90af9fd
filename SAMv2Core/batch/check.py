"""Whether the files of a row are there and begin as they should: what a dry run can know without computing.

Of a volume the header is read, of a folder whether it holds anything, of points and lesions the whole file; of what
lies on a DICOMweb server whether it is there. A file that many rows share is looked at once.
"""

from __future__ import annotations

import os
from typing import Dict, Optional

from SAMv2Core.batch.table import Command, Row
from SAMv2Core.errors import InputError, SAMv2Error
from SAMv2Core.io import dicomweb
from SAMv2Core.io.files import suffix_of
from SAMv2Core.io.report_reader import is_report
from SAMv2Core.io.volume import check_header

_POINT_LISTS = (".mrk.json", ".json", ".fcsv", ".csv")

#: So many files are remembered: a template that all rows share is, the memory stays small.
_MOST_REMEMBERED = 10_000


class Inputs:
    """The files that were looked at. ``n_files`` counts them, a shared one once (while it is remembered)."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._seen: Dict[str, Optional[SAMv2Error]] = {}
        self.n_files = 0

    def problem_of(self, row: Row) -> Optional[SAMv2Error]:
        """The first thing that is wrong with the files of a row."""
        for column, path in row.inputs:
            if path not in self._seen:
                if len(self._seen) >= _MOST_REMEMBERED:
                    self._seen.clear()
                self.n_files += 1
                self._seen[path] = self._look_at(column, path)
            if self._seen[path] is not None:
                return self._seen[path]
        return None

    def _look_at(self, column: str, path: str) -> Optional[SAMv2Error]:
        try:
            if dicomweb.is_address(path):
                dicomweb.check(path)
                return None
            if not os.path.exists(path):
                raise InputError(f"{path} does not exist.", "Check the path.")
            if column in self._command.points and suffix_of(path) in _POINT_LISTS:
                self._read_points(column, path)
            elif column == "lesions" and is_report(path):
                pass  # read with the scan that it speaks of
            elif column not in self._command.other_files:
                check_header(path)
        except SAMv2Error as error:
            return error
        except OSError as error:
            return InputError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.")
        return None

    def _read_points(self, column: str, path: str) -> None:
        from SAMv2Core.io.lesions import read_lesions
        from SAMv2Core.io.points import read_points

        if column == "lesions":
            read_lesions(path)
        else:
            read_points(path)
