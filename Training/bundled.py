"""Makes the bundled light models, from folders of scans to weights, by one command.

    python -m Training.bundled lite-ct --source ../shared/data --out runs/lite-ct [--start WEIGHTS]
    python -m Training.bundled lite-ctmr --source ../shared/data --out runs/lite-ctmr --start lite-ct

Prepares the scans, trains in parts, and exports. The first part learns from two views of one scan at a time and is left
out where ``--start`` gives weights. Before a part with pairs of two patients, the network as it is then finds the maps
between them (:mod:`Training.patients.link`). The weights may be the mean of the last part's and of those before such
pairs (:class:`Plan`). It may be interrupted; the same command goes on where it was. The recipe
itself is ``Training/recipes/NAME.yaml``.
``OUT`` receives ``prepared/`` (and ``aligned/``, the pairs of ``lite-ctmr`` aligned anew), a folder for each part
(checkpoints, logs), ``NAME.safetensors`` with its record, and
``NAME.training.csv`` and ``.png``, the learning curve: the error at known points of held-out patients against steps and
hours. ``--device cuda`` trains on a GPU; ``--scale 0.1`` makes a short trial of it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from SAMv2Core.errors import ModelError
from SAMv2Core.models.catalogue import find_model
from Training import export, prepare, train
from Training.crosssam.realign import realign
from Training.data.index import read_index
from Training.engine.checkpoint import last_checkpoint, read_training
from Training.engine.command import finish
from Training.engine.learning_curve import write_curve
from Training.engine.record import LOG
from Training.patients.link import make_links

logger = logging.getLogger("Training")

FACTS = Path(__file__).parent / "facts"


@dataclass(frozen=True)
class Part:
    """A training run; the next one starts from its averaged weights.

    :param name: of its folder.
    :param steps: of this part.
    :param links: groups of the index whose patients are mapped onto each other before; none: the maps of the part
        before, if it had any.
    :param changes: ``key=value`` of the recipe.
    :param first: left out where there are weights to start from.
    """

    name: str
    steps: int
    links: Tuple[str, ...] = ()
    changes: Tuple[str, ...] = ()
    first: bool = False


ALONE = Part("alone", 2300, (), ("lite.cross=0", "lite.landmarks.weight=0", "lite.context_only=1200"), first=True)
"""From nothing: views of one scan at a time, the context branch before the detail branch."""

FINISH = Part(
    "finish",
    1200,
    (),
    (
        *("lite.cross=0.25", "lite.fine.ignore_mm=6", "optimizer.lr=0.0003"),
        *("optimizer.warmup_steps=50", "optimizer.average=0.998"),
    ),
)
"""Three pairs of four of one scan again, for the precision that the pairs of two patients have cost follow-ups."""

SEED = 1


@dataclass(frozen=True)
class Plan:
    """How a model is made.

    :param share: of the last part's weights in the result. The rest are those that the first part with pairs of two
        patients starts from: with few patients the mean is better on others than either.
    :param realign: aligned CT-MR pairs are aligned anew first (:mod:`Training.crosssam.realign`).
    """

    parts: Tuple[Part, ...]
    share: float = 1.0
    realign: bool = False


# Limbs are not mapped onto each other: a thigh has no place in a forearm, and nothing tells which pairs match.
PLANS: Dict[str, Plan] = {
    "lite-ct": Plan((ALONE, Part("main", 5000, ("ct", "hn")), FINISH), share=0.75),
    "lite-ctmr": Plan((ALONE, Part("main", 6000, ("ct", "hn"))), realign=True),
}


def make(
    name: str,
    source: List[Path],
    out: Path,
    start: Optional[str],
    device: str,
    precision: str,
    scale: float,
    changes_of_all: Sequence[str] = (),
) -> Optional[Path]:
    """All of it, see the module's text.

    :param changes_of_all: further changes of every part's recipe, for trials.
    :returns: the weights, or None when SIGTERM stopped a part.
    :raises InputError, OutputError, ModelError: as the commands that it calls.
    """
    prepared = out / "prepared"
    _must(prepare.main([*map(str, source), "--out", str(prepared)]), "Preparing the scans")
    index = read_index(prepared)
    plan = PLANS[name]
    if plan.realign and any(entry.partner_matrix is not None for entry in index.entries):
        index = realign(index, out / "aligned")
    weights = find_model(start) if start else None
    parts = [part for part in plan.parts if weights is None or not part.first]
    before: Optional[Path] = None
    maps: Optional[Path] = None
    for part in parts:
        folder = out / part.name
        changes = [*part.changes, *changes_of_all]
        if weights is not None:
            changes.append(f"network.start={weights}")
        groups = [group for group in part.links if any(entry.group == group for entry in index.entries)]
        if groups and weights is not None:
            before, maps = weights, folder / "links.pt"
            if not maps.exists():
                folder.mkdir(parents=True, exist_ok=True)
                make_links(weights, index, maps, SEED, device, groups)
        if maps is not None:
            changes.append(f"lite.links={maps}")
        steps = max(2, round(part.steps * scale))
        options = ["--steps", str(steps), "--device", device, "--precision", precision, "--seed", str(SEED)]
        sets = [word for change in changes for word in ("--set", change)]
        data = ["--data", str(index.folder), "--out", str(folder), "--resume"]
        _must(train.main([name, *data, *options, *sets]), folder)
        if read_training(last_checkpoint(folder))["step"] < steps:
            return None
        weights = last_checkpoint(folder)
    assert weights is not None
    result = out / f"{name}.safetensors"
    mixed = ["--with", str(before), "--share", str(plan.share)] if before is not None and plan.share < 1 else []
    _must(export.main([str(weights), str(result), "--facts", str(FACTS / f"{name}.json"), *mixed]), "The export")
    logs = [out / part.name / LOG for part in parts]
    write_curve(logs, str(out / f"{name}.training"))
    return result


def _must(code: int, what: object) -> None:
    """:raises ModelError: one of the commands failed; it has said why."""
    if code:
        raise ModelError(f"{what} failed with exit code {code}.", "Its message is above.")


def main(argv: Optional[List[str]] = None) -> int:
    """Exit codes as those of the command line ``samv2``; 0 also when SIGTERM stopped it after saving."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PLANS))
    parser.add_argument("--source", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", help="model name or weights file to start from")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of steps, for trials")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every recipe, for trials")
    args = parser.parse_args(argv)

    def work() -> None:
        chosen = (args.name, args.source, args.out, args.start, args.device, args.precision, args.scale, args.set)
        made = make(*chosen)
        logger.info("%s", f"made {made}" if made else "stopped; the same command goes on")

    return finish(work, args.out)


if __name__ == "__main__":
    sys.exit(main())
