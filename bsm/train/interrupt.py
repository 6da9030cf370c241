"""Ctrl-C and SIGTERM: finish the update, save, then stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0  # s in which a second Ctrl-C is taken for the first one's echo


class Stopped(KeyboardInterrupt):
    """A signal ended the training after it was saved; ``status`` is the shell's exit status for that signal."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.status = 128 + signum


class StopRequest:
    """While open, SIGINT and SIGTERM are noted in ``signum`` (0: none came); Ctrl-C once more stops at once.

    ``torchrun`` passes on the signals that its processes get from the terminal or cluster anyway: repeated ones must
    not end the update that is to be saved. Only Python's main thread can listen; opened elsewhere, it notes nothing.
    """

    def __init__(self) -> None:
        self.signum, self._since = 0, 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signum:
            self.signum, self._since = number, time.monotonic()
            log.warning("%s: stopping after this update; Ctrl-C once more stops at once", signal.Signals(number).name)
        elif number == signal.SIGINT and time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt


def ignore_signals(_: int) -> None:
    """Leave stopping to the main process: a data loader's worker that dies would end it in the middle of an update."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
