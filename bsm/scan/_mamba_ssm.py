"""Find packages, and import parts of mamba-ssm even if the whole package cannot be imported."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

INSTALL = "pip install --no-build-isolation 'mamba-ssm>=2.3,<3'"


def missing(*names: str) -> list[str]:
    """Return which of the top-level packages or modules cannot be found, without importing any."""

    def found(name: str) -> bool:
        try:
            return find_spec(name) is not None
        except ValueError:  # already imported, and without a spec: it was put there by hand
            return name in sys.modules

    return [name for name in names if not found(name)]


def load(submodule: str) -> ModuleType:
    """Import ``mamba_ssm.<submodule>``, even if ``import mamba_ssm`` fails.

    The package's ``__init__`` imports all its models. They need the compiled ``selective_scan_cuda``, transformers and
    tilelang, but the Triton kernels do not. If the plain import fails, this function puts an empty parent package in
    their place during the import, and removes it afterwards.

    Raises:
        ImportError: the submodule itself cannot be imported.
    """
    name = f"mamba_ssm.{submodule}"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: a missing shared library of one of the models
        if "mamba_ssm" in sys.modules or (spec := find_spec("mamba_ssm")) is None:
            raise
    parent = ModuleType("mamba_ssm")
    parent.__path__, parent.__spec__ = list(spec.submodule_search_locations or ()), spec
    sys.modules["mamba_ssm"] = parent
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["mamba_ssm"]
