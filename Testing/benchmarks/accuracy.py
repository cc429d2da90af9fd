"""Accuracy of a model on scans it was not trained on, as Markdown tables with 95 % intervals by patient.

    python -m Testing.benchmarks.accuracy [--model NAME|FILE] [--against NAME|FILE] [--data ../shared/data]
        [--queries val|train|both] [--templates val|train|both] [--methods default ...] [--only torso neck ...]
        [--report R.json] [--quick] [--heads fine=1,coarse=2,semantic=0] [--ablation] [--mind] [--oracle] [--labels]

Rows, each for the nearest neighbor, fixed points alone, what `match` does by default (fixed points, and the
whole body's matches say where to expect the point), and a rival without training
(:mod:`SAMv2Core.evaluation.sparse_sampling`; a table of its own tells the difference on the same points):

* *between patients, torso*: hand-placed landmarks (``sure`` of at least 0.75) of the ``ct/val`` scans, found from every
  other patient's scan (``ct/val`` and ``ct/train``; the train scans were seen in training, the queries were not); then
  once more by region: chest, abdomen, bones and vertebrae, domes, and all but the domes. ``--queries both`` asks for
  the points of every scan, one patient left out after the other: more patients, but most of them were trained on;
* *follow-up*: real second time points with points placed by hand (elastix-lung; two scans of one patient of
  ``ct/train``, 64 days apart);
* *between patients, neck*: centroids of organ contours of ``hn/val``, all ordered pairs;
* *simulated follow-up*: random body points of the ``ct/val`` scans, ``simulate.FOLLOW_UP``, truth known;
* *MR in CT of one patient* (models of both): random body points of the MR of each ``ctmr/val`` pair; the truth is the
  pairs' own alignment, good to a few millimeters.

``--against`` asks the same of other weights and compares the two point by point: differences, intervals by patient.

``--ablation`` (50 points a follow-up) takes the stages of the default away one by one, adds what it could have besides,
and compares each with the default point by point; the rows of the paper's Table 3 (appearance alone, with the semantic
head, with fixed points, all) are among them.

``--oracle`` tells what limits the matches between patients: the nearest neighbor among the places within some distance
of the truth. What is left at a small distance is what the embeddings cannot tell apart nearby; what a large one adds
is what they confuse with places far off. A guess within 12 mm would have a median of 9.5 mm.

``--labels`` tells which landmarks of torsos the error of the default comes from.

Embeddings are kept in the cache (``$SAMV2_CACHE_DIR``): each is needed once for every pair.

``found`` is the share of points with a status other than ``not_found``; errors count *all* points (the best candidate
of a point that was not found is counted too), so that refusing hard points does not flatter. A left-right confusion is
a match nearer to the mirrored landmark than to the true one (landmarks named left/right only); the right level is that
of a vertebra whose match is nearer to it than to every other vertebra placed in that scan.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from SAMv2Core.embedding.cache import Cache
from SAMv2Core.embedding.embedding import Embedding
from SAMv2Core.embedding.load import load_model
from SAMv2Core.embedding.model import Model
from SAMv2Core.evaluation.features import MindFeatures
from SAMv2Core.evaluation.sparse_sampling import NAME as RIVAL
from SAMv2Core.evaluation.sparse_sampling import Place, SampledScan, SparseSampling, find_places
from SAMv2Core.io.volume import Volume, read_volume
from SAMv2Core.matching.body_map import body_maps
from SAMv2Core.matching.match import match, similarity_map
from SAMv2Core.simulation.simulate import FOLLOW_UP, SimulatedFollowUp, SimulationOptions, simulate_follow_up
from Testing.benchmarks.accuracy_tables import (
    ALL_BUT_DOMES,
    TORSO,
    Trial,
    by_region,
    compare,
    comparison_to_markdown,
    labels_to_markdown,
    patient_of,
    summarize,
    to_markdown,
)
from Testing.benchmarks.common import find_data, parse_options, publish, scan_paths
from Training.data.landmarks import MIN_SURE, other_side, read_landmarks


class Variant(NamedTuple):
    """A row of the table: how points are matched.

    :param options: of ``find``.
    :param heads: weights of the heads' cosines, None for the model's own.
    """

    name: str
    options: Mapping[str, Any]
    heads: Optional[Mapping[str, float]] = None
    find: Callable[..., Sequence[Any]] = match


def place_by_body(template: Embedding, query: Embedding, points: np.ndarray) -> List[Place]:
    """Where the whole body's matches expect the points, and no search there."""
    there, _ = body_maps(template, query)
    places = np.full(points.shape, np.inf) if there is None else there.predict(points)[0]
    return [Place(place, place, "uncertain", 0.0) for place in places]


DEFAULT = Variant("default", {"method": "fixed-point"})
METHODS = (
    Variant("nearest", {"method": "nearest"}),
    Variant("fixed-point", {"method": "fixed-point", "expect": False}),
    DEFAULT,
    Variant("paper", {"method": "paper"}),
)
SAMPLED = Variant(RIVAL, {})
WITH_SEMANTIC = {"fine": 4 / 9, "coarse": 2 / 9, "semantic": 1 / 3}  # a third of the sum, as in the paper
ABLATION = (
    Variant("nearest neighbor", {"method": "nearest"}),
    Variant("nearest neighbor + body map", {"method": "nearest", "expect": True}),
    Variant("body map alone", {}, find=place_by_body),
    Variant("fixed points", {"method": "fixed-point", "expect": False}),
    DEFAULT,
    Variant("nearest neighbor + semantic head", {"method": "nearest"}, WITH_SEMANTIC),
    Variant("fixed points + semantic head (SAM++)", {"method": "fixed-point", "expect": False}, WITH_SEMANTIC),
    Variant("default + semantic head", {"method": "fixed-point"}, WITH_SEMANTIC),
)
BEST = DEFAULT._replace(name="default, --quality best")
Features = Union[Model, "With", MindFeatures, SparseSampling]
Scan = Union[Embedding, SampledScan]

N_SIMULATED_POINTS, N_QUICK_POINTS = 200, 50  # of each scan
N_MR_POINTS = 100
BOTH = ("val", "train")
ORACLE_MM = (12.0, 24.0, 48.0)


def load_landmarks(path: Path) -> Dict[str, np.ndarray]:
    """Sure landmarks of a ``*.landmarks.json``: name -> LPS mm."""
    return {name: np.array(value[:3]) for name, value in read_landmarks(path).items() if value[3] >= MIN_SURE}


def label_centroids(volume: Volume) -> Dict[str, np.ndarray]:
    """Centroids (LPS mm) of the labels that do not touch the first or last slice."""
    result = {}
    for label in np.unique(volume.array):
        index = np.argwhere(volume.array == label)
        cut = index[:, 0].min() == 0 or index[:, 0].max() == volume.array.shape[0] - 1
        if label and len(index) > 20 and not cut:
            result[f"label {label}"] = volume.grid.to_lps(index.mean(0)[::-1])
    return result


class Asked(NamedTuple):
    """The points of one ordered pair of scans, LPS mm by label, and where they truly lie."""

    template: str
    query: str
    points: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    all_truth: Optional[Mapping[str, np.ndarray]] = None
    """Every landmark of the query, to tell sides and levels by; None: ``truth``."""


class Scans(Mapping[str, Scan]):
    """Embeddings by name, made or read when they are needed; the last few stay in memory.

    :param makers: of each name's embedding.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Scan]]) -> None:
        self._makers = dict(makers)
        self._get = functools.lru_cache(maxsize=6)(lambda name: self._makers[name]())

    def __getitem__(self, name: str) -> Scan:
        return self._get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def scan(model: Features, path: Path, modality: str = "ct") -> Scan:
    """The embedding of a file; a model's is kept in the cache, since it is read again for every pair."""
    more = {"cache": Cache()} if isinstance(model, Model) else {}
    return model.embed(read_volume(path), modality, **more)


def unique(values: Iterable[Any]) -> List[Any]:
    """The different ones, in their order; they need not be hashable."""
    found: List[Any] = []
    for value in values:
        found += [] if value in found else [value]
    return found


class With:
    """A model that embeds with these options: heads without a weight kept, so that an ablation can give them one."""

    def __init__(self, model: Model, **options: Any) -> None:
        self._model, self._options = model, options

    def embed(self, volume: Volume, modality: str = "auto") -> Embedding:
        return self._model.embed(volume, modality, cache=Cache(), **self._options)


class Experiment(NamedTuple):
    """Scans, embedded, and what is looked for in them."""

    name: str
    embeddings: Mapping[str, Scan]
    asked: List[Asked]

    def run(self, variants: Sequence[Variant]) -> List[Trial]:
        """Every point by every variant; those with the same weights of heads together: they share search indices."""
        trials: List[Trial] = []
        for heads in unique(variant.heads for variant in variants):
            weighed = Scans({n: functools.partial(self._reweighed, n, heads) for n in self.embeddings})
            same = [variant for variant in variants if variant.heads == heads]
            trials += [
                t for asked in self.asked for v in same for t in self._replace(embeddings=weighed)._ask(asked, v)
            ]
        return trials

    def _reweighed(self, name: str, heads: Optional[Mapping[str, float]]) -> Scan:
        return reweighed(self.embeddings[name], heads)

    def _ask(self, asked: Asked, variant: Variant) -> Iterator[Trial]:
        labels = [label for label in asked.points if label in asked.truth]
        if not labels:
            return
        points = np.array([asked.points[label] for label in labels])
        sides = self.embeddings[asked.template], self.embeddings[asked.query]
        find = find_places if isinstance(sides[0], SampledScan) else variant.find
        for label, result in zip(labels, find(*sides, points, **variant.options)):
            place = result.candidate_lps if result.query_lps is None else result.query_lps
            place = np.full(3, np.inf) if place is None else np.asarray(place)
            error = float(np.linalg.norm(place - asked.truth[label]))
            facts = (self.name, variant.name, asked.template, asked.query, label)
            confused, level = sides_and_levels(label, place, asked.all_truth or asked.truth)
            yield Trial(*facts, error, result.status, result.confidence, confused, level)


def sides_and_levels(
    label: str, place: np.ndarray, truth: Mapping[str, np.ndarray]
) -> Tuple[Optional[bool], Optional[bool]]:
    """Whether the other side's landmark is nearer, and whether no other vertebra is; None where there is none."""
    error = np.linalg.norm(place - truth[label])
    other = truth.get(other_side(label) or "")
    confused = None if other is None else bool(np.linalg.norm(place - other) < error)
    levels = [point for name, point in truth.items() if name.startswith("vertebra_") and name != label]
    if not label.startswith("vertebra_") or not levels:
        return confused, None
    return confused, bool(min(np.linalg.norm(place - point) for point in levels) > error)


def near_the_truth(experiment: Experiment) -> Iterator[Trial]:
    """Every point by nearest neighbors that an oracle confines to :data:`ORACLE_MM` around the truth."""
    for asked in experiment.asked:
        template, query = (experiment.embeddings[name] for name in (asked.template, asked.query))
        for label in (label for label in asked.points if label in asked.truth):
            similarity, grid = similarity_map(template, query, asked.points[label].tolist())
            places = np.argwhere(similarity > -1)  # -1 marks what lies outside the body
            off_mm = np.linalg.norm(grid.to_lps(places[:, ::-1]) - asked.truth[label], axis=1)
            found = similarity[tuple(places.T)]
            for limit in ORACLE_MM:
                near = off_mm <= limit
                error = float(off_mm[near][found[near].argmax()]) if near.any() else limit
                facts = (experiment.name, f"nearest, within {limit:.0f} mm", asked.template, asked.query, label)
                yield Trial(*facts, error, "uncertain", math.nan)


def reweighed(embedding: Any, heads: Optional[Mapping[str, float]]) -> Any:
    """The embedding with other weights of its heads, scaled to sum to 1; those it lacks are left out."""
    if heads is None:
        return embedding
    present = {head.name: heads.get(head.name, 0.0) for head in embedding.heads}
    total = sum(present.values())
    return dataclasses.replace(embedding, head_weights={name: weight / total for name, weight in present.items()})


def torso_landmarks(data: Path) -> Dict[Path, Dict[str, np.ndarray]]:
    """Sure landmarks by image of ``ct``, validation scans first."""
    paths = [p for part in ("val", "train") for p in sorted((data / "ct" / part).glob("*.landmarks.json"))]
    return {p.with_name(p.name.replace(".landmarks.json", ".nii.gz")): load_landmarks(p) for p in paths}


def between_torsos(
    model: Features, data: Path, queries: Sequence[str] = ("val",), templates: Sequence[str] = BOTH
) -> Experiment:
    """Hand-placed landmarks of the queries' scans from every scan of another patient."""
    found = torso_landmarks(data)
    name = {path: path.name.split(".")[0] for path in found}
    scans = Scans({name[path]: functools.partial(scan, model, path) for path in found})
    asked = [
        Asked(name[t], name[q], found[t], found[q])
        for q in found
        for t in found
        if q.parent.name in queries and t.parent.name in templates and patient_of(name[t]) != patient_of(name[q])
    ]
    trained = "" if "train" not in queries else ", trained on" if "val" not in queries else ", most trained on"
    return Experiment(TORSO + trained, scans, asked)


def follow_ups(model: Features, data: Path) -> Experiment:
    """Points placed by hand in two scans of one patient, either way."""
    makers: Dict[str, Callable[[], Scan]] = {}
    asked = []
    for path in sorted((data / "followup").glob("*.points.json")):
        content = json.loads(path.read_text())
        names = content["baseline"], content["followup"]
        sides = [
            {f"point {n}": np.array(pair[key]) for n, pair in enumerate(content["points"])}
            for key in ("baseline", "followup")
        ]
        makers.update({n: functools.partial(scan, model, path.with_name(f"{n}.nii.gz")) for n in names})
        asked += [Asked(*names, *sides), Asked(*names[::-1], *sides[::-1])]
    found = torso_landmarks(data)
    for a in found:
        for b in found:
            names = a.name.split(".")[0], b.name.split(".")[0]
            if a != b and patient_of(names[0]) == patient_of(names[1]):
                makers.update({n: functools.partial(scan, model, path) for n, path in zip(names, (a, b))})
                asked.append(Asked(*names, found[a], found[b]))
    return Experiment("follow-up", Scans(makers), asked)


def between_necks(model: Features, data: Path) -> Experiment:
    """Organ centroids, all ordered pairs of validation necks."""
    paths = {p.name.split(".")[0]: p for p in scan_paths(data / "hn" / "val")}
    scans = Scans({name: functools.partial(scan, model, path) for name, path in paths.items()})
    centroids = {
        name: label_centroids(read_volume(path.with_name(path.name.replace(".nii.gz", "_labels.nii.gz"))))
        for name, path in paths.items()
    }
    asked = [Asked(t, q, centroids[t], centroids[q]) for q in paths for t in paths if t != q]
    return Experiment("between patients, neck", scans, asked)


class Baseline(NamedTuple):
    """A scan, embedded once, and the points asked for (N, 3), LPS mm."""

    name: str
    seed: int
    volume: Volume
    embedding: Scan
    points: np.ndarray

    @property
    def follow_up(self) -> str:
        return f"{self.name}, follow-up"

    def asked(self, simulated: SimulatedFollowUp) -> Asked:
        """The points that a follow-up shows."""
        moved, inside = simulated.map_points(self.points)
        labels = {f"point {n}": n for n in np.flatnonzero(inside)}
        points, truth = ({label: places[n] for label, n in labels.items()} for places in (self.points, moved))
        return Asked(self.name, self.follow_up, points, truth)


def validation_torsos(model: Features, data: Path, n_points: int) -> List[Baseline]:
    """The ``ct/val`` scans and random points of their bodies."""
    found = []
    for seed, path in enumerate(scan_paths(data / "ct" / "val")):
        volume = read_volume(path)
        embedding = scan(model, path)
        points = random_body_points(embedding, n_points, seed)
        found.append(Baseline(path.name.split(".")[0], seed, volume, embedding, points))
    return found


def simulated_follow_ups(
    model: Features,
    baselines: Sequence[Baseline],
    options: SimulationOptions = FOLLOW_UP,
    name: str = "simulated follow-up",
) -> Experiment:
    """The baselines' points in a simulated follow-up of each."""
    embeddings: Dict[str, Scan] = {}
    asked: List[Asked] = []
    for baseline in baselines:
        simulated = simulate_follow_up(baseline.volume, options, seed=baseline.seed)
        asked.append(baseline.asked(simulated))
        embeddings[baseline.name] = baseline.embedding
        embeddings[baseline.follow_up] = model.embed(simulated.volume, "ct")
    return Experiment(name, embeddings, asked)


def mr_in_ct(model: Features, data: Path) -> Experiment:
    """Random body points of each validation MR in the CT of the same patient, as their authors aligned them."""
    embeddings: Dict[str, Scan] = {}
    asked: List[Asked] = []
    for seed, path in enumerate(sorted((data / "ctmr" / "val").glob("*_mr.nii.gz"))):
        name = path.name[: -len("_mr.nii.gz")]
        mr = model.embed(read_volume(path), "mr")
        ct = model.embed(read_volume(path.with_name(f"{name}_ct.nii.gz")), "ct")
        embeddings.update({f"{name} mr": mr, f"{name} ct": ct})
        points = random_body_points(mr, N_MR_POINTS, seed)
        points = points[mr.volume_grid.contains(points) & ct.volume_grid.contains(points)]
        places = {f"point {n}": point for n, point in enumerate(points)}
        asked.append(Asked(f"{name} mr", f"{name} ct", places, places))
    return Experiment("MR in CT of one patient", embeddings, asked)


def random_body_points(embedding: Scan, n: int, seed: int) -> np.ndarray:
    """(n, 3) LPS mm of voxels of the body, drawn without replacement."""
    body = np.argwhere(embedding.body)
    drawn = body[np.random.default_rng(seed).choice(len(body), n, replace=False)]
    grid = embedding.body_grid if isinstance(embedding, SampledScan) else embedding.fine.grid
    return grid.to_lps(drawn[:, ::-1])


def parse_heads(text: Optional[str]) -> Optional[Dict[str, float]]:
    """``fine=1,coarse=2,semantic=0`` as a mapping."""
    return {n: float(v) for n, v in (part.split("=") for part in text.split(","))} if text else None


def against_default(trials: Sequence[Trial]) -> Tuple[List[Trial], List[Trial]]:
    """The trials of all methods but the default, and the default's under each of their names."""
    own = [trial for trial in trials if trial.method != DEFAULT.name]
    default = [trial for trial in trials if trial.method == DEFAULT.name]
    return own, [t._replace(method=method) for method in unique(t.method for t in own) for t in default]


def with_regions(trials: Sequence[Trial]) -> List[Trial]:
    """As a table tells them: torsos once more by region."""
    return [*trials, *by_region(trials)]


def without_regions(trials: Sequence[Trial]) -> List[Trial]:
    """As a table of many methods tells them: of torsos all but the domes."""
    others = [trial for trial in trials if not trial.region]
    return [t for t in by_region(trials) if t.experiment == ALL_BUT_DOMES] + others


KINDS = ("torso", "simulated", "follow-up", "neck", "mr")


def experiments(
    features: Features,
    data: Path,
    kinds: Sequence[str],
    n_points: int = N_SIMULATED_POINTS,
    queries: Sequence[str] = ("val",),
    templates: Sequence[str] = BOTH,
) -> Iterator[Experiment]:
    """All experiments with these features, one at a time: their embeddings take memory."""
    if "torso" in kinds:
        yield between_torsos(features, data, queries, templates)
    if "simulated" in kinds:
        yield simulated_follow_ups(features, validation_torsos(features, data, n_points))
    if "follow-up" in kinds and list((data / "followup").glob("*.points.json")):
        yield follow_ups(features, data)
    if "neck" in kinds:
        yield between_necks(features, data)
    if "mr" in kinds:
        yield mr_in_ct(features, data)


def main(argv: Optional[List[str]] = None) -> None:
    args = parse_options(argv, __doc__, "torso and simulated follow-up with 50 points only", accuracy=True)
    data = find_data(args.data)
    model = load_model(args.model)
    heads = parse_heads(args.heads)
    chosen = [variant for variant in METHODS if variant.name in args.methods]
    variants = ABLATION if args.ablation else tuple(variant._replace(heads=heads) for variant in chosen)
    kinds = args.only or (KINDS[:2] if args.quick else KINDS)
    kinds = [kind for kind in kinds if kind != "mr" or "mr" in model.info.modalities]
    n_points = N_QUICK_POINTS if args.quick or args.ablation else N_SIMULATED_POINTS
    queries, templates = (BOTH if side == "both" else (side,) for side in (args.queries, args.templates))

    def run(features: Features, asked: Sequence[Variant] = variants) -> List[Trial]:
        built = experiments(features, data, kinds, n_points, queries, templates)
        return [trial for experiment in built for trial in experiment.run(asked)]

    if args.oracle:
        trials = [t for build in (between_torsos, between_necks) for t in near_the_truth(build(model, data))]
    else:
        trials = run(With(model, every_head=True) if args.ablation or heads else model) if variants else []
    if args.ablation:
        trials += run(With(model, quality="best"), [BEST])
    if args.mind:
        trials += [t._replace(method=f"MIND-SSC, {t.method}") for t in run(MindFeatures())]
    rivals = [] if args.ablation or args.oracle or RIVAL not in args.methods else run(SparseSampling(), [SAMPLED])
    trials += rivals
    told = without_regions if args.ablation else with_regions
    rows = summarize(told(trials))
    table = to_markdown(rows)
    if args.labels:
        table += "\n\n" + labels_to_markdown(trials)
    comparisons = [("default", RIVAL, trials, [t._replace(method="default") for t in rivals])]
    if args.ablation:
        comparisons.append(("each", "default", *against_default(trials)))
    if args.against:
        comparisons.append((args.model, args.against, trials, run(load_model(args.against))))
    for own, other, ours, others in comparisons:
        differences = compare(told(ours), told(others))
        if differences:
            rows += [{**row, "experiment": f"{row['experiment']}, against {other}"} for row in differences]
            table += f"\n\n{own} minus {other}, on the same points:\n\n{comparison_to_markdown(differences)}"
    name = "accuracy-ablation" if args.ablation else "accuracy-oracle" if args.oracle else "accuracy"
    publish(args, model, name, table, rows, trials, f"{len(scan_paths(data / 'ct/val'))} scans of `ct/val`, `hn/val`")


if __name__ == "__main__":
    main()
