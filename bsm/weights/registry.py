"""Find and fetch weights by name: ``data_manifest/weights.yaml`` lists them, and a cache folder keeps them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Self

import platformdirs
from pydantic import model_validator

from bsm import download
from bsm.data.registry import MANIFESTS, ROOT, Entry, read
from bsm.errors import InputError, known
from bsm.files import replacing

MANIFEST = MANIFESTS / "weights.yaml"


class Weights(Entry):
    """Weights that have a name: one published file, or a file made here."""

    path: str = ""  # of a file made here: its path in the checkout

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if bool(self.path) != bool(self.made_by) or len(self.files) > 1 or any(f.checksum is None for f in self.files):
            raise ValueError("needs one file with a checksum, or path and made_by")
        return self

    @property
    def place(self) -> Path:
        """The path of the file, which need not exist."""
        return ROOT / self.path if self.path else cache_folder() / self.files[0].file

    @property
    def work(self) -> Path:
        """The path of an unfinished download."""
        return download.part_of(self.place)

    @property
    def sha256(self) -> str:
        """The hexadecimal digest of published weights; empty for those made here."""
        return self.files[0].checksum.removeprefix("sha256:") if self.files else ""


def cache_folder() -> Path:
    """Return the folder of fetched weights: ``BSM_CACHE`` if set, otherwise the platform's cache folder for ``bsm``."""
    return Path(os.environ.get("BSM_CACHE") or platformdirs.user_cache_dir("bsm", appauthor=False))


def entries() -> dict[str, Weights]:
    """Read the list of weights."""
    return {name: found.model_copy(update={"name": name}) for name, found in read(dict[str, Weights], MANIFEST).items()}


def entry(name: str) -> Weights:
    """Return one entry of the list; any other name is an InputError."""
    return (found := entries())[known("weights", name, found)]


def locate(path_or_name: str | Path) -> Path:
    """Return the file at a path, the weights of the run at a path, or the fetched file of a name; download nothing.

    Raises:
        InputError: there is no such file, run or name; the run is unfinished; or the named file is missing or altered.
    """
    path, name = Path(path_or_name), str(path_or_name)
    if path.is_file():
        return path
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    if (path / "run.json").is_file():
        raise InputError(f"{path}: a run without model.safetensors, so not finished; give a file of its folder best/")
    listed = entries()
    if name not in listed:
        raise InputError(
            f"{path}: no such weights file; `bsm train` or `make reproduce` writes one, "
            f"and `bsm weights list` shows those with a name ({', '.join(listed)})"
        )
    found = listed[name]
    if found.state != "here":
        how = f"make them: {found.made_by}" if found.path else f"fetch them: bsm weights fetch {name}"
        raise InputError(f"weights {name!r} are {found.state} ({found.place}); {how}")
    for file in found.files:
        if fault := download.fault_of(found.place, file.size, file.checksum):
            raise InputError(f"{found.place}: {fault} for weights {name!r}; fetch them again: bsm weights fetch {name}")
    return found.place


def fetch(name: str, source: str | None = None) -> Path:
    """Fetch named weights into the cache, unless they are there, and return the checked file.

    ``source`` is another address (http, https) of the file, or the path of a local file to copy.

    Raises:
        InputError: no weights have that name, or :func:`bsm.download.obtain` fails.
    """
    wanted = entry(name)
    if wanted.path:
        if source:
            raise InputError(f"weights {name!r} are made here, not fetched: {wanted.made_by} (or load a file by path)")
        return locate(name)
    file, what = wanted.files[0], f"weights {name!r}"
    found = download.obtain(source or file.url, wanted.place, what=what, size=file.size, checksum=file.checksum)
    if found != wanted.place:
        with replacing(wanted.place) as temporary:
            shutil.copyfile(found, temporary)
    return wanted.place
