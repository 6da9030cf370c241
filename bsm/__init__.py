"""A reproduction study of BSMamba2: vocal separation with Mamba2 on band-split spectra (arXiv 2508.14556).

The public names load on first use. So the command line answers at once, and the benchmarks run with PyTorch alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bsm.config import ModelConfig
    from bsm.inference import separate
    from bsm.model import BSMamba2
    from bsm.weights.files import load_model

__version__ = "0.2.0"
__all__ = ["BSMamba2", "ModelConfig", "load_model", "separate"]

_HOMES = {
    "BSMamba2": "bsm.model",
    "ModelConfig": "bsm.config",
    "load_model": "bsm.weights.files",
    "separate": "bsm.inference",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bsm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
