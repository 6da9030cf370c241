"""Commands as processes: groups that end as a whole, and what the README's two commands take.

``python -m bsm.study.commands reproduce`` runs ``make reproduce`` in this checkout; it may also be ``test``. It writes
``reports/demo/results/commands.json``: the time that passed, the memory of the largest process, and the disk that the
checkout then takes. In a fresh clone, run `make env` first, so that its downloads are not counted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from bsm.memory import peak_bytes
from bsm.study.figures import table_markdown
from bsm.study.profiles import DEFAULT, Profile
from bsm.study.records import ROOT, mark, read_result, write_result

TARGETS = ("reproduce", "test")
_NAME = "commands"


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


def measure(command: list[str], folder: Path = ROOT) -> dict[str, Any]:
    """Run a command; return its seconds, the bytes of its largest process and of the folder afterwards, and its status.

    The largest of all processes that this one ever waited for: measure one command per process.
    """
    began = time.monotonic()
    status = subprocess.run(command, cwd=folder).returncode
    seconds = time.monotonic() - began
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {"seconds": seconds, "peak_bytes": peak_bytes(children=True), "disk_bytes": size, "status": status}


def table(settings: Profile) -> str:
    """Return a table of the commands with what they took, or with dashes while nothing has been measured."""
    path = settings.result(_NAME)
    record = read_result(path) if path.is_file() else None
    fields = {"seconds": 60, "peak_bytes": 2**30, "disk_bytes": 2**30}
    frame = pd.DataFrame(record["values"] if record else {}, index=[*fields], dtype=float).T.reindex([*TARGETS])
    frame = (frame / fields).set_axis(["minutes", "peak memory (GiB)", "disk (GiB)"], axis=1)
    frame = frame.rename(index="`make {}`".format).rename_axis("command")
    where = (
        f"{record['parameters']['cores']} cores of {record['provenance']['device']}" if record else "not measured yet"
    )
    return table_markdown(frame, caption=f"Set-up apart; memory of the largest process: {where}", digits=1)


def main(target: str) -> None:
    """Measure one target, and keep what was measured of the other."""
    path, started = Profile.load(DEFAULT).result(_NAME), mark()
    values = read_result(path)["values"] if path.is_file() else {}
    taken = measure(["make", target])
    if taken["status"]:
        raise SystemExit(f"make {target} failed with status {taken['status']}; nothing was written")
    write_result(
        path,
        measured="seconds, memory of the largest process and size of the checkout (bytes) of each command",
        parameters={"cores": os.cpu_count()},
        values=values | {target: taken},
        started=started,
        data="demo songs (synthesised)",
        inputs=[],
    )


if __name__ == "__main__":
    if sys.argv[1:2] not in ([target] for target in TARGETS):
        raise SystemExit(f"name one of: {', '.join(TARGETS)}")
    main(sys.argv[1])
