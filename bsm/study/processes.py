"""Commands in process groups of their own: each ends as a whole, and has a log."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def process_group(command: Sequence[str], log_file: Path, **options: Any) -> Iterator[subprocess.Popen]:
    """Start a command in a process group of its own. If it still runs at the block's end, kill it with its children.

    Args:
        command: a program and its arguments.
        log_file: takes all that it says, and nothing of an earlier command.
        options: further arguments of :class:`subprocess.Popen`.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.unlink(missing_ok=True)
    with log_file.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
