"""Seconds per matched point on a whole torso, beside a plain version of the official similarity search.

    python -m Testing.benchmarks.matching [--embeddings T Q] [--layout lite|official] [--threads 2]

Without files two synthetic embeddings are made: 250 x 150 x 180 voxels of 2 mm (z, y, x), a smooth anatomy
with noise, the light network's layout (two heads of 64 channels at 4 and 8 mm) or, with ``--layout
official``, three heads of 128 (coarse at 8 x 32 x 32 mm). Embeddings and search indices are in memory, as
after the first click.

*plain* follows the official code: cosine maps of every head over the whole fine lattice (coarse upsampled
beforehand, which the official code does for every point), their mean, upsampled trilinearly to the original
volume (here 250 slices of 512 x 512; also to the 2 mm lattice, for comparison), arg-max. It does one search,
while ours searches forth, back and for a rival, and refines between the voxels. Times are medians of wall
seconds and of CPU seconds; on a busy machine the latter are the ones to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
import torch.nn.functional as F

from SAMv2Core.embedding.embedding import Embedding, FeatureMap
from SAMv2Core.embedding.file import load_embedding
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.matching.match import match
from SAMv2Core.matching.search import release_index, search_index
from Testing.samples.synthetic_embeddings import AnatomyField, trunk

SHAPE_ZYX = (250, 150, 180)
ORIGINAL_ZYX = (250, 512, 512)
LAYOUTS: Dict[str, List[Tuple[str, Tuple[int, int, int], int]]] = {
    "lite": [("fine", (2, 2, 2), 64), ("coarse", (4, 4, 4), 64)],
    "official": [("fine", (2, 2, 2), 128), ("coarse", (4, 16, 16), 128), ("semantic", (2, 2, 2), 128)],
}


def synthetic_torso(layout: str, shift_mm: float, noise: float, seed: int) -> Embedding:
    """One of two scans of the same anatomy, moved along z, with noise of its own."""
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    matrix[:3, 3] = -(np.array(SHAPE_ZYX[::-1]) - 1)
    grid = Grid(SHAPE_ZYX, matrix)
    generator = torch.Generator().manual_seed(seed)
    heads: Dict[str, FeatureMap] = {}
    for number, (name, stride, channels) in enumerate(LAYOUTS[layout]):
        shape = tuple(-(-n // s) for n, s in zip(SHAPE_ZYX, stride))
        lattice = grid.strided(stride, shape)
        field = AnatomyField(number, channels, (40, 240) if name != "coarse" else (150, 600))
        vectors = torch.empty((channels, *shape), dtype=torch.float16)
        for z in range(shape[0]):
            j, i = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
            ijk = np.stack([i, j, np.full_like(i, z)], axis=-1).reshape(-1, 3)
            plane = torch.from_numpy(field(lattice.to_lps(ijk) + np.array([0, 0, shift_mm]))).float()
            extra = F.normalize(torch.randn(plane.shape, generator=generator), dim=1) * noise
            vectors[:, z] = F.normalize(plane + extra, dim=1).T.reshape(channels, *shape[1:])
        heads[name] = FeatureMap(name, vectors, lattice)
    fine = heads["fine"].grid
    k, j, i = np.meshgrid(*(np.arange(n) for n in fine.shape_zyx), indexing="ij")
    body = trunk(fine.to_lps(np.stack([i, j, k], -1).reshape(-1, 3)), (150, 110)).reshape(fine.shape_zyx)
    return Embedding(
        heads["fine"],
        heads["coarse"],
        heads.get("semantic"),
        body,
        grid,
        grid,
        "ct",
        f"synthetic-{layout}",
        "0" * 64,
    )


class PlainSearch:
    """Similarity volume of a given size and its arg-max, as the official code does it."""

    def __init__(self, query: Embedding, size_zyx: Tuple[int, ...]) -> None:
        self.maps = [query.fine.vectors.float()]
        size = query.fine.grid.shape_zyx
        coarse = F.interpolate(query.coarse.vectors.float()[None], size=size, mode="trilinear")[0]
        self.maps.append(F.normalize(coarse, dim=0))
        if query.semantic is not None:
            self.maps.append(query.semantic.vectors.float())
        self.size = size_zyx

    def __call__(self, vectors: List[torch.Tensor]) -> int:
        similarity = sum(torch.einsum("c,cdhw->dhw", v, m) for v, m in zip(vectors, self.maps)) / len(self.maps)
        return int(F.interpolate(similarity[None, None], size=self.size, mode="trilinear").argmax())


def seconds(call: Callable[[int], Any], repeats: int) -> Dict[str, float]:
    """Medians over ``repeats`` calls after one to warm up, milliseconds."""
    call(0)
    wall, cpu = [], []
    for number in range(repeats):
        start_wall, start_cpu = time.perf_counter(), time.process_time()
        call(number)
        wall.append(time.perf_counter() - start_wall)
        cpu.append(time.process_time() - start_cpu)
    return {
        "wall_ms": round(1e3 * float(np.median(wall)), 2),
        "cpu_ms": round(1e3 * float(np.median(cpu)), 2),
    }


def measure(template: Embedding, query: Embedding, repeats: int) -> Dict[str, Any]:
    start = time.perf_counter()
    built = search_index(query)
    index_seconds = time.perf_counter() - start
    index = search_index(template)
    rng = np.random.default_rng(0)
    points = index.points_lps(rng.integers(0, index.n_body, max(repeats, 10)))
    times = {
        method: seconds(lambda n, method=method: match(template, query, points[n : n + 1], method), repeats)
        for method in ("nearest", "fixed-point")
    }
    times["fixed-point, 10 points at once"] = seconds(
        lambda n: match(template, query, points[:10]), max(2, repeats // 5)
    )
    vectors = [m[:, 40, 30, 30] for m in PlainSearch(template, ()).maps]
    for name, size in (("plain, to the original size", ORIGINAL_ZYX), ("plain, to 2 mm", query.input_grid.shape_zyx)):
        plain = PlainSearch(query, size)
        times[name] = seconds(lambda n, plain=plain: plain(vectors), max(3, repeats // 4))
    ratios = {
        f"{name} / {method}": round(times[name]["cpu_ms"] / times[method]["cpu_ms"], 2)
        for name in times
        if name.startswith("plain")
        for method in ("nearest", "fixed-point")
    }
    release_index(template)
    release_index(query)
    return {
        "model": query.model,
        "fine_shape_zyx": list(query.fine.grid.shape_zyx),
        "body_voxels": built.n_body,
        "vector_length": int(built.rows.shape[1]),
        "directions": int(built.directions.shape[1]),
        "index_megabytes": round(built.nbytes / 1e6, 1),
        "index_seconds": round(index_seconds, 2),
        "times": times,
        "cpu_ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--embeddings",
        nargs=2,
        metavar=("TEMPLATE", "QUERY"),
        help="embedding files instead of synthetic ones",
    )
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="lite")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.embeddings:
        template, query = (load_embedding(path) for path in arguments.embeddings)
    else:
        template, query = (synthetic_torso(arguments.layout, 10.0 * n, 0.3, n) for n in range(2))
    result = measure(template, query, arguments.repeats)
    result["machine"] = {
        "threads": arguments.threads,
        "cores": os.cpu_count(),
        "load_average": [round(x, 1) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
