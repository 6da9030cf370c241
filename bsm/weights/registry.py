"""Weights that have a name: listed in ``data_manifest/weights.yaml``, fetched once, verified, kept in a cache."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import yaml

from bsm import download
from bsm.errors import InputError
from bsm.files import replacing

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "data_manifest" / "weights.yaml"


@dataclass(frozen=True)
class Entry:
    """One named weights file.

    Attributes:
        name: what the user types.
        title: what it is.
        licence: under what terms, or that none are stated.
        source: page that published it.
        url: address of the file; empty for one that is made here.
        file: name in the cache.
        size: bytes.
        sha256: checksum, hexadecimal.
        path: place in the checkout of one that is made here.
        made_by: the command that makes it.
        note: what else a user should know.
    """

    name: str
    title: str
    licence: str
    source: str = ""
    url: str = ""
    file: str = ""
    size: int = 0
    sha256: str = ""
    path: str = ""
    made_by: str = ""
    note: str = ""

    @property
    def place(self) -> Path:
        """Where the file is, or will be once fetched or made."""
        return ROOT / self.path if self.path else cache_folder() / self.file

    @property
    def checksum(self) -> str:
        """The checksum with its algorithm's name, as :mod:`bsm.download` takes it."""
        return f"sha256:{self.sha256}"

    @property
    def terms(self) -> str:
        """Its licence, and what else a user should know, as a command says it."""
        return f"licence of {self.name!r}: {self.licence}" + (f"\n{self.note}" if self.note else "")

    @property
    def state(self) -> str:
        """``here``, ``partly fetched``, ``not fetched`` or ``not made``."""
        if self.place.is_file():
            return "here"
        if self.path:
            return "not made"
        return "partly fetched" if download.part_of(self.place).is_file() else "not fetched"


def cache_folder() -> Path:
    """Return the folder of fetched weights: ``BSM_CACHE`` where set, else the platform's cache folder for ``bsm``."""
    return Path(os.environ.get("BSM_CACHE") or platformdirs.user_cache_dir("bsm", appauthor=False))


def entries() -> dict[str, Entry]:
    """Read the manifest.

    Raises:
        InputError: no manifest, as in an installation without the checkout.
    """
    if not MANIFEST.is_file():
        raise InputError(f"{MANIFEST}: no such list of weights; install bsm from a checkout (pip install -e .)")
    return {name: Entry(name, **v) for name, v in yaml.safe_load(MANIFEST.read_text(encoding="utf-8")).items()}


def entry(name: str) -> Entry:
    """Return one entry of the manifest.

    Raises:
        InputError: no such name.
    """
    known = entries()
    if name not in known:
        raise InputError(f"no weights are named {name!r}; choose one of {', '.join(known)}")
    return known[name]


def locate(path_or_name: str | Path) -> Path:
    """Return the file at a path, or the fetched file of that name, verified; nothing is downloaded.

    Raises:
        InputError: neither, or a name whose file is not here, or not the recorded one; it says how to get it.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    name = str(path_or_name)
    known = entries() if MANIFEST.is_file() else {}
    if name not in known:
        raise InputError(
            f"{path}: no such weights file; `bsm train` or `make reproduce` writes one, "
            f"and `bsm weights list` shows those with a name ({', '.join(known)})"
        )
    found = known[name]
    if found.state != "here":
        how = f"make them: {found.made_by}" if found.path else f"fetch them: bsm weights fetch {name}"
        raise InputError(f"weights {name!r} are {found.state} ({found.place}); {how}")
    if not found.path and (fault := download.fault_of(found.place, found.size, found.checksum)):
        raise InputError(f"{found.place}: {fault} for weights {name!r}; fetch them again: bsm weights fetch {name}")
    return found.place


def fetch(name: str, source: str | None = None) -> Path:
    """Bring a named file into the cache, unless it is there, and verify its size and SHA-256.

    A download that broke off goes on where it stopped, if the server can do that. A file that is not the recorded one
    is refused and never takes the name of a good one; a complete one is kept beside it as ``.refused``.

    Args:
        name: an entry of the manifest.
        source: another address (http, https) or a path to take it from.

    Returns:
        The verified file.

    Raises:
        InputError: no such name or file, no connection, an answer that is not the file; it says what came.
    """
    wanted = entry(name)
    if wanted.path:
        if source:
            raise InputError(f"weights {name!r} are made here, not fetched: {wanted.made_by} (or load a file by path)")
        return locate(name)
    if source and not source.startswith(("http://", "https://")):
        return _copy(Path(source).expanduser(), wanted)
    return download.obtain(
        source or wanted.url, wanted.place, what=f"weights {name!r}", size=wanted.size, checksum=wanted.checksum
    )


def _copy(source: Path, wanted: Entry) -> Path:
    target = wanted.place
    if target.is_file() and download.fault_of(target, wanted.size, wanted.checksum) is None:
        return target
    if not source.is_file():
        raise InputError(f"{source}: no such file to take weights {wanted.name!r} from")
    if fault := download.fault_of(source, wanted.size, wanted.checksum):
        raise InputError(f"{source}: not the recorded file of weights {wanted.name!r}: {fault}; left as it is")
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    return target
