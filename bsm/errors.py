"""Errors that are the caller's to mend: the command line prints them as one line and exits with status 2."""


class InputError(ValueError):
    """Something the user gave is unusable; the message says what, where, and what to do about it."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for whose package or device is not here; the message says what is missing."""
