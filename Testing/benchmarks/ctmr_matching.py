"""Single places of CT and MR looked for in one another, and between contrasts of one MR study; the confidence fitted.

    python -m Testing.benchmarks.ctmr_matching [--model lite-ctmr] [--data FOLDER] [--points 24] [--samples FILE.jsonl]
                                               [--picture PNG] [--report R.json] [--write]

* *MR in CT*, *CT in MR*: body points of pairs whose MR was moved as in :mod:`Testing.benchmarks.ctmr`. Of the CT's
  points some lie outside the MR (the truth is the authors' alignment, some millimeters off).
* *T2-like, PD-like, fat-suppressed*: T1 looked for in other contrasts, the paper's Fig. 10 use. The pairs hold T1 only,
  so the other contrasts are **simulated**: a curve over the signal, which cannot part what T1 shows alike, on a lattice
  of its own, turned and moved a little, with noise and a bias field.
* *another plane*: T2 of the prostate in two or three planes, real; two patients that training showed, each plane alone.
* *torso CT in MR-like*, *MR-like in torso CT*: the ``ct/val`` scans and themselves in the contrast of an MR, moved as
  the contrasts above. Of torsos there is no CT with its MR: the contrast is **simulated** as in training (tissues of
  one HU get one signal), so these figures tell what the network has learned, not what a real MR would give.
* *torso MR in its follow-up*: T2 of an abdomen that no training has seen, twice, and its simulated second time point.

Coefficients of the confidence are fitted on scans of ``ctmr/train``, ``ct/train`` and ``mr/train`` and judged on those
of ``val``, the planes and the follow-ups; ``--write`` puts them into the model's record. A result is right within
10 mm; places that were not found count with their candidate.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.io.resample import resample_to
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.matching.confidence import UncertaintyModel
from SAMv2Core.matching.search import release_index
from SAMv2Core.models.records import write_calibration
from SAMv2Core.preprocessing.preprocess import preprocess_report
from SAMv2Core.simulation.simulate import FOLLOW_UP, simulate_follow_up
from Testing.benchmarks import calibration
from Testing.benchmarks.accuracy_tables import patient_of
from Testing.benchmarks.calibration import Sample
from Testing.benchmarks.common import add_publish_option, check_publish, find_data, keep, scan_paths
from Testing.benchmarks.ctmr import Case, moved_mr, scan, target_points
from Testing.benchmarks.intervals import Interval, interval, median
from Training.data.index import AIR, STORED_RANGE
from Training.views.intensity import apply_look, draw_look

FIT_ON, N_TRAIN = "train", 8
PLANES, STUDIES = "another plane", ("ProstateX-0000", "ProstateX-0001")
"""Real T2 scans of the prostate in two or three planes; ``lite-ctmr`` has seen each by itself."""

TORSO_MR = "CMB-CRC-MSB06489"
TRAIN_MR = ("TCGA-LIHC-BC-4073", "TotalSegmentator-example", "CPTAC-UCEC-C3N01342", "CPTAC-UCEC-C3N01871")
CT_IN_MR_LIKE, MR_LIKE_IN_CT, MR_FOLLOW_UP = "torso CT in MR-like", "MR-like in torso CT", "torso MR in its follow-up"

LEAST_CHANCE = 0.2
"""What is right less than one time in five is not handed out: between CT and MR that is half of all places."""

DRAW = 300  # of the motion, no draw of the registration's table
#: Signal of a sequence over that of T1, both 0 to 1 (fat): air and cortex, fluid and tumor, muscle, marrow, fat.
SIGNAL = (0.0, 0.12, 0.26, 0.38, 0.7, 1.0)
CONTRASTS = {
    "T2-like": (0.0, 0.08, 1.0, 0.3, 0.6, 0.8),
    "PD-like": (0.0, 0.2, 0.8, 0.65, 0.85, 1.0),
    "fat-suppressed": (0.0, 0.1, 1.0, 0.55, 0.2, 0.06),
}
TURNED_DEG, MOVED_MM, NOISE, BIAS = 5.0, 10.0, 0.03, 0.2


def other_contrast(t1: Volume, name: str, seed: int) -> Tuple[Volume, np.ndarray]:
    """A simulated scan of the same study, and the matrix from T1's world to its world."""
    rng = np.random.default_rng([seed, *name.encode()])
    low, high = np.percentile(t1.array, 1), np.percentile(t1.array, 98)
    relative = np.clip((t1.array.astype(np.float32) - low) / (high - low), 0, 1)
    bias = ndimage.zoom(rng.uniform(1 - BIAS, 1 + BIAS, (3, 3, 3)), np.array(relative.shape) / 3, order=1)
    signal = np.interp(relative, SIGNAL, CONTRASTS[name]) * bias
    signal = np.hypot(signal + rng.normal(0, NOISE, signal.shape), rng.normal(0, NOISE, signal.shape))
    return _as_another_scan(t1, signal, f"{t1.source} as {name}", rng)


def torso_as_mr(ct: Volume, seed: int) -> Tuple[Volume, np.ndarray]:
    """A CT in the contrast of an MR, by a curve drawn as in training; and the matrix from its world to the new one."""
    rng = np.random.default_rng(seed)
    hu = torch.from_numpy(ct.array.astype(np.float32))
    shown = apply_look(hu, draw_look("ct", 1.0, rng), 1.0, torch.Generator().manual_seed(seed)).numpy()
    signal = np.clip((shown - AIR) / (STORED_RANGE[1] - AIR), 0, None)
    return _as_another_scan(ct, signal, f"{ct.source} as MR", rng)


def _as_another_scan(volume: Volume, signal: np.ndarray, source: str, rng: np.random.Generator) -> Tuple[Volume, Any]:
    """An MR with its own slices (turned, between the volume's), of a patient who lies a little differently."""
    seen = Volume((1000 * signal).astype(np.int16), volume.ijk_to_lps, source, "mr")
    center = volume.grid.to_lps((volume.grid.size_ijk - 1)[None] / 2)[0]
    lattice, motion = (_motion(center, rng) for _ in range(2))
    grid = dataclasses.replace(volume.grid, ijk_to_lps=lattice @ volume.ijk_to_lps)
    return resample_to(grid, seen, np.linalg.inv(motion)), motion


def _motion(center: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-TURNED_DEG, TURNED_DEG, 3), degrees=True).as_matrix()
    motion[:3, 3] = center + rng.uniform(-MOVED_MM, MOVED_MM, 3) - motion[:3, :3] @ center
    return motion


def some_of(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed).permutation(len(points))[:count]
    return points[np.sort(chosen)]


def body_points(volume: Volume, modality: str) -> np.ndarray:
    """(N, 3) every 10 mm."""
    found = preprocess_report(volume, modality)
    step = max(1, round(10 / float(found.grid.spacing_ijk_mm[0])))
    k, j, i = np.nonzero(found.body[::step, ::step, ::step])
    return found.grid.to_lps(step * np.stack([i, j, k], axis=-1))


def of_pair(model: Model, folder: Path, name: str, count: int) -> Iterator[Sample]:
    """Both directions of one CT and its moved MR."""
    mr, motion = moved_mr(Case(str(folder), name, name, "whole", DRAW))
    ct = scan(str(folder), name, "ct")
    emb_ct, emb_mr = model.embed(ct, "ct"), model.embed(mr, "mr")
    of_mr = some_of(target_points(mr), count, 0)
    yield from calibration.between(
        "MR in CT", (name, name), emb_mr, emb_ct, of_mr, transform_points(np.linalg.inv(motion), of_mr)
    )
    of_ct = body_points(ct, "ct")
    truth = transform_points(motion, of_ct)
    inside = mr.grid.contains(truth)
    both = (some_of(of_ct[inside], count, 1), some_of(of_ct[~inside], count // 2, 2))
    for points in both:
        if len(points):
            yield from calibration.between(
                "CT in MR", (name, name), emb_ct, emb_mr, points, transform_points(motion, points)
            )
    release_index(emb_ct)
    release_index(emb_mr)


def of_contrasts(model: Model, folder: Path, name: str, count: int) -> Iterator[Sample]:
    """T1 in each simulated contrast."""
    t1 = scan(str(folder), name, "mr")
    emb = model.embed(t1, "mr")
    points = some_of(body_points(t1, "mr"), count, 3)
    for n, contrast in enumerate(CONTRASTS):
        other, motion = other_contrast(t1, contrast, n)
        truth = transform_points(motion, points)
        inside = other.grid.contains(truth)
        query = model.embed(other, "mr")
        yield from calibration.between(contrast, (name, name), emb, query, points[inside], truth[inside])
        release_index(query)
    release_index(emb)


def of_planes(model: Model, folder: Path, name: str, count: int) -> Iterator[Sample]:
    """Every plane of a study in every other one; the scanner's frame is the truth, but for what moved between."""
    volumes = [read_volume(path) for path in sorted(folder.glob(f"{name}_*_mr.nii.gz"))]
    embeddings = [model.embed(volume, "mr") for volume in volumes]
    for a, b in itertools.permutations(range(len(volumes)), 2):
        points = body_points(volumes[a], "mr")
        points = some_of(points[volumes[b].grid.contains(points)], count, 4)
        yield from calibration.between(PLANES, (name, name), embeddings[a], embeddings[b], points, points)
    for emb in embeddings:
        release_index(emb)


def of_torso(model: Model, folder: Path, name: str, count: int) -> Iterator[Sample]:
    """A torso's CT and the same in the contrast of an MR, both directions."""
    ct = read_volume(folder / f"{name}.nii.gz")
    mr, motion = torso_as_mr(ct, DRAW)
    emb_ct, emb_mr = model.embed(ct, "ct"), model.embed(mr, "mr")
    points = body_points(ct, "ct")
    points = some_of(points[mr.grid.contains(transform_points(motion, points))], count, 5)
    moved = transform_points(motion, points)
    yield from calibration.between(CT_IN_MR_LIKE, (name, name), emb_ct, emb_mr, points, moved)
    yield from calibration.between(MR_LIKE_IN_CT, (name, name), emb_mr, emb_ct, moved, points)
    release_index(emb_ct)
    release_index(emb_mr)


def of_torso_mr(model: Model, folder: Path, name: str, count: int) -> Iterator[Sample]:
    """A torso's MR and its simulated second time point."""
    mr = read_volume(folder / f"{name}.nii.gz")
    simulated = simulate_follow_up(mr, FOLLOW_UP, seed=DRAW)
    points = some_of(body_points(mr, "mr"), count, 6)
    truth, inside = simulated.map_points(points)
    pair = (model.embed(mr, "mr"), model.embed(simulated.volume, "mr"))
    yield from calibration.between(MR_FOLLOW_UP, (name, name), *pair, points[inside], truth[inside])
    for emb in pair:
        release_index(emb)


KINDS = {"pair": of_pair, "contrasts": of_contrasts, "planes": of_planes, "torso": of_torso, "torso mr": of_torso_mr}


def collect(model: Model, data: Path, count: int, path: Optional[Path]) -> List[Tuple[str, Sample]]:
    """Samples of train and val; scans that a file holds already are not run again."""
    done: Dict[Tuple[str, str, str], List[Dict[str, Any]]] = {}
    if path is not None and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            kept = json.loads(line)
            if kept["sha256"] == model.info.sha256 and kept["points"] == count:
                done[kept["kind"], kept["set"], kept["scan"]] = kept["results"]
    work: List[Tuple[str, str, Path, str]] = []
    for which, limit in (("val", None), (FIT_ON, N_TRAIN)):
        folder = data / "ctmr" / which
        names = sorted(file.name[: -len("_ct.nii.gz")] for file in folder.glob("*_ct.nii.gz"))[:limit]
        work += [(kind, which, folder, name) for name in names for kind in ("pair", "contrasts")]
    work += [("planes", "val", data / "mr" / "train", name) for name in STUDIES]
    for which, limit in (("val", None), (FIT_ON, N_TRAIN)):
        torsos = scan_paths(data / "ct" / which)[:limit]
        work += [("torso", which, path.parent, path.name.split(".")[0]) for path in torsos]
    work += [("torso mr", "val", data / "followup", f"{TORSO_MR}_{n}") for n in ("t1", "t2")]
    work += [("torso mr", FIT_ON, data / "mr" / "train", f"{name}_mr") for name in TRAIN_MR]
    samples: List[Tuple[str, Sample]] = []
    for kind, which, folder, name in work:
        key = (kind, which, name)
        if key not in done:
            done[key] = [dataclasses.asdict(sample) for sample in KINDS[kind](model, folder, name, count)]
            facts = {"sha256": model.info.sha256, "points": count, "kind": kind, "set": which, "scan": name}
            _keep(path, {**facts, "results": done[key]})
            print(f"{which} {name} {kind}: {len(done[key])} results", flush=True)
        samples += [(which, Sample(**{**r, "scans": tuple(r["scans"])})) for r in done[key]]
    return samples


def _keep(path: Optional[Path], entry: Dict[str, Any]) -> None:
    if path is not None:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def calibration_of(samples: Sequence[Sample]) -> Dict[str, Any]:
    """Coefficients of one part of the data, cuts from confidences that were cross-validated in it.

    Two scans of one patient seldom look like two patients': a set of coefficients that judges results of a single pair
    is not fitted; it takes those of the fixed points.
    """
    pairs: Dict[str, Set[str]] = {}
    for sample in samples:
        pairs.setdefault(sample.set, set()).add(sample.scans[0])
    usual = [sample for sample in samples if len(pairs[sample.set]) > 1]
    sets = calibration.fit_sets(usual)
    matched, not_found = calibration.cuts_of(usual, calibration.cross_validated(usual), calibration.OF_ONE)
    others = {name: sets["fixed_point"] for name in calibration.OF_ONE if name not in sets}
    return {**sets, **others, "matched_above": matched, "not_found_below": max(not_found, LEAST_CHANCE)}


def rows_of(samples: Sequence[Sample], fitted: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Figures of samples that the coefficients have not seen."""
    cuts = UncertaintyModel.from_metadata(fitted)
    sets = {name: dataclasses.asdict(getattr(cuts, name)) for name in calibration.OF_ONE}
    sure = np.array([calibration.confidence(sets, sample) for sample in samples])

    def status_of(sample: Sample, confidence: float) -> str:
        if confidence >= cuts.matched_above:
            return "matched"
        return "not_found" if confidence < cuts.not_found_below else "uncertain"

    return calibration.figures(samples, sure, status_of)


def contrast_rows(samples: Sequence[Sample]) -> List[Dict[str, Any]]:
    """Distances between contrasts, places that were not found with their candidate."""
    rows = []
    for title in (*CONTRASTS, PLANES, MR_FOLLOW_UP, CT_IN_MR_LIKE, MR_LIKE_IN_CT):
        for method in calibration.METHODS:
            chosen = [s for s in samples if (s.experiment, s.method) == (title, method)]
            if chosen:
                own = np.linalg.norm([s.off_mm for s in chosen], axis=1)
                shares = {f"within_{mm}": float((own <= mm).mean()) for mm in (5, 10)}
                patients = [patient_of(s.scans[0]) for s in chosen]
                middle = interval(own, patients, median)
                rows.append(
                    {
                        "contrast": title,
                        "method": method,
                        "n": len(own),
                        "patients": len(set(patients)),
                        "median_mm": middle.value,
                        "median_ci95_mm": middle.bounds,
                        **shares,
                    }
                )
    return rows


NO_BOUNDS = (math.nan, math.nan)


def contrasts_to_markdown(rows: Sequence[Dict[str, Any]]) -> str:
    lines = [
        "| one contrast looked for in another | method | n | patients | median (95 % interval) | ≤ 5 mm | ≤ 10 mm |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = [f"{100 * row[f'within_{mm}']:.0f} %" for mm in (5, 10)]
        middle = Interval(row["median_mm"], *(row["median_ci95_mm"] or NO_BOUNDS)).text() + " mm"
        cells = [row["contrast"], row["method"], row["n"], row["patients"], middle, *shares]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def draw(data: Path, path: str) -> None:
    """One slice of a T1 scan and of its simulated contrasts."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder = data / "ctmr" / "val"
    name = sorted(file.name[: -len("_mr.nii.gz")] for file in folder.glob("*_mr.nii.gz"))[1]
    t1 = scan(str(folder), name, "mr")
    shown = [("T1", t1), *((c, other_contrast(t1, c, n)[0]) for n, c in enumerate(CONTRASTS))]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3 * len(shown), 3.2))
    for axis, (title, volume) in zip(axes, shown):
        image = volume.array[len(volume.array) // 2]
        axis.imshow(image, cmap="gray", vmax=np.percentile(image, 99.5))
        axis.set_title(title if title == "T1" else f"{title} (simulated)", fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main(argv: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lite-ctmr")
    parser.add_argument("--data")
    parser.add_argument("--points", type=int, default=24, help="per scan and direction")
    parser.add_argument("--samples", metavar="FILE", type=Path, help="JSON lines; what it holds is not run again")
    parser.add_argument("--picture", metavar="PNG", help="the simulated contrasts")
    parser.add_argument("--report", metavar="R.json")
    parser.add_argument("--write", action="store_true", help="put the coefficients into the record of the model")
    add_publish_option(parser)
    options = parser.parse_args(argv)
    check_publish(parser, options)
    data, model = find_data(options.data), load_model(options.model)
    if options.picture:
        draw(data, options.picture)
    samples = collect(model, data, options.points, options.samples)
    fitted = calibration_of([sample for which, sample in samples if which == FIT_ON])
    judged = [sample for which, sample in samples if which == "val"]
    before, after = rows_of(judged, dict(model.info.calibration)), rows_of(judged, fitted)
    same = contrast_rows(judged)
    print(f"Model {options.model} ({model.info.sha256})\n\nctmr/val by the coefficients of the record:\n")
    print(calibration.to_markdown(before))
    print(f"\nby those fitted on scans of {FIT_ON}:\n\n{calibration.to_markdown(after)}\n")
    print(contrasts_to_markdown(same))
    print(json.dumps(fitted, indent=1))
    if options.report:
        facts = {"model": options.model, "before": before, "after": after, "contrasts": same, "calibration": fitted}
        Path(options.report).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if options.publish:
        table = f"{calibration.to_markdown(after)}\n\n{contrasts_to_markdown(same)}"
        keep("ctmr-matching", table, [*after, *same], model.info, "`ctmr/val`")
    if options.write:
        assert model.info.path is not None
        write_calibration(model.info.path, fitted)
        print(f"Written beside {model.info.path}")


if __name__ == "__main__":
    main()
