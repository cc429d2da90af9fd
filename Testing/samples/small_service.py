"""A service with a small network in place of the bundled weights, in this process or as a child."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, List

from SAMv2Core.serve.service import Service, Settings

ROOT = str(Path(__file__).resolve().parents[2])


SLOW, STUCK = "slow", "stuck"
"""Names of models that take a minute: one that reports its progress and one that does not."""


def load(name: str, device: str) -> Any:
    from SAMv2Core.embedding.model import Model
    from Testing.samples.embedding_samples import model_info, small_lite

    model = Model(small_lite(), model_info(name), "cpu")
    if name in (SLOW, STUCK):
        embed = model.embed

        def late(volume: Any, modality: str, progress: Any, **options: Any) -> Any:
            for n in range(1200):
                time.sleep(0.05)
                if name == SLOW:
                    progress(n / 1200, "slowly")
            return embed(volume, modality, progress, **options)

        model.embed = late  # type: ignore[method-assign]
    return model


def small_service(**settings: Any) -> Service:
    """Has one network under every name; the default one is ``lite-test``, :data:`SLOW` and :data:`STUCK` take long."""
    return Service(Settings(device="cpu", **settings), load, lambda *modalities: "lite-test")


def child_command() -> List[str]:
    """Starts a child process that serves so."""
    code = f"import sys; sys.path.insert(0, {ROOT!r}); from Testing.samples.small_service import child; child()"
    return [sys.executable, "-c", code]


def child() -> None:
    from SAMv2Core.serve.child import main

    main(small_service(is_trusting=True))
