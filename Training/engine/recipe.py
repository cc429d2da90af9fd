"""Recipes: all that defines a training run, typed, with the paper's values as defaults.

A recipe is a YAML file; ``extends: NAME`` starts from another one. The files in ``Training/recipes`` say where each
value comes from (arXiv 2311.15111 or the official code). Every section is a frozen dataclass, so an unknown key or a
value of another type is an error before anything is read.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Literal, Mapping, Optional, Sequence, Tuple

import yaml

from SAMv2Core.errors import UsageError
from Training.engine.typed import assignment, build, merged
from Training.losses.appearance import CoarseSampling, FineSampling
from Training.losses.infonce import LevelOptions
from Training.views.geometry import ViewOptions
from Training.views.intensity import IntensityOptions
from Training.views.patches import PatchOptions

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@dataclass(frozen=True)
class NetworkOptions:
    """:param architecture: ``sam``, ``sampp``, ``crosssam`` or ``lite``.
    :param narrow: divides all channel numbers; above 1 for trial runs only, such weights cannot be exported.
    :param resnet18: 2-D ResNet-18 checkpoint (torchvision's layout) to inflate; None starts from random weights.
    :param start: weights file to start from (ours or the official ``.pth``), e.g. AggSAM's for CrossSAM.
    """

    architecture: Literal["sam", "sampp", "crosssam", "lite"] = "sam"
    narrow: int = 1
    resnet18: Optional[str] = None
    start: Optional[str] = None


@dataclass(frozen=True)
class DataOptions:
    """:param groups: of the index; None takes all.
    :param ct: weight of CT scans in the draw of self-supervised pairs.
    :param mr: weight of MR scans.
    """

    groups: Optional[Tuple[str, ...]] = None
    ct: float = 1.0
    mr: float = 0.0


@dataclass(frozen=True)
class PartOptions:
    """Which batches a step draws.

    :param schedule: ``together``: all parts every step, losses added; ``alternate``: in turn; ``random``: one, drawn
        with the shares below as weights.
    :param appearance: share of self-supervised pairs (eq. 1); 0 leaves the part out.
    :param semantic: share of labelled scans (eq. 2).
    :param registered: share of registered CT-MR pairs (eq. 8).
    """

    schedule: Literal["together", "alternate", "random"] = "together"
    appearance: float = 1.0
    semantic: float = 0.0
    registered: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shares.values()) < 0 or not any(self.shares.values()):
            raise ValueError("at least one part needs a share above 0, none below")

    @property
    def shares(self) -> Dict[str, float]:
        return {"appearance": self.appearance, "semantic": self.semantic, "registered": self.registered}


@dataclass(frozen=True)
class SemanticOptions:
    """:param temperature: of eq. 2: 0.5 in the paper, 0.1 in the official configuration.
    :param weight: of the loss.
    :param n_scans: scans pooled per batch.
    :param size_zyx: largest crop of a scan.
    """

    temperature: float = 0.5
    weight: float = 1.0
    n_scans: int = 2
    size_zyx: Tuple[int, int, int] = (120, 180, 180)


@dataclass(frozen=True)
class RegisteredOptions:
    """Registered pairs of CrossSAM (sec. 3.3, 4.3).

    :param size_zyx: crop of each scan.
    :param jitter_voxels: each crop's center is moved by up to this, independently.
    :param n_pairs: per batch.
    :param fine: N_pos 200, N_neg 500 and N_fov 100 in the paper; the official code: 100, 500 and none.
    """

    size_zyx: Tuple[int, int, int] = (104, 128, 128)
    jitter_voxels: int = 10
    n_pairs: int = 1
    fine: FineSampling = field(default_factory=lambda: FineSampling(n_positive=200, n_outside=100))
    coarse: CoarseSampling = field(default_factory=CoarseSampling)


@dataclass(frozen=True)
class OptimizerOptions:
    """:param name: ``sgd`` or ``adamw`` (vectors such as biases without weight decay).
    :param warmup_steps: the rate rises linearly from ``warmup_ratio`` to 1 times ``lr``.
    :param decay: last part of the run in which the rate falls to ``floor``; 0: constant.
    :param shape: of the fall: a line, or half a cosine.
    :param clip: largest norm of the gradient; None: unlimited.
    :param average: decay of the moving average of the weights; 0: none is kept.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    warmup_ratio: float = 0.001
    decay: float = 0.0
    shape: Literal["linear", "cosine"] = "linear"
    floor: float = 0.02
    clip: Optional[float] = None
    average: float = 0.0


@dataclass(frozen=True)
class RunOptions:
    """:param steps: optimizer steps.
    :param batch: pairs per forward pass (a *group*; batch normalization and global negatives see one group).
    :param accumulate: groups per step and process.
    :param log_every: steps per row of the log; validation and checkpoints likewise.
    :param keep: also keep every checkpoint under its step's number.
    :param workers: threads that draw.
    :param ahead: steps drawn in advance.
    """

    steps: int = 20000
    batch: int = 5
    accumulate: int = 1
    log_every: int = 50
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep: bool = False
    workers: int = 2
    ahead: int = 4

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "validate_every", "checkpoint_every", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")


@dataclass(frozen=True)
class ValidationOptions:
    """:param pairs: pairs of views of held-out scans.
    :param points: voxels looked up per pair.
    :param within_mm: a retrieved voxel this near to the truth counts.
    :param pictures: False leaves pictures out of the log.
    """

    pairs: int = 4
    points: int = 500
    within_mm: float = 10.0
    pictures: bool = True


@dataclass(frozen=True)
class LandmarkOptions:
    """What is known to be the same place in two patients (:mod:`Training.patients.known_points`), taught exactly.

    :param weight: of each of its losses; 0 teaches none.
    :param seed: share of the pairs of two patients whose views lie about a point that both have.
    :param partners: further patients, per view, whose whole scans the view's points are searched in.
    """

    weight: float = 0.0
    seed: float = 0.5
    partners: int = 2


@dataclass(frozen=True)
class WideOptions:
    """Steps of the context branch alone that show the whole section of the body.

    :param share: of the steps. :param context_size: their crops, voxels of 4 mm (z, y, x).
    """

    share: float = 0.0
    context_size: Tuple[int, int, int] = (80, 64, 96)


@dataclass(frozen=True)
class LiteOptions:
    """The light recipe (ours, not the paper's), see :mod:`Training.tasks.lite_losses`.

    :param windows: intensity windows that the network sees: of CT, or of CT and MR.
    :param modalities: of the scans that take part.
    :param groups: share of the first views by group of the index.
    :param views: how views are drawn.
    :param wide: the same of wide steps.
    :param coarse: sampling of the loss at 8 mm. :param fine: at 4 mm.
    :param semantic_weight: of eq. 2. :param semantic_temperature: the official configuration's is 0.1, the paper's 0.5.
    :param links: file of cross-subject maps; None trains within patients (and registered pairs) only.
    :param cross: share of pairs of two linked scans (patients, or CT and MR of one), where there are links.
    :param landmarks: exact correspondence between patients.
    :param refresh: steps after which the averaged network embeds all training scans anew, whose whole bodies then give
        negatives; 0: negatives come from the crops alone.
    :param context_only: steps before the detail branch joins.
    """

    windows: Literal["ct", "ct-mr"] = "ct"
    modalities: Tuple[str, ...] = ("ct",)
    groups: Dict[str, float] = field(default_factory=dict)
    views: ViewOptions = field(default_factory=ViewOptions)
    wide: WideOptions = field(default_factory=WideOptions)
    coarse: LevelOptions = field(
        default_factory=lambda: LevelOptions(384, 4096, ignore_mm=16.0, cross_ignore_mm=32.0, search_mm=8.0)
    )
    fine: LevelOptions = field(
        default_factory=lambda: LevelOptions(
            512,
            4096,
            ignore_mm=8.0,
            cross_ignore_mm=20.0,
            cross_far_mm=32.0,
            known_ignore_mm=12.0,
            search_mm=5.0,
            registered_mm=3.0,
        )
    )
    semantic_weight: float = 0.3
    semantic_temperature: float = 0.1
    links: Optional[str] = None
    cross: float = 0.5
    landmarks: LandmarkOptions = field(default_factory=LandmarkOptions)
    refresh: int = 0
    context_only: int = 1200


@dataclass(frozen=True)
class Recipe:
    """A whole run; see the sections."""

    name: str = ""
    about: str = ""
    task: Literal["paper", "lite"] = "paper"
    network: NetworkOptions = field(default_factory=NetworkOptions)
    data: DataOptions = field(default_factory=DataOptions)
    patch: PatchOptions = field(default_factory=PatchOptions)
    intensity: IntensityOptions = field(default_factory=IntensityOptions)
    parts: PartOptions = field(default_factory=PartOptions)
    fine: FineSampling = field(default_factory=FineSampling)
    coarse: CoarseSampling = field(default_factory=CoarseSampling)
    semantic: SemanticOptions = field(default_factory=SemanticOptions)
    registered: RegisteredOptions = field(default_factory=RegisteredOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    run: RunOptions = field(default_factory=RunOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    lite: LiteOptions = field(default_factory=LiteOptions)


def recipe_names() -> Tuple[str, ...]:
    """Names of the recipes that come with the project."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by name or YAML file, with ``section.key=value`` changes on top.

    :raises UsageError: no such recipe, YAML that cannot be read, unknown key, value of another type.
    """
    values = _read(name, ())
    for text in changes:
        values = merged(values, assignment(text))
    values.setdefault("name", Path(name).stem)
    return build(Recipe, values, f"recipe {values['name']}")


def as_mapping(recipe: Recipe) -> Dict[str, Any]:
    """The recipe as plain values (lists for tuples), to store and compare."""
    return _plain(dataclasses.asdict(recipe))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Tuple[str, ...]:
    """``section.key: old -> new`` of all values that differ between two plain recipes."""
    found: Tuple[str, ...] = ()
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found += (f"{prefix}{key}: {before} -> {after}",)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _read(name: str, trail: Tuple[str, ...]) -> Dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if str(path) in trail:
        raise UsageError(f"The recipe {name} extends itself ({' -> '.join(trail)}).", "Remove an extends.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"There is no recipe {name} ({error}).", f"Use one of {', '.join(recipe_names())}, or a YAML file."
        ) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML ({' '.join(str(error).split())[:120]}).", "Repair the file.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no mapping.", "Write section: and its keys below.")
    base = content.pop("extends", None)
    return merged(_read(str(base), (*trail, str(path))), content) if base else content
