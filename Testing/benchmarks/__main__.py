"""The benchmarks one after the other, each in a process of its own.

    python -m Testing.benchmarks [NAME ...] [--publish]          (make benchmark)

Each prints its table as Markdown; the names are the modules of this folder. ``--publish`` is handed to those that have
it: they keep their tables and write README, cards and Resources/Benchmarks.md anew.
"""

import subprocess
import sys

BENCHMARKS = ("accuracy", "robustness", "embedding", "matching", "registration", "slicer")
OTHERS = ("batch", "calibration", "ctmr", "ctmr_deformable", "ctmr_matching", "tracking")
PRINT_ONLY = ("batch", "embedding", "matching")


def main() -> int:
    publish = [argument for argument in sys.argv[1:] if argument == "--publish"]
    chosen = [argument for argument in sys.argv[1:] if argument not in publish] or BENCHMARKS
    unknown = [name for name in chosen if name not in BENCHMARKS + OTHERS]
    if unknown:
        print(f"No such benchmark: {', '.join(unknown)}. There are: {', '.join(BENCHMARKS + OTHERS)}.")
        return 2
    failed = []
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        options = [] if name in PRINT_ONLY else publish
        if subprocess.run([sys.executable, "-m", f"Testing.benchmarks.{name}", *options], check=False).returncode:
            failed.append(name)
    print(f"\nFailed: {', '.join(failed)}" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
