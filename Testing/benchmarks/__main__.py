"""All figures of the README, one benchmark after the other, each in a process of its own.

    python -m Testing.benchmarks [NAME ...]          (make benchmark)

Each prints its table as Markdown; the names are the modules of this folder.
"""

import subprocess
import sys

BENCHMARKS = ("accuracy", "robustness", "embedding", "matching", "registration", "slicer")


def main() -> int:
    chosen = sys.argv[1:] or BENCHMARKS
    unknown = [name for name in chosen if name not in (*BENCHMARKS, "calibration", "tracking")]
    if unknown:
        print(f"No such benchmark: {', '.join(unknown)}. There are: {', '.join(BENCHMARKS)}, calibration, tracking.")
        return 2
    failed = []
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"Testing.benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(f"\nFailed: {', '.join(failed)}" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
