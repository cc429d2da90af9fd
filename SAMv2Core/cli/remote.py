"""What the commands call when another computer computes: names and arguments of SAMv2Core's own functions.

A command asks :func:`SAMv2Core.cli.common.functions` for what it calls: SAMv2Core itself, or a :class:`Remote`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

import SAMv2Core as s
from SAMv2Core.errors import UsageError
from SAMv2Core.matching.exemplars import by_label
from SAMv2Core.progress import Progress
from SAMv2Core.serve.client import Client, EmbeddingFacts, Scan, facts_of, for_progress
from SAMv2Core.serve.http_link import HttpLink, read_token


@dataclass(frozen=True, eq=False)
class RemoteEmbedding:
    """An embedding that a server keeps: what is known of it here, and the scan by which it is asked for."""

    scan: Scan
    facts: EmbeddingFacts

    @property
    def modality(self) -> str:
        return self.facts.modality

    @property
    def warnings(self) -> Tuple[str, ...]:
        return self.facts.warnings


class Remote:
    """A server's functions.

    :param url, token_file: as on the command line.
    """

    def __init__(self, url: str, token_file: Optional[str]) -> None:
        if not token_file:
            raise UsageError("--server needs the server's token.", "Add --token-file with the file that has it.")
        link = HttpLink(url, read_token(token_file))
        self.is_open_to_others = link.is_open_to_others
        self._client = Client(link)

    def load_model(self, name: Optional[str], modalities: Sequence[str]) -> RemoteModel:
        """The model of a name, else the server's own for these modalities."""
        values = {"model": name or "auto", "modalities": sorted(set(modalities))}
        return RemoteModel(self, self._run("choose", [], values))

    def embed(self, scan: Scan, progress: Optional[Progress]) -> RemoteEmbedding:
        value = self._client.run(
            self._client.steps("embed", [scan], lambda: {"source": scan.source()}, for_progress(progress))
        )
        return RemoteEmbedding(scan, facts_of(value, [scan])[0])

    def match(
        self, template: Any, query: RemoteEmbedding, points: Any, method: str, progress: Any = None, expect: Any = None
    ) -> List[s.Match]:
        """As :func:`SAMv2Core.match`."""
        values = {"method": method, "expect": expect}
        if isinstance(template, RemoteEmbedding):
            places = np.array(getattr(points, "positions_lps", points), np.float64).reshape(-1, 3)
            return self._on({"template": template, "query": query}, "match", {**values, "points": places}, progress)
        _, aligned = by_label(points)
        arrays = [np.array(item, np.float64).reshape(-1, 3) for item in aligned]
        named = {"template": list(template), "query": query}
        return self._on(named, "match", {**values, "points": arrays}, progress)

    def similarity_map(self, template: RemoteEmbedding, query: RemoteEmbedding, point: Any) -> Any:
        """As :func:`SAMv2Core.similarity_map`."""
        points = np.array(point, np.float64).reshape(1, 3)
        return self._on({"template": template, "query": query}, "similarity_map", {"points": points})

    def find_landmarks(self, emb: RemoteEmbedding, atlas: Any, only: Any, progress: Any = None) -> List[s.Landmark]:
        """As :func:`SAMv2Core.find_landmarks`.

        :param atlas: None for the landmarks that ship with the model; else a list of atlases, ``"bundled"`` among them
            for those. They are sent: vectors and positions of places that the user has named, no voxel.
        """
        return self._on({"source": emb}, "landmarks", {"only": only, "atlases": atlas or []}, progress)

    def track(
        self, baseline: RemoteEmbedding, follow_ups: Any, lesions: Any, progress: Any = None, seed: int = 0
    ) -> List[s.Finding]:
        """As :func:`SAMv2Core.track`."""
        values = {"lesions": list(lesions), "seed": seed}
        return self._on({"baseline": baseline, "follow_ups": list(follow_ups)}, "track", values, progress)[0]

    def register(
        self,
        fixed: RemoteEmbedding,
        moving: RemoteEmbedding,
        transform: str,
        seed: int,
        progress: Any,
        fixed_volume: Any,
        moving_volume: Any,
        refine: str,
        initial: Optional[np.ndarray],
    ) -> s.Registration:
        """As :func:`SAMv2Core.register`; the server has the volumes."""
        values = {"transform": transform, "seed": seed, "refine": refine, "initial": initial}
        return self._on({"fixed": fixed, "moving": moving}, "register", values, progress)[0]

    def _on(self, embeddings: Any, operation: str, values: Any, progress: Any = None) -> Any:
        flat = [emb for entry in embeddings.values() for emb in (entry if isinstance(entry, list) else [entry])]

        def source(entry: Any) -> Any:
            return [source(emb) for emb in entry] if isinstance(entry, list) else entry.scan.source()

        named = {name: source(entry) for name, entry in embeddings.items()}
        return self._run(operation, [emb.scan for emb in flat], {**named, **values}, progress)["value"]

    def _run(self, operation: str, scans: Sequence[Scan], values: Any, progress: Any = None) -> Any:
        return self._client.run(self._client.steps(operation, scans, lambda: values, for_progress(progress)))


class RemoteModel:
    """A model on a server; see :class:`SAMv2Core.Model`."""

    def __init__(self, remote: Remote, chosen: Any) -> None:
        self._remote, self._key = remote, chosen["key"]
        self.device = f"server, {chosen['device']}"
        self.info = SimpleNamespace(
            name=chosen["name"], sha256=chosen["sha256"], warnings=tuple(chosen["warnings"]), modalities=()
        )

    def embed(
        self, volume: s.Volume, modality: str, progress: Optional[Progress], precision: str = "auto", **others: Any
    ) -> RemoteEmbedding:
        """Send the volume, unless the server has it, and have it embedded there."""
        options = {"modality": modality, "model": self._key, "precision": precision}
        return self._remote.embed(Scan(volume, volume.source, options=options), progress)
