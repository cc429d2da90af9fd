"""Who makes the feature vectors that are put through the matcher: our model, or a stand-in in the same table.

Every evaluation asks an :class:`Extractor` for embeddings and hands them to ``match`` or ``register``; so a
training-free descriptor or another network (:mod:`SAMv2Core.evaluation.features`) goes through exactly the protocol
that our model goes through.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

if TYPE_CHECKING:
    from SAMv2Core.embedding.cache import Cache
    from SAMv2Core.embedding.embedding import Embedding
    from SAMv2Core.embedding.model import Model
    from SAMv2Core.io.volume import Volume
    from SAMv2Core.progress import Progress


class Extractor:
    """Embeds volumes with a model.

    :param model: its ``name`` and ``sha256`` are shown in tables and reports.
    :param options: keyword arguments of :meth:`SAMv2Core.embedding.model.Model.embed` (precision, memory, cache).
    """

    def __init__(self, model: Model, cache: Optional[Cache] = None, **options: Any) -> None:
        self.name = model.info.name
        self.sha256 = model.info.sha256
        self.device = str(model.device)
        self._model = model
        self._options: Dict[str, Any] = {"cache": cache, **options}

    def embed(self, volume: Volume, modality: str = "auto", progress: Optional[Progress] = None) -> Embedding:
        """The embedding of a volume; errors are those of :meth:`SAMv2Core.embedding.model.Model.embed`."""
        return self._model.embed(volume, modality, progress, **self._options)


class RecentEmbeddings:
    """The scans embedded last, so that one with many partners is embedded once.

    :param limit_bytes: of the vectors kept; the newest stays whatever its size. Searching takes about as much again.
    """

    def __init__(self, limit_bytes: int = 2**29) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, Tuple[Any, int]] = OrderedDict()

    def get(self, key: str, make: Callable[[], Tuple[Any, int]]) -> Any:
        """The value kept under ``key``, or a new one; ``make`` returns it with its size in bytes."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][0]
