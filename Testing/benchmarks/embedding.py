"""Time and peak memory of embedding one volume, every configuration in a process of its own.

    python Testing/benchmarks/embedding.py [--image CT.nii.gz] [--model lite-ct] [--quick]

Prints a Markdown table. Seconds on one machine mean little on another, so each row gives its ratio to the
first one (the whole volume at once, float32, default allocator), which runs again at the end: how far the two
differ is the noise of the run. CPU seconds are user and system time of the embedding alone; the peak is the
resident memory of the whole process, imports and the reading of the volume included, which is what
``--max-memory`` bounds. Without an image a synthetic torso of 180 x 150 x 250 voxels (x, y, z) at 2 mm is
embedded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parents[2]
TORSO_ZYX = (250, 150, 180)
BASELINE: Dict[str, Any] = {"slab": 10**6, "malloc": False, "precision": "fp32"}


def configurations(quick: bool) -> List[Dict[str, Any]]:
    """The rows of the table; the baseline first and last."""
    from SAMv2Core.network.device import cpu_has_bf16

    rows = [
        {"title": "whole volume, fp32, default malloc", **BASELINE},
        {"title": "slabs of 64, fp32, default malloc", **BASELINE, "slab": 64},
        {"title": "slabs of 64, fp32, large blocks reused", **BASELINE, "slab": 64, "malloc": True},
        {"title": "as shipped"},
        {"title": "as shipped, `--max-memory 1.5`", "limit": 1.5},
        {"title": "from the cache", "cached": True},
    ]
    if cpu_has_bf16():
        rows.insert(5, {"title": "as shipped, `--precision bf16`", "precision": "bf16"})
    extra = [
        {"title": "whole volume, fp32, large blocks reused", **BASELINE, "malloc": True},
        {"title": "slabs of 32, fp32, large blocks reused", **BASELINE, "slab": 32, "malloc": True},
        {"title": "slabs of 16, fp32, large blocks reused", **BASELINE, "slab": 16, "malloc": True},
        {"title": "slabs of 8, fp32, large blocks reused", **BASELINE, "slab": 8, "malloc": True},
    ]
    return [*rows, *([] if quick else extra), {"title": "the first row again", **BASELINE}]


def build_model(name: str) -> Any:
    """A model by name, or an architecture with seeded random weights (``random-sampp``)."""
    import torch

    from SAMv2Core.embedding.model import Model
    from SAMv2Core.network.build import build_network
    from Testing.samples.embedding_samples import model_info, seeded

    architecture = name[7:] if name.startswith("random-") else None
    if architecture is None:
        from SAMv2Core.embedding.load import load_model

        return load_model(name, device="cpu")
    from SAMv2Core.network.fuse import fuse_for_inference

    with torch.no_grad():
        return Model(fuse_for_inference(seeded(build_network(architecture))), model_info(name))


def measure(task: Dict[str, Any]) -> Dict[str, Any]:
    """One embedding in this process."""
    import torch

    from SAMv2Core.embedding import memory
    from SAMv2Core.embedding import model as embed
    from SAMv2Core.embedding.cache import Cache
    from SAMv2Core.embedding.memory import current_rss_bytes, peak_rss_bytes
    from SAMv2Core.io.volume import read_volume

    torch.set_num_threads(task["threads"])
    volume = read_volume(task["image"])
    model = build_model(task["model"])
    if "slab" in task:
        embed.DEEPEST_CPU_SLAB = task["slab"]  # type: ignore[assignment]
        memory.COMFORTABLE_PROCESS_BYTES = 2**62
        memory.SHARE_OF_FREE = 1.0
    if task.get("malloc") is False:
        memory.reuse_large_blocks = contextlib.nullcontext  # type: ignore[assignment]
    cache: Optional[Cache] = None
    if task.get("cached"):
        cache = Cache(task["folder"])
        model.embed(volume, cache=cache, precision=task.get("precision", "auto"))
    before = current_rss_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    emb = model.embed(volume, cache=cache, precision=task.get("precision", "auto"), max_memory_gib=task.get("limit"))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "before_gib": (before or 0) / memory.GIB,
        "peak_gib": (peak_rss_bytes() or 0) / memory.GIB,
        "embedding_gib": emb.nbytes / memory.GIB,
        "lattice_zyx": emb.input_grid.shape_zyx,
    }


def in_a_child(task: Dict[str, Any]) -> Dict[str, Any]:
    """:func:`measure` in a fresh process, so that peaks and allocator states do not mix."""
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{task['title']} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def write_torso(path: Path) -> None:
    """The synthetic torso as a file, made here so that the children's memory is that of embedding alone."""
    from SAMv2Core.io.volume import write_volume
    from Testing.samples.embedding_samples import torso

    write_volume(torso(TORSO_ZYX), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", help="a volume instead of the synthetic torso")
    parser.add_argument("--model", default="random-lite", help="name or file, or random-ARCHITECTURE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="leave out the allocator and slab series")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.child:
        print(json.dumps(measure(json.loads(arguments.child))))
        return
    with tempfile.TemporaryDirectory() as folder:
        image = arguments.image or str(Path(folder) / "torso.nii.gz")
        if not arguments.image:
            write_torso(Path(image))
        common = {"image": image, "model": arguments.model, "threads": arguments.threads, "folder": folder}
        first: Optional[Dict[str, Any]] = None
        for task in configurations(arguments.quick):
            result = in_a_child({**common, **task})
            if first is None:
                first = result
                print_head(arguments, result)
            print(
                f"| {task['title']} | {result['cpu_s']:.1f} | {result['cpu_s'] / first['cpu_s']:.2f} "
                f"| {result['wall_s']:.1f} | {result['peak_gib']:.2f} |",
                flush=True,
            )


def print_head(arguments: argparse.Namespace, result: Dict[str, Any]) -> None:
    shape = " x ".join(str(n) for n in reversed(result["lattice_zyx"]))
    print(
        f"{arguments.model}, {shape} voxels (x, y, z) at 2 mm, {arguments.threads} thread(s); "
        f"{result['before_gib']:.2f} GiB before embedding, embedding {result['embedding_gib']:.2f} GiB\n\n"
        "| configuration | CPU s | ratio | wall s | peak GiB |\n|---|--:|--:|--:|--:|",
        flush=True,
    )


if __name__ == "__main__":
    main()
