"""Unique identifiers of DICOM: new ones, and such as follow from what they name (2.25.<UUID>, PS3.5 B.2).

What is made twice from the same things (a row of a batch that runs again after its worker was killed) is the same
object and bears the same UID, so that an archive keeps one of it. No package is needed.
"""

from __future__ import annotations

import uuid

#: Ours, of all UIDs that follow from something: any will do, it must never change.
_NAMESPACE = uuid.UUID("5b0ff3f1-52b0-4c0e-9d55-0f4b5f0d7a52")


def new_uid() -> str:
    """A random UID, globally unique."""
    return f"2.25.{uuid.uuid4().int}"


def uid_of(kind: str, *parts: object) -> str:
    """The UID of what these parts (and nothing else) make up: the same for the same texts, another for others.

    :param kind: of what: a series and its only instance are made of the same parts.
    :param parts: by their ``repr``; together globally unique, as with the UID of an image among them.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, repr((kind, *parts))).int}"
