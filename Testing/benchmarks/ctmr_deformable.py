"""What deforming on top of the rigid registration changes, on CT with MR.

    python -m Testing.benchmarks.ctmr_deformable [--pairs STS_006 ...] [--start ours|authors] [--model lite-ctmr]
                                                 [--data FOLDER] [--report R.json]

The MR (fixed) and its CT of ``ctmr/val``, registered rigidly by ours or taken as their authors aligned them, then
deformed by convexAdam. Measured inside the MR: overlap (Dice) of the bodies and mutual information on a 2 mm lattice,
and the distance to the authors' alignment, which is rigid itself and so no truth for a deformation.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch

from SAMv2Core.io.volume import Volume
from SAMv2Core.models.catalogue import model_info
from SAMv2Core.registration.deformable import Deformation, deform
from SAMv2Core.registration.register import register
from SAMv2Core.registration.tissue import TissueImage, mutual_information, sample, tissue_image
from Testing.benchmarks.common import add_publish_option, check_publish, find_data, keep
from Testing.benchmarks.ctmr import model_of, scan, target_points


def agreement(fixed: TissueImage, moving: TissueImage, moved_lps: np.ndarray) -> Dict[str, float]:
    """Dice of the bodies and mutual information; the fixed lattice lies at ``moved_lps`` in the moving scan."""
    where = torch.from_numpy(moved_lps)
    theirs = sample(moving.shares, moving.grid, where)  # (A, N)
    body = sample(moving.body.float()[None], moving.grid, where)[0] > 0.5
    scanned = (fixed.shares.sum(0).reshape(-1) > 0.5) & (theirs.sum(0) > 0.5)
    ours = fixed.body.reshape(-1)[scanned]
    both = float((ours & body[scanned]).sum())
    joint = torch.einsum("an,bn->ab", theirs[:, scanned], fixed.shares.reshape(len(fixed.shares), -1)[:, scanned])
    total = float(ours.sum() + body[scanned].sum())
    return {"dice": 2 * both / max(total, 1.0), "information": float(mutual_information(joint[..., None])[0])}


def lattice_points(image: TissueImage) -> np.ndarray:
    """(N, 3) LPS mm of all voxels, in the order of the arrays."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in image.body.shape), indexing="ij")
    return image.grid.to_lps(np.stack([i, j, k], axis=-1).reshape(-1, 3))


def displaced(deformation: Deformation, points_lps: np.ndarray) -> np.ndarray:
    """(N, 3) points after matrix and field, trilinear; quicker than point by point through ITK."""
    vectors = torch.from_numpy(np.moveaxis(deformation.vectors, -1, 0).copy())
    field = sample(vectors, deformation.grid, torch.from_numpy(points_lps)).T.numpy()
    return (points_lps + field) @ deformation.matrix[:3, :3].T + deformation.matrix[:3, 3]


def start_of(mr: Volume, ct: Volume, model: str) -> np.ndarray:
    net = model_of(model)
    found = register(net.embed(mr, "mr"), net.embed(ct, "ct"), fixed_volume=mr, moving_volume=ct)
    return found.matrix


def measure(mr: Volume, ct: Volume, matrix: np.ndarray) -> List[Dict[str, Any]]:
    """Rows before and after; the authors' alignment is the identity."""
    began = time.process_time()
    deformation = deform(mr, ct, matrix)
    seconds = time.process_time() - began
    fixed, moving = tissue_image(mr, "mr"), tissue_image(ct, "ct")
    points, body = lattice_points(fixed), target_points(mr)
    rigid = Deformation(matrix, np.zeros_like(deformation.vectors), deformation.grid, 0.0)
    rows = []
    for title, used, cost in (("rigid", rigid, None), ("+ convexAdam", deformation, seconds)):
        off = np.linalg.norm(displaced(used, body) - body, axis=1)
        rows.append(
            {"way": title, **agreement(fixed, moving, displaced(used, points)), "authors_mm": float(off.mean()),
             "folded": used.folded, "moved_mm": used.to_report()["median_mm"], "cpu_s": cost}
        )  # fmt: skip
    return rows


def to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    lines = [
        "| pair | start | | Dice of bodies | information | to the authors' | moved, median | folded | CPU time |",
        "|" + 9 * "---|",
    ]
    for r in rows:
        cost = "–" if r["cpu_s"] is None else f"{r['cpu_s']:.0f} s"
        figures = [
            f"{r['dice']:.3f}",
            f"{r['information']:.3f}",
            f"{r['authors_mm']:.1f} mm",
            f"{r['moved_mm']:.1f} mm",
        ]
        lines.append(f"| {' | '.join([r['pair'], r['start'], r['way'], *figures, format(r['folded'], '.1%'), cost])} |")
    return "\n".join(lines)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=["STS_006"])
    parser.add_argument("--start", choices=("ours", "authors"), default="ours")
    parser.add_argument("--model", default="lite-ctmr")
    parser.add_argument("--data")
    parser.add_argument("--report", metavar="R.json")
    add_publish_option(parser)
    options = parser.parse_args(argv)
    check_publish(parser, options)
    folder = str(find_data(options.data) / "ctmr" / "val")
    rows: List[Dict[str, Any]] = []
    for pair in options.pairs:
        mr, ct = scan(folder, pair, "mr"), scan(folder, pair, "ct")
        matrix = np.eye(4) if options.start == "authors" else start_of(mr, ct, options.model)
        rows += [{"pair": pair, "start": options.start, **row} for row in measure(mr, ct, matrix)]
    print(to_markdown(rows))
    if options.report:
        Path(options.report).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if options.publish:
        info = model_info(options.model) if options.start == "ours" else None
        keep("ctmr-deformable", to_markdown(rows), rows, info, f"{', '.join(options.pairs)} of `ctmr/val`")


if __name__ == "__main__":
    main()
