"""Results and arguments as plain JSON and arrays, and back, equal in every bit.

What JSON has no word for is an object with the key ``"~"``: ``{"~": "array", "n": 2}`` is the frame's third array, a
small one stands in place as ``{"~": "array", "dtype": "<f8", "shape": [3], "v": [1.5, 2.0, "nan"]}``, numbers that are
not finite are ``{"~": "float", "v": "inf"}``, tuples ``{"~": "tuple", "v": [...]}``, and each of the results that
:data:`TYPES` names is ``{"~": "Match", "template_lps": ..., ...}`` with its public fields. Nothing else is accepted,
and no name in a message is ever looked up anywhere but in that table.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any, Dict, List, Sequence

import numpy as np

from SAMv2Core.errors import SAMv2Error
from SAMv2Core.serve.frames import DTYPES, FrameError

SMALL = 64
"""Arrays up to so many elements stand in the header."""

MARK = "~"

TYPES: Dict[str, str] = {
    "Assignment": "tracking.assignment",
    "Atlas": "landmarks.atlas",
    "Choice": "registration.choice",
    "Deformation": "registration.deformable",
    "Evidence": "matching.confidence",
    "Finding": "tracking.finding",
    "Grid": "geometry.grid",
    "Landmark": "landmarks.landmark",
    "Lesion": "io.lesion",
    "Match": "matching.result",
    "Registration": "registration.verdict",
    "TrackEvidence": "tracking.confidence",
    "Verified": "tracking.finding",
    "Witnesses": "landmarks.landmark",
}
"""Name -> module of SAMv2Core; none of these modules loads torch."""


def encode(value: Any, arrays: List[np.ndarray]) -> Any:
    """A value as JSON; large arrays are appended to ``arrays``.

    :raises TypeError: a value of another kind.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.ndarray):
        return _encode_array(value, arrays)
    if isinstance(value, np.generic):
        return encode(value.item(), arrays)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {MARK: "float", "v": str(value)}
    if isinstance(value, list):
        return [encode(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {MARK: "tuple", "v": [encode(item, arrays) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) and key != MARK for key in value):
        return {key: encode(item, arrays) for key, item in value.items()}
    name = type(value).__name__  # by its name: Slicer reloads modules, and a lesion made before is still one
    if name in TYPES and dataclasses.is_dataclass(value):
        fields = {part.name: encode(getattr(value, part.name), arrays) for part in dataclasses.fields(value)}
        return {MARK: name, **fields}
    raise TypeError(f"A {name} cannot be sent.")


def _encode_array(array: np.ndarray, arrays: List[np.ndarray]) -> Any:
    dtype = array.dtype.newbyteorder("<").str.replace("=", "<")
    if dtype not in DTYPES:
        raise TypeError(f"An array of {array.dtype} cannot be sent.")
    if array.size > SMALL:
        arrays.append(array)
        return {MARK: "array", "n": len(arrays) - 1}
    values = [v if not isinstance(v, float) or math.isfinite(v) else str(v) for v in array.reshape(-1).tolist()]
    return {MARK: "array", "dtype": dtype, "shape": list(array.shape), "v": values}


def decode(value: Any, arrays: Sequence[np.ndarray] = ()) -> Any:
    """What :func:`encode` was given.

    :raises FrameError: something that it never makes.
    """
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind is None:
        return {key: decode(item, arrays) for key, item in value.items()}
    try:
        if kind == "array":
            return _decode_array(value, arrays)
        if kind == "float":
            return float({"nan": "nan", "inf": "inf", "-inf": "-inf"}[value["v"]])
        if kind == "tuple":
            return tuple(decode(item, arrays) for item in value["v"])
        home = importlib.import_module(f"SAMv2Core.{TYPES[kind]}")
        return getattr(home, kind)(**{key: decode(item, arrays) for key, item in value.items() if key != MARK})
    except SAMv2Error:
        raise  # the result's own checks, which say more
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise FrameError(f"A {str(kind)[:20]} makes no sense ({type(error).__name__}).") from None


def _decode_array(value: Dict[str, Any], arrays: Sequence[np.ndarray]) -> np.ndarray:
    if "n" in value:
        number = value["n"]
        if type(number) is not int or not 0 <= number < len(arrays):
            raise FrameError("A value names an array that is not there.")
        return arrays[number]
    if value["dtype"] not in DTYPES or len(value["v"]) > SMALL:
        raise FrameError("A small array makes no sense.")
    dtype = np.dtype(value["dtype"])
    numbers = [float(v) if isinstance(v, str) else v for v in value["v"]]
    return np.array(numbers, dtype).reshape([int(n) for n in value["shape"]])
