"""``python -m SAMv2Core`` and the console script ``samv2``."""

from __future__ import annotations

import sys

from SAMv2Core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
