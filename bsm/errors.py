"""Errors that the user can fix. The command line prints each in one line and exits with status 2."""

from collections.abc import Iterable
from typing import Any


class OneLine(Exception):
    """An error that a notebook shows in one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]


class InputError(OneLine, ValueError):
    """Unusable input. The message says what failed, why, and how to fix it."""


class BackendUnavailable(OneLine, RuntimeError):
    """A chosen backend whose package or device is missing."""


def lacks_memory(error: Exception) -> bool:
    """Return whether an error of Python, NumPy or PyTorch says that memory ran out, on a CPU or a GPU."""
    return isinstance(error, MemoryError) or any(t in str(error) for t in ("allocate memory", "out of memory"))


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def known(what: str, name: str, names: Iterable[Any]) -> str:
    """Return a name if it is one of the names; otherwise raise an InputError that lists them."""
    names = list(names)
    if name not in names:
        raise InputError(f"unknown {what} {name!r}; choose one of {', '.join(map(str, names))}")
    return name
