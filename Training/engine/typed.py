"""Frozen dataclasses out of plain mappings (YAML), with errors that name the place and the nearest right word."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any, Dict, Mapping, Type, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from SAMv2Core.errors import UsageError

T = TypeVar("T")


def build(cls: Type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass whose fields are ``int``, ``float``, ``bool``, ``str``, tuples of these, ``Dict``
    with texts for keys, ``Optional``, ``Literal`` or dataclasses of the same kind.

    :param values: field name to value; fields left out keep their default.
    :param where: what the mapping is, for errors (``recipe sam``).
    :raises UsageError: unknown key (the nearest known one is named), value of another type.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: names with values are needed, not {values!r}.", "Indent its keys below it.")
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    arguments: Dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            raise unknown_key(str(key), names, where)
        arguments[key] = _convert(hints[key], value, f"{where}, {key}")
    try:
        return cls(**arguments)
    except ValueError as error:  # a dataclass's own check
        raise UsageError(f"{where}: {error}.", "Change the value.") from error


def unknown_key(key: str, names: Any, where: str) -> UsageError:
    """The error for a key that does not exist."""
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
    return UsageError(f"{where}: there is no key {key!r}.", f"Did you mean {near[0]!r}?" if near else "Remove it.")


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Dict[str, Any]:
    """A mapping with another laid over it, section by section."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def assignment(text: str) -> Dict[str, Any]:
    """``section.key=value`` as a nested mapping; the value is read as YAML.

    :raises UsageError: no ``=``, or a value that is not YAML.
    """
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise UsageError(f"--set {text}: a name, = and a value are needed.", "For example --set optimizer.lr=0.01.")
    try:
        content: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: the value cannot be read.", "Quote texts with special characters.") from error
    for part in reversed(path.strip().split(".")):
        content = {part: content}
    return content


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional
        if value is None:
            return None
        return _convert(next(k for k in inner if k is not type(None)), value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: names with values are needed, not {value!r}.", "Indent its keys below it.")
        return {str(key): _convert(inner[1], one, f"{where}, {key}") for key, one in value.items()}
    if origin is tuple:
        return _tuple(inner, value, where)
    if origin is not None and str(origin).endswith("Literal"):
        if value not in inner:
            raise UsageError(f"{where}: {value!r} is not possible.", f"Use one of {', '.join(map(str, inner))}.")
        return value
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    return _scalar(kind, value, where)


def _tuple(inner: Any, value: Any, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where}: a list is needed, not {value!r}.", "Write [a, b, ...].")
    kinds = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
    if len(kinds) != len(value):
        raise UsageError(f"{where}: {len(kinds)} values are needed, not {len(value)}.", "Write [a, b, ...].")
    return tuple(_convert(k, v, where) for k, v in zip(kinds, value))


def _scalar(kind: Any, value: Any, where: str) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise UsageError(f"{where}: {value!r} is not a value of type {kind.__name__}.", "Change the value.")
