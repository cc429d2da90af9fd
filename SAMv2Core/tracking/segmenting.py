"""From a verified point to a size: a running nnInteractive server segments the lesion that was clicked.

nnInteractive (DKFZ; the client is Apache-2.0, its weights CC BY-NC-SA) turns one click into a mask. Its client, the
package ``nninteractive-client``, needs no torch; it is optional and never imported unless a server is named. **The
scan is sent to that server**: whoever names it must be allowed to send it there.

Conventions: LPS mm; the server sees the array as it is, (z, y, x), and points as (k, j, i).
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy import ndimage

from SAMv2Core.errors import InputError, UsageError
from SAMv2Core.io.lesion import Lesion
from SAMv2Core.io.lesions import measured
from SAMv2Core.io.volume import Volume
from SAMv2Core.progress import Progress, silent
from SAMv2Core.tracking.finding import Finding
from SAMv2Core.tracking.recist import PRESENT

CLIENT = "nnInteractive.inference.remote"
REQUIREMENT = "nninteractive-client>=2.6"

MAX_RADIUS_MM = 150.0
"""A mask that reaches farther from the click is no lesion: the server has taken the whole organ."""


def connect(url: str, api_key: Optional[str] = None) -> Any:
    """A session of a running server; close it with ``close()``.

    :raises UsageError: the client is not installed.
    :raises InputError: nobody answers there, or the server is full or refuses the key.
    """
    try:
        client = importlib.import_module(CLIENT)
    except ImportError as error:
        raise UsageError(
            f"The nnInteractive client does not load ({error}).", f"pip install '{REQUIREMENT}'"
        ) from error
    try:
        return client.nnInteractiveRemoteInferenceSession(server_url=url, api_key=api_key)
    except Exception as error:  # httpx's own, and the client's for a full server
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"The nnInteractive server {url} cannot be used: {reason}.", "Check that it runs.") from error


def segment(
    session: Any, volume: Volume, points_lps: Mapping[str, np.ndarray], progress: Optional[Progress] = None
) -> Dict[str, Lesion]:
    """The lesion at each point, as the server sees it; points without a mask, or with an organ's, are left out.

    :param session: from :func:`connect`, or anything of its interface.
    :param points_lps: label -> (3,) within the volume.
    :raises InputError: the server has stopped answering.
    """
    tell = progress or silent
    found: Dict[str, Lesion] = {}
    buffer = np.zeros(volume.array.shape, np.uint8)
    try:
        spacing = [float(value) for value in volume.grid.spacing_ijk_mm[::-1]]
        session.set_image(np.ascontiguousarray(volume.array[None], dtype=np.float32), {"spacing": spacing})
        session.set_target_buffer(buffer)
        for n, (label, place) in enumerate(points_lps.items()):
            tell(n / max(len(points_lps), 1), f"Segmenting {label}")
            k, j, i = (int(value) for value in np.rint(volume.grid.to_ijk(np.asarray(place)[None])[0])[::-1])
            if not all(0 <= index < size for index, size in zip((k, j, i), volume.array.shape)):
                continue
            session.reset_interactions()
            session.add_point_interaction((k, j, i), include_interaction=True)
            lesion = _lesion_of(label, np.asarray(session.target_buffer) > 0, (k, j, i), volume)
            if lesion is not None:
                found[label] = lesion
    except Exception as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"The nnInteractive server failed: {reason}.", "Start it again, or leave it out.") from error
    tell(1.0, "Segmented")
    return found


def _lesion_of(label: str, mask: np.ndarray, click: Tuple[int, int, int], volume: Volume) -> Optional[Lesion]:
    """The part of a mask that was clicked; None when the click lies in none, or the part is too large."""
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    number = parts[click]
    if number == 0:
        return None
    ijk = np.argwhere(parts == number)[:, ::-1]
    samples = volume.grid.to_lps(ijk)
    if np.linalg.norm(samples - samples.mean(axis=0), axis=1).max() > MAX_RADIUS_MM:
        return None
    return measured(label, ijk, volume.grid)


def with_segmented(findings: Sequence[Finding], study: int, segmented: Mapping[str, Lesion]) -> List[Finding]:
    """The findings of a study with the sizes of their masks; place, status and confidence stay the tracking's."""
    return [
        replace(
            finding, diameter_mm=segmented[finding.label].diameter_mm, short_mm=segmented[finding.label].short_mm,
            ends_lps=segmented[finding.label].ends_lps, volume_ml=segmented[finding.label].volume_ml, state=PRESENT,
        )
        if finding.study == study and finding.lps is not None and finding.label in segmented
        else finding
        for finding in findings
    ]  # fmt: skip
