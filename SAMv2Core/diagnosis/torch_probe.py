"""What torch can do here, as one line of JSON on stdout; run by :mod:`SAMv2Core.diagnosis.doctor` in a process of its
own.

A broken torch may not only fail to import but take the process down with it (a half-finished install, a wrong driver,
another NumPy's binary interface), and a device may be listed and still compute nothing. So it is tried, elsewhere.
This file imports nothing of SAMv2 and is executed by its text.
"""

from __future__ import annotations

import json
import time
from typing import Any, Dict, List


def try_device(torch: Any, name: str) -> Dict[str, Any]:
    """Run one small 3-D convolution there, the operation that all networks of SAMv2 consist of."""
    start = time.perf_counter()
    try:
        x = torch.ones((1, 1, 8, 8, 8), device=name)
        weight = torch.ones((2, 1, 3, 3, 3), device=name)
        y = torch.nn.functional.conv3d(x, weight)
        # 27 = the sum of ones under a 3 x 3 x 3 kernel.
        works, problem = bool((y.cpu() == 27).all()), "conv3d gives wrong numbers"
    except Exception as error:  # any failure is the answer to the question asked
        works, problem = False, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return {"name": name, "works": works, "problem": "" if works else problem, "seconds": time.perf_counter() - start}


def devices(torch: Any) -> List[Dict[str, Any]]:
    """Every device that torch lists, tried."""
    found = [try_device(torch, "cpu")]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        tried = try_device(torch, f"cuda:{index}")
        properties = torch.cuda.get_device_properties(index)
        found.append({**tried, "label": properties.name, "memory_bytes": properties.total_memory})
    mps = getattr(torch.backends, "mps", None)
    if mps is not None and mps.is_available():
        found.append({**try_device(torch, "mps"), "label": "Apple GPU"})
    return found


def numpy_bridge(torch: Any) -> str:
    """Empty when arrays pass between torch and NumPy, else why not (torch 2.2 with NumPy 2)."""
    try:
        import numpy as np

        array = torch.from_numpy(np.arange(3, dtype=np.float32)).numpy()
        return "" if array.sum() == 3 else "arrays arrive damaged"
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def probe() -> Dict[str, Any]:
    import torch

    return {
        "version": torch.__version__,
        "file": torch.__file__,
        "cuda_build": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "numpy_problem": numpy_bridge(torch),
        "devices": devices(torch),
    }


if __name__ == "__main__":
    print(json.dumps(probe()))
