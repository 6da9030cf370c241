"""Find and import parts of mamba-ssm that work where the whole package cannot be imported."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

INSTALL = "pip install --no-build-isolation 'mamba-ssm>=2.3,<3'"


def installed(name: str) -> bool:
    """Return whether a top-level package or module can be found, without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # imported already and without a spec: put there by hand
        return name in sys.modules


def load(submodule: str) -> ModuleType:
    """Import ``mamba_ssm.<submodule>``, even if ``import mamba_ssm`` fails.

    The package's ``__init__`` imports all its models, and with them the compiled ``selective_scan_cuda``, transformers
    and tilelang. The Triton kernels need none of them. If the plain import fails, an empty parent package stands in
    during the import and is removed afterwards.

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
