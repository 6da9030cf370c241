"""Errors that the caller can fix. The command line prints them as one line and exits with status 2."""

from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Report unusable input: what failed, why, and how to fix it."""


class BackendUnavailable(RuntimeError):
    """Report that the package or device of a chosen backend is missing."""


def lacks_memory(error: Exception) -> bool:
    """Return whether an error of Python, NumPy or PyTorch says that memory ran out, on a CPU or a GPU."""
    return isinstance(error, MemoryError) or any(t in str(error) for t in ("allocate memory", "out of memory"))


def known(what: str, name: str, names: Iterable[Any]) -> str:
    """Return a name that is one of the known names.

    Raises:
        InputError: it is none of them; the message lists them.
    """
    names = list(names)
    if name not in names:
        raise InputError(f"unknown {what} {name!r}; choose one of {', '.join(map(str, names))}")
    return name
