"""Errors that the caller can fix. The command line prints them as one line and exits with status 2."""


class InputError(ValueError):
    """Report unusable input: what failed, why, and how to fix it."""


class BackendUnavailable(RuntimeError):
    """Report that the package or device of a chosen backend is missing."""
