"""How the commands of this folder end: with the exit codes of the command line ``samv2``, and without a traceback for
what the user can mend."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Callable, Optional

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.io.files import output_error

INTERRUPTED = 130


def finish(work: Callable[[], object], out: Optional[Path] = None) -> int:
    """Do the work of a command; its progress and errors go to stderr.

    :param out: what the command writes, to be named when the system refuses to write it.
    :returns: the exit code: 0; that of a :class:`SAMv2Error` (2 usage, 3 data, 4 model, 5 memory, 6 not reliable);
        3 when a file cannot be written; 130 when interrupted.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        work()
    except SAMv2Error as error:
        return _failed(error)
    except OSError as error:
        if out is None:
            raise
        return _failed(output_error(error.filename or out, error))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on where it was (Training.train: with --resume).", file=sys.stderr)
        return INTERRUPTED
    return 0


def _failed(error: SAMv2Error) -> int:
    print(f"error: {error.cause}\n{error.remedy}", file=sys.stderr)
    return error.exit_code
