"""Memory of a client and its child process while a scan goes from one to the other and is embedded there.

    python -m Testing.benchmarks.child_memory [--shape 600 512 512]

Linux only (``/proc``). Of each process its own memory (anonymous pages) and what both see (shared memory), at most,
less what they took before. The scan, a cylinder of 16-bit voxels, is in the client before: so a second copy is the
shared memory, and a third would be seen as as much of anybody's own.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from typing import Dict

import numpy as np

from SAMv2Core.io.volume import Volume
from SAMv2Core.serve.child_link import ChildLink
from SAMv2Core.serve.client import Client, Scan

MIB = 2**20


def memory(pid: int) -> Dict[str, float]:
    """MiB of a process: ``Pss_Anon``, its own, and ``Pss_Shmem``, its part of what is shared."""
    with open(f"/proc/{pid}/smaps_rollup") as stream:
        parts = [line.split() for line in stream]
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, *_ in parts if name in ("Pss_Anon:", "Pss_Shmem:")}


def cylinder(shape_zyx) -> Volume:
    """A body of some soft tissue and noise, 0.7 x 0.7 x 1 mm."""
    rng = np.random.default_rng(0)
    y, x = np.indices(shape_zyx[1:])
    inside = np.hypot((y / shape_zyx[1] - 0.5) / 0.39, (x / shape_zyx[2] - 0.5) / 0.45) < 1
    array = np.empty(shape_zyx, np.int16)
    for plane in array:
        plane[...] = np.where(inside, 40, -1000) + rng.integers(-20, 20, inside.shape)
    return Volume(array, np.diag([0.7, 0.7, 1.0, 1.0]), modality="ct")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(600, 512, 512), metavar=("Z", "Y", "X"))
    volume = cylinder(tuple(parser.parse_args().shape))
    link = ChildLink()
    link.start()
    client = Client(link, has_event_loop=True)  # as in 3D Slicer
    about = client.request("info", {})  # loads PyTorch there
    while not about.is_done:
        client.poll(0.05)
    pids = {"client": os.getpid(), "child": link.pid}
    before = {name: memory(pid) for name, pid in pids.items()}
    peak, is_over = dict.fromkeys(("client", "child", "shared"), 0.0), threading.Event()

    def watch() -> None:
        while not is_over.wait(0.05):
            now = {name: memory(pid) for name, pid in pids.items()}
            for name in pids:
                peak[name] = max(peak[name], now[name]["Pss_Anon"] - before[name]["Pss_Anon"])
            peak["shared"] = max(peak["shared"], sum(one["Pss_Shmem"] for one in now.values()))

    watching = threading.Thread(target=watch)
    watching.start()
    start = time.monotonic()
    scan = Scan(volume, "scan", options={"modality": "ct", "cache": False})
    facts = client.run(client.steps("embed", [scan], lambda: {"source": scan.source()}))["embeddings"][0]
    seconds = time.monotonic() - start
    is_over.set()
    watching.join()
    link.kill()
    print(f"scan {volume.array.nbytes / MIB:.0f} MiB, embedding {facts['nbytes'] / MIB:.0f} MiB, {seconds:.0f} s")
    print("; ".join(f"{name} {peak[name]:.0f} MiB" for name in peak), "at most, more than before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
