"""The pose of a small scan in a large one, chosen among many hypotheses by what both scans show.

One fit is not enough where body parts repeat or matches are mostly wrong. So poses are proposed by the matches (several
disjoint modes), by the caller, by the headers, and by a search over all translations and many rotations, patients
lying the other way round included (prone for supine, feet first for head first); each is refined on intensities
(:mod:`SAMv2Core.registration.pose_refinement`) from coarse to fine, and of those that end apart the best is kept. How
much better it is than the best of the others tells how far to trust it.

Conventions: LPS mm; matrices (4, 4) map points of the small to the large scan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, List, Optional, Sequence

import numpy as np
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from SAMv2Core.geometry.grid import transform_points
from SAMv2Core.progress import Progress, silent
from SAMv2Core.registration.choice import Choice
from SAMv2Core.registration.least_squares import residuals_mm
from SAMv2Core.registration.pose_refinement import Level, Poses, refine
from SAMv2Core.registration.pose_search import rotations_within, search
from SAMv2Core.registration.ransac import ransac
from SAMv2Core.registration.tissue import TissueImage

#: Half turns of the patient's axes: as the headers say, feet first, turned over, both.
HALF_TURNS = ((1, 1, 1), (1, -1, -1), (-1, -1, 1), (-1, 1, -1))
REACH_DEG, STEP_DEG = 20.0, 20.0  # of the search; the refinement bridges 15 degrees and 25 mm
SEARCHED_PER_TURN = (10, 4, 4, 4)  # headers are right more often than not
APART_MM = 15.0  # poses closer than this, on average over the body, are one
LEVELS = (Level(8.0, 1200, 25, 3.0), Level(4.0, 3000, 25, 1.5), Level(2.0, 5000, 25, 0.7))
#: Of the chosen pose alone: a pose that lays the scan where there is little bone would be measured by other places.
#: Many points, since few lie near bone: with a quarter of them four limbs ended 4.7 mm off at bone instead of 3.0.
BONE_LEVELS = (
    Level(4.0, 12000, 20, 1.5, bone_mm=20.0, bone_weight=4.0, full_overlap=0.9),
    Level(2.0, 32000, 25, 0.7, bone_mm=12.0, bone_weight=4.0, full_overlap=0.9),
)
KEPT = (10, 2)  # distinct poses that go on to the second and third level
HALF_LEVEL = Level(4.0, 2000, 20, 1.5, bone_mm=20.0)
VOTE_WEIGHT = 0.3  # of all matches explained against some 0.5 of intensities
N_BODY_POINTS = 200
N_MODES = 6

Votes = Callable[[np.ndarray], np.ndarray]


def choose_pose(
    large: TissueImage,
    small: TissueImage,
    starts: Sequence[np.ndarray],
    votes: Optional[Votes] = None,
    seed: int = 0,
    progress: Optional[Progress] = None,
) -> Optional[Choice]:
    """The best of the starts and of what the search finds.

    :param starts: (4, 4) matrices that someone believes in.
    :param votes: (K, 4, 4) to (K,) share of the matches that each explains, 0..1.
    :returns: None when the scans cannot be laid over one another.
    """
    tell = progress or silent
    proposed = [*starts, *_searched(large, small, lambda f: tell(0.5 * f, "Searching poses"))]
    if not proposed:
        return None
    body = _body_points(small)
    vote = votes or (lambda matrices: np.zeros(len(matrices)))
    poses = refine(large, small, np.stack(proposed), LEVELS[0], seed)
    tell(0.6, "Refining poses")
    poses = poses.chosen(_distinct(poses, vote, body, KEPT[0]))
    poses = refine(large, small, poses.matrices, LEVELS[1], seed)
    tell(0.8, "Refining poses")
    leading = _distinct(poses, vote, body, KEPT[1])
    best = refine(large, small, poses.chosen(leading).matrices, LEVELS[2], seed)
    # All others are measured in the same way, so that none is forgotten because a better one met it on its way.
    others = refine(large, small, poses.matrices, LEVELS[2]._replace(steps=0), seed)
    choice = _choice(best.joined(others), vote, body)
    halves_mm = _halves_mm(large, small, choice.matrix, body, seed)
    tell(0.9, "Refining poses")
    for level in BONE_LEVELS:
        last = refine(large, small, choice.matrix[None], level, seed)
        choice = replace(choice, matrix=last.matrices[0], bone=float(last.bone[0]))
    tell(1.0, "Refining poses")
    return replace(choice, halves_mm=halves_mm, turned_deg=angle_deg(choice.matrix))


def score_poses(large: TissueImage, small: TissueImage, matrices: np.ndarray, seed: int = 0) -> np.ndarray:
    """(K,) how well the intensities agree under (K, 4, 4) affine matrices as they are, at 4 mm."""
    return refine(large, small, matrices, LEVELS[1]._replace(steps=0), seed).score


def match_modes(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray, threshold_mm: float, seed: int
) -> List[np.ndarray]:
    """Rigid transforms that explain disjoint sets of the matches, the largest set first.

    :param source: (N, 3), with (N, 3) targets and (N,) weights.
    """
    found, left = [], weights.copy()
    for n in range(N_MODES):
        if np.count_nonzero(left) < 3:
            break
        mode = ransac("rigid", source, target, threshold_mm, left, seed + n, max_hypotheses=2048)
        if mode is None or np.count_nonzero(mode.inliers & (left > 0)) < 3:
            break
        found.append(mode.matrix)
        left[mode.inliers] = 0
    return found


def vote_of(source: np.ndarray, target: np.ndarray, weights: np.ndarray, threshold_mm: float) -> Votes:
    """How much of the matches' weight a matrix explains, falling with the residual."""

    def votes(matrices: np.ndarray) -> np.ndarray:
        if not weights.sum() > 0:
            return np.zeros(len(matrices))
        squared = [np.minimum((residuals_mm(matrix, source, target) / threshold_mm) ** 2, 1) for matrix in matrices]
        return (1 - np.array(squared)) @ weights / weights.sum()

    return votes


def angle_deg(matrix: np.ndarray) -> float:
    """Angle of the rotation in an affine matrix, (4, 4) or (3, 3)."""
    return float(np.degrees(Rotation.from_matrix(polar(matrix[:3, :3])[0]).magnitude()))


def _searched(large: TissueImage, small: TissueImage, progress: Callable[[float], None]) -> List[np.ndarray]:
    found = []
    for n, turn in enumerate(HALF_TURNS):
        rotations = [rotation @ np.diag(turn) for rotation in rotations_within(REACH_DEG, STEP_DEG)]
        poses = search(large, small, rotations)
        found += [pose.matrix for pose in poses[: SEARCHED_PER_TURN[n]]]
        progress((n + 1) / len(HALF_TURNS))
    return found


def _body_points(image: TissueImage) -> np.ndarray:
    k, j, i = np.nonzero(image.body.numpy())
    points = image.grid.to_lps(np.stack([i, j, k], axis=-1))
    return points[np.linspace(0, len(points) - 1, N_BODY_POINTS).astype(int)]


def _halves_mm(large: TissueImage, small: TissueImage, matrix: np.ndarray, body: np.ndarray, seed: int) -> float:
    """Each half of the small scan (cut across its longest axis) aligned alone: the distance over the body, mm.

    Of one patient both halves go on fitting where the whole did; of another patient each finds a better place.
    """
    center = body.mean(axis=0)
    axis = np.linalg.svd(body - center, full_matrices=False)[2][0]
    moved = []
    for side in (1.0, -1.0):
        plane = side * np.array([*axis, -axis @ center])
        found = refine(large, small, matrix[None], HALF_LEVEL, seed, plane)
        moved.append(transform_points(found.matrices[0], body))
    return float(np.linalg.norm(moved[0] - moved[1], axis=1).mean())


def _distinct(poses: Poses, vote: Votes, body: np.ndarray, count: int) -> List[int]:
    """Rows of poses that are apart from all better ones, best first."""
    total = poses.score + VOTE_WEIGHT * vote(poses.matrices)
    moved = [transform_points(matrix, body) for matrix in poses.matrices]
    rows: List[int] = []
    for row in np.argsort(-total):
        apart = [np.linalg.norm(moved[row] - moved[other], axis=1).mean() for other in rows]
        if all(distance > APART_MM for distance in apart):
            rows.append(int(row))
    return rows[:count]


def _choice(poses: Poses, vote: Votes, body: np.ndarray) -> Choice:
    votes = vote(poses.matrices)
    total = poses.score + VOTE_WEIGHT * votes
    best, *others = _distinct(poses, vote, body, len(total))
    second = float(total[others[0]]) if others else 0.0
    return Choice(
        matrix=poses.matrices[best],
        information=float(poses.information[best]),
        edges=float(poses.edges[best]),
        overlap=min(float(poses.overlap[best]), 1.0),
        runner_up=float(np.clip(second / max(float(total[best]), 1e-6), 0.0, 1.0)),
        turned_deg=angle_deg(poses.matrices[best]),
        bone=float(poses.bone[best]),
        votes=float(votes[best]),
        halves_mm=np.inf,
    )
