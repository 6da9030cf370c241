"""A reproduction study of BSMamba2, vocal separation with Mamba2 on band-split spectra (arXiv 2508.14556).

The names to start from load when first asked for: the command line answers at once, and the benchmarks run on a machine
that has little more than PyTorch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bsm.checkpoint import load_model
    from bsm.config import ModelConfig
    from bsm.model import BSMamba2
    from bsm.separate import separate

__version__ = "0.1.0"
__all__ = ["BSMamba2", "ModelConfig", "load_model", "separate"]


class _Package(ModuleType):
    """Properties, not a module's ``__getattr__``: importing the module ``bsm.separate`` must not hide the function."""

    def _lazy(module: str, name: str) -> property:  # noqa: N805
        return property(lambda _: getattr(importlib.import_module(module), name), lambda _, __: None)

    BSMamba2: Any = _lazy("bsm.model", "BSMamba2")
    ModelConfig: Any = _lazy("bsm.config", "ModelConfig")
    load_model: Any = _lazy("bsm.checkpoint", "load_model")
    separate: Any = _lazy("bsm.separate", "separate")


sys.modules[__name__].__class__ = _Package
