"""How good are proposed diameters? The ends of lines matched as the Track tab does it, in simulated follow-ups.

::

    python Testing/slicer/line_ends.py [--model lite-ct] [--lesions 24]

Lines in random directions of the slice through balls of realistic size, in the torsos of ``ct/val``. *Moved*: only the
patient moved, deformed and was scanned differently, so both ends' true places are known. *Changed*: bright balls were
planted, and grew or shrank by a factor of 0.5 to 1.8. Errors of the length, in percent of the true one, of the proposal
and of the baseline's length taken unchanged. All on simulated data.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "SAMv2Slicer"), str(HERE.parents[1])]
    from standins.install import install

    install()

import numpy as np  # noqa: E402

from SAMv2Core.embedding.load import load_model  # noqa: E402
from SAMv2Core.io.volume import read_volume  # noqa: E402
from SAMv2Core.simulation.lesion_growth import LesionOptions  # noqa: E402
from SAMv2Core.simulation.simulate import FOLLOW_UP, simulate_follow_up  # noqa: E402
from SAMv2Core.tracking.diameters import is_credible, match_ends  # noqa: E402
from SAMv2Core.tracking.track import track  # noqa: E402
from SAMv2SlicerLib.work.lesion_engine import LesionInput  # noqa: E402
from Testing.benchmarks.common import find_data  # noqa: E402
from Testing.benchmarks.tracking_cases import draw_lesions, planted  # noqa: E402

CHANGE = LesionOptions(growth=(0.5, 1.8))


def linesOf(lesions, rng):
    """Each lesion with the ends of a line through its center, within the slice."""
    found = []
    for lesion in lesions:
        angle = rng.uniform(0, np.pi)
        axis = lesion.radius_mm * np.array([np.cos(angle), np.sin(angle), 0.0])
        ends = lesion.center_lps + np.array([-axis, axis])
        found.append(LesionInput(lesion.label, lesion.center_lps, 2 * lesion.radius_mm, endsLPS=ends))
    return found


def run(model, path, number, isChanged, count):
    """[(length before, true length, proposed length or NaN)] of the lesions whose place was found."""
    volume = read_volume(path)
    lesions = draw_lesions(model.embed(volume, modality="ct"), count, (5, number))
    if isChanged:
        volume = planted(volume, lesions)
        simulated = simulate_follow_up(volume, FOLLOW_UP, 77 + number, lesions, CHANGE)
    else:
        simulated = simulate_follow_up(volume, FOLLOW_UP, 77 + number)
    baseline, followUp = (model.embed(item, modality="ct") for item in (volume, simulated.volume))
    lines = linesOf(lesions, np.random.default_rng(number))
    here = {f.label: f for f in track(baseline, [followUp], lesions) if f.study == 1 and f.lps is not None}
    ends = match_ends(baseline, followUp, {line.label: line.endsLPS for line in lines}, list(here.values()))
    truth = {change.label: change.diameter_mm for change in simulated.lesions} if isChanged else {}
    rows = []
    for line in lines:
        if line.label not in here:
            continue
        if not isChanged:
            places, _ = simulated.map_points(line.endsLPS)
            truth[line.label] = float(np.linalg.norm(places[1] - places[0]))
        pair = ends.get(line.label)
        isShown = pair is not None and is_credible(pair, here[line.label].lps, line.diameterMm)
        length = float(np.linalg.norm(pair[1] - pair[0])) if isShown else np.nan
        rows.append((line.diameterMm, truth[line.label], length))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite-ct")
    parser.add_argument("--data", default=None)
    parser.add_argument("--lesions", type=int, default=24)
    options = parser.parse_args()
    model = load_model(options.model)
    paths = [p for p in sorted((find_data(options.data) / "ct" / "val").glob("*.nii.gz")) if "_labels" not in p.name]
    print(
        "| | lesions | proposed | off by, median | 90 % within | unchanged length off by |\n|---|---|---|---|---|---|"
    )
    for name, isChanged in (("moved", False), ("changed", True)):
        rows = [row for n, path in enumerate(paths) for row in run(model, path, n, isChanged, options.lesions)]
        before, true, proposed = np.array(rows).T
        shown = np.isfinite(proposed)
        off = 100 * np.abs(proposed - true)[shown] / true[shown]
        old = 100 * np.abs(before - true)[shown] / true[shown]
        figures = f"{np.median(off):.0f} % | {np.percentile(off, 90):.0f} % | {np.median(old):.0f} % |"
        print(f"| {name} | {len(rows)} | {shown.sum()} | {figures}", flush=True)


if __name__ == "__main__":
    main()
