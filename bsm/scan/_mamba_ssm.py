"""Finding and importing parts of mamba-ssm, whose package as a whole asks for more than those parts do."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

INSTALL = "pip install --no-build-isolation 'mamba-ssm>=2.3,<3'"


def installed(name: str) -> bool:
    """Tell whether a top-level package or module can be found, without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # already imported, and without a spec: put there by hand
        return name in sys.modules


def load(submodule: str) -> ModuleType:
    """Import ``mamba_ssm.<submodule>``, also where ``import mamba_ssm`` fails.

    The package's ``__init__`` imports every model it has, and so the compiled ``selective_scan_cuda``, transformers and
    tilelang, which the Triton kernels do not use. The plain import is tried first, so a complete installation is used
    as it is. Where that fails, an empty parent package stands in while the submodule is imported and is then taken
    away: a later ``import mamba_ssm`` fails or works as it would have without us.

    Raises:
        ImportError: the submodule itself cannot be imported.
    """
    name = f"mamba_ssm.{submodule}"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: a shared library that one of the models loads
        if "mamba_ssm" in sys.modules or (spec := find_spec("mamba_ssm")) is None:
            raise
    parent = ModuleType("mamba_ssm")
    parent.__path__, parent.__spec__ = list(spec.submodule_search_locations or ()), spec
    sys.modules["mamba_ssm"] = parent
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["mamba_ssm"]
