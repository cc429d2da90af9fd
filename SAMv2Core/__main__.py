"""``python -m SAMv2Core`` and the console script ``samv2``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; what can go wrong before it stands (a missing package, Ctrl-C) ends as tidily as later."""
    try:
        from SAMv2Core.cli.main import main as run
    except ModuleNotFoundError as error:
        name = (error.name or "?").split(".")[0]
        print(f"error: The Python package {name} is missing.", file=sys.stderr)
        print(f"remedy: Install it: pip install {name}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
