"""Values: equal in every bit on the other side, and only those that are meant to travel."""

import dataclasses
import json
import math

import numpy as np
import pytest

from SAMv2Core.errors import InputError
from SAMv2Core.geometry.grid import Grid
from SAMv2Core.io.lesion import lesion_at
from SAMv2Core.landmarks.atlas import Atlas
from SAMv2Core.landmarks.landmark import Landmark, Witnesses
from SAMv2Core.matching.confidence import Evidence
from SAMv2Core.matching.result import Match
from SAMv2Core.registration.choice import Choice
from SAMv2Core.registration.verdict import Registration
from SAMv2Core.serve.frames import FrameError, FrameReader, to_bytes
from SAMv2Core.serve.values import TYPES, decode, encode
from SAMv2Core.tracking.assignment import Assignment
from SAMv2Core.tracking.confidence import TrackEvidence
from SAMv2Core.tracking.finding import Finding, Verified

RNG = np.random.default_rng(5)
THIRD = np.array([1 / 3, -0.0, 1e-308])
EVIDENCE = Evidence(0.7, 3.3, 0.1, residual_mm=math.nan, likeness=math.inf)
PAIRS = RNG.normal(size=(200, 3))
VALUES = [
    Match(THIRD, None, math.nan, math.inf, 3, 0.5, "uncertain", "Why, ü", RNG.normal(size=3), EVIDENCE),
    Finding("L1", 2, THIRD, 0.5, 1.0, 0.3, "matched", "", 12.5, None, TrackEvidence(0.1, 2, 3, 4, 0.2)),
    Verified("L2", 1, None),
    Landmark("carina", THIRD, 0.9, "matched", "", THIRD, Witnesses(0.5, 0.6, 7.0, math.nan, 8, 0.0)),
    Atlas(("a", "b"), ("x", "x"), PAIRS[:2], PAIRS[:2].astype(np.float16), np.ones(2), "m", "0" * 64, {"bias": 4.0}),
    lesion_at("L3", [1.0, 2.0, 3.0], None),
    Grid((4, 5, 6), np.diag([0.7, 0.7, 1.25, 1.0])),
    Assignment(1, {"L1": lesion_at("x", [0, 0, 1.0], 3.0)}, (lesion_at("y", [0, 0, 2.0], 3.0),), ("L9",), {"a": "b"}),
    Registration(
        RNG.normal(size=(4, 4)), "rigid", "uncertain", ("few",), 9, 8, 7, {"mean": 1 / 3}, 0.5, None, None, "fixed",
        PAIRS, PAIRS + 1, ("w",), Choice(np.eye(4), 1, 2, 3, 4, 5, 6, 7, math.nan),
    ),
    (1, [2.5, None, "x"], {"a": (True, b"".decode())}),
    RNG.normal(size=(3, 200)).astype(np.float16),
    np.array([[True, False]]),
    np.float64(1 / 3),
]  # fmt: skip


def equal(a, b):
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_arrive_as_they_were(value):
    arrays = []
    header = {"value": encode(value, arrays)}
    json.dumps(header, allow_nan=False)  # plain JSON, for clients in other languages
    (frame,) = FrameReader().feed(to_bytes(header, arrays, compress=True))
    assert equal(value, decode(frame.header["value"], frame.arrays))


def test_other_things_do_not_travel():
    for value in (object(), {1: 2}, {"~": 1}, np.array(["a"]), np.array([object()]), lambda: 0, b"bytes"):
        with pytest.raises(TypeError):
            encode(value, [])


@pytest.mark.parametrize(
    "value",
    [
        {"~": "os.system", "command": "true"},
        {"~": "Path"},
        {"~": "Match"},
        {"~": "Match", "evil": 1},
        {"~": ["Match"]},
        {"~": "array", "n": 5},
        {"~": "array", "n": -1},
        {"~": "array", "n": True},
        {"~": "array", "dtype": "|O", "shape": [1], "v": [1]},
        {"~": "array", "dtype": "<f8", "shape": [3], "v": [1]},
        {"~": "array", "dtype": "<i8", "shape": [1], "v": ["x"]},
        {"~": "array", "dtype": "<f8", "shape": [1000], "v": [0] * 1000},
        {"~": "float", "v": "1e5"},
        {"~": "tuple", "v": 3},
        {"~": "Grid", "shape_zyx": 3, "ijk_to_lps": 4},
    ],
)
def test_what_encode_never_makes_is_refused(value):
    with pytest.raises((FrameError, InputError)):  # the latter: a grid's own checks
        decode({"x": [value]}, [np.zeros(3)])


def test_no_type_that_travels_loads_torch():
    """The layout test knows which modules load none; here each of TYPES is one of them by name."""
    from Testing.repository import test_layout as layout

    heavy = layout.heavy_modules()
    assert not [home for home in TYPES.values() if f"SAMv2Core.{home}" in heavy]
