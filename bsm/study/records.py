"""Result files: one strict JSON file per run, with what was measured and where it came from."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from bsm.errors import InputError
from bsm.files import check_writable, sha256, write_text
from bsm.versions import git_revision

SCHEMA = 1
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("bsm", "torch", "numpy", "scipy", "museval", "lightning-fabric", "soundfile", "soxr", "torchaudio"),
    *("bs-roformer", "mamba-ssm", "causal-conv1d", "triton", "pandas", "matplotlib", "papermill"),
)
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "measured": str,
    "data": str,
    "parameters": dict,
    "values": (dict, list),
    "comparable_with_paper": bool,
    "provenance": dict,
}
_used: dict[Path, str] = {}  # result files that this process wrote or read, with their SHA-256


class Mark(NamedTuple):
    """A moment of this process: ``wall``, s since 1970, and ``cpu``, the processor time up to then, s."""

    wall: float
    cpu: float


def mark() -> Mark:
    """Return this moment, with the processor time of this process and its finished children."""
    return Mark(time.time(), sum(os.times()[:4]))


def write_result(
    path: str | Path,
    *,
    measured: str,
    parameters: dict[str, Any],
    values: Any,
    seed: int | None = None,
    started: Mark,
    data: str,
    inputs: Iterable[str | Path],
    comparable_with_paper: bool = False,
    **extra: Any,
) -> Path:
    """Write one result file, in strict JSON (:func:`plain`), and return its path.

    Args:
        path: the file, ending in ``.json``.
        measured: what the values are, with their unit.
        parameters: every setting that could change the values. Where a GPU was used, ``device`` names it.
        values: a mapping or list with the values of every track, never only the mean.
        seed: the random seed.
        started: :func:`mark` when the run began.
        data: the data set's name.
        inputs: files and folders of songs that the values depend on. The result holds their checksums, and those of
            the files that ``parameters`` names.
        comparable_with_paper: whether data and protocol are the paper's.
        extra: further fields.

    Raises:
        TypeError: a value has no JSON form.
    """
    texts = [str(v) for v in parameters.values() if isinstance(v, str | Path)]
    named = [text for text in texts if 0 < len(text) < 1000 and Path(text).is_file()]  # a longer path is an OSError
    record = {
        "schema": SCHEMA,
        "measured": measured,
        "data": data,
        "comparable_with_paper": comparable_with_paper,
        "seed": seed,
        "parameters": parameters,
        "values": values,
        "inputs": {_portable(str(path)): checksum(path) for path in [*inputs, *named]},
        "provenance": provenance(started, parameters),
    }
    text = json.dumps(plain(record | extra), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")
    _used[Path(path).resolve()] = sha256(path)
    return Path(path)


def check_result_path(*paths: Path) -> None:
    """Check, before computing, that result files can be written: a file there may be an older result, and nothing else.

    Raises:
        InputError: a path cannot be written (:func:`bsm.files.check_writable`), or is a file of another kind.
    """
    check_writable(*paths)
    for path in paths:
        if path.is_file():
            try:
                read_result(path)
            except InputError:
                raise InputError(f"{path}: exists, and is no result file; name another one with -o") from None


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a result file and check its fields; None stands for NaN and infinity.

    Raises:
        InputError: there is no such file, it is not strict JSON or of another schema, or a field is missing or of the
            wrong type.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such result file; run the study that writes it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable result file ({error}); write it again") from None
    record = record if isinstance(record, dict) else {}
    for name, kind in _FIELDS.items():
        if name not in record or not isinstance(record[name], kind):
            found = f"a {type(record[name]).__name__}" if name in record else "missing"
            raise InputError(f"{path}: field '{name}' is {found}; write the result again")
    if record["schema"] != SCHEMA:
        raise InputError(f"{path}: field 'schema' is {record['schema']}, this version reads {SCHEMA}; write it again")
    _used[path.resolve()] = sha256(path)
    return record


def results_used(folder: Path) -> dict[str, str]:
    """Return name and SHA-256 of a folder's result files that this process has written or read so far."""
    return {path.name: digest for path, digest in sorted(_used.items()) if path.parent == folder.resolve()}


def checksum(path: str | Path) -> str:
    """Return the SHA-256 that identifies a file or a folder.

    A folder's is that of its ``corpus.json``, a list of its songs' checksums, or else of all its file names and sizes.

    Raises:
        InputError: nothing is there.
    """
    path = Path(path)
    if path.is_file():
        return sha256(path)
    if (path / "corpus.json").is_file():
        return sha256(path / "corpus.json")
    if not path.is_dir():
        raise InputError(f"{path}: there is no such input")
    sizes = sorted((p.relative_to(path).as_posix(), p.stat().st_size) for p in path.rglob("*") if p.is_file())
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def on_gpu(parameters: Mapping[str, Any]) -> bool:
    """Tell whether a result was measured on a GPU, by the ``device`` among its parameters."""
    return str(parameters.get("device")).startswith("cuda")


def trained_on(run: str | Path) -> str | None:
    """Return the kind of device that wrote a training's last checkpoint, ``cpu`` or ``cuda``; None without one."""
    from bsm.train.journal import load_state  # imports PyTorch

    try:
        return "cuda" if "random_cuda" in load_state(Path(run) / "state.ckpt") else "cpu"
    except InputError:
        return None


def provenance(started: Mark, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe where a result comes from: code, packages, machine, command and time.

    ``git.dirty`` ignores changes in ``reports/``, because the study itself rewrites that folder. ``device`` is the GPU
    that the result's parameters name, or else the CPU. ``wall_seconds`` and ``cpu_seconds`` count from ``started``.
    """
    import torch  # slow to import; who only reads results need not wait for it

    now, device = mark(), _cpu_model()
    if parameters and on_gpu(parameters):
        here = torch.cuda.is_available()
        device = torch.cuda.get_device_name(parameters["device"]) if here else "a GPU that is not here"
    return {
        "git": git_revision(ROOT),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "command": _command(),
        "started": datetime.fromtimestamp(started.wall, UTC).isoformat(timespec="seconds"),
        "wall_seconds": round(now.wall - started.wall, 3),
        "cpu_seconds": round(now.cpu - started.cpu, 3),
    }


def plain(value: Any) -> Any:
    """Return NumPy and PyTorch values, dataclasses, frames and paths as strict JSON types.

    NaN and infinity become None. Paths lose the repository's folder, and get ``~`` for the home folder.

    Raises:
        TypeError: a value has no JSON form.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):  # np.float64 too
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str | Path):
        return _portable(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a data frame
        return plain(value.to_dict(orient="records"))
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    if hasattr(value, "tolist"):  # NumPy, PyTorch, pandas series
        return plain(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} has no JSON form: {value!r}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not strict JSON")


def place_of(path: Path) -> str:
    """Name a file in a result: its path in the repository; elsewhere its name, which tells nothing of this machine."""
    path = path.absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _portable(text: str) -> str:
    home = str(Path.home())
    text = text.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".")
    return text.replace(f"{home}{os.sep}", f"~{os.sep}") if len(home) > 1 else text


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown"


def _command() -> str:
    """Return the command as typed. A notebook's kernel was started by another process, whose command it is then."""
    words = sys.argv
    if Path(words[0]).name.startswith("ipykernel_launcher"):
        import psutil  # comes with the kernel

        with contextlib.suppress(psutil.Error):
            words = psutil.Process().parent().cmdline()
            if len(words) > 1 and Path(words[0]).name.startswith("python"):
                words = words[1:]
    return _portable(shlex.join([Path(words[0]).name, *words[1:]]))
