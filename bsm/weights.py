"""Weights that have a name: listed in ``data_manifest/weights.yaml``, fetched once, verified, kept in a cache."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import requests
import yaml
from tqdm import tqdm

from bsm.errors import InputError
from bsm.files import replacing, sha256

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "data_manifest" / "weights.yaml"
TIMEOUT = 10, 60  # seconds to connect, and between two pieces
PIECE = 1 << 14  # bytes; a connection that breaks loses one at most


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
    def state(self) -> str:
        """``here``, ``partly fetched``, ``not fetched`` or ``not made``."""
        if self.place.is_file():
            return "here"
        if self.path:
            return "not made"
        return "partly fetched" if _part(self).is_file() else "not fetched"


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
    """Return the file at a path, or the fetched file of that name; nothing is downloaded.

    Raises:
        InputError: neither, or a name whose file is not here; it says how to get it.
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
    if found.size and found.place.stat().st_size != found.size:
        raise InputError(
            f"{found.place}: has {found.place.stat().st_size:,} bytes where weights {name!r} have {found.size:,}; "
            f"fetch them again: bsm weights fetch {name}"
        )
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
    target = wanted.place
    if target.is_file() and _fault(target, wanted) is None:
        return target
    if source and not source.startswith(("http://", "https://")):
        _copy(Path(source).expanduser(), wanted)
        return target
    part = _part(wanted)
    part.parent.mkdir(parents=True, exist_ok=True)
    url = source or wanted.url
    try:
        _download(url, part, wanted)
    except requests.RequestException as error:
        have = part.stat().st_size if part.is_file() else 0
        raise InputError(
            f"{url}: {_reason(error)}; {have:,} of {wanted.size:,} bytes are here and kept: run the same command to "
            "go on, or name another source with --from"
        ) from error
    if fault := _fault(part, wanted):
        refused = target.with_name(f"{target.name}.refused")
        part.replace(refused)
        raise InputError(f"{url}: not the recorded file: {fault}; kept as {refused}, not used. Try --from another one")
    part.replace(target)
    return target


def _part(wanted: Entry) -> Path:
    return wanted.place.with_name(f"{wanted.place.name}.part")


def _copy(source: Path, wanted: Entry) -> None:
    if not source.is_file():
        raise InputError(f"{source}: no such file to take weights {wanted.name!r} from")
    if fault := _fault(source, wanted):
        raise InputError(f"{source}: not the recorded file of weights {wanted.name!r}: {fault}; left as it is")
    with replacing(wanted.place) as temporary:
        shutil.copyfile(source, temporary)


def _download(url: str, part: Path, wanted: Entry) -> None:
    """Bring ``part`` to the recorded size, going on from what it holds where the server does ranges."""
    have = part.stat().st_size if part.is_file() else 0
    if have == wanted.size:
        return
    if have > wanted.size or not _ask(url, part, wanted, have):
        _ask(url, part, wanted, 0)
    got = part.stat().st_size if part.is_file() else 0
    if got < wanted.size:
        raise requests.exceptions.ChunkedEncodingError("fewer bytes than recorded")


def _ask(url: str, part: Path, wanted: Entry, have: int) -> bool:
    """Ask for the file from byte ``have`` on and write what comes; False where the server has nothing from there."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
            return False
        if answer.status_code not in (200, 206):
            raise InputError(f"{url}: the server answered {answer.status_code} {answer.reason}; try --from another one")
        start, total = _extent(answer)
        if start not in (0, have) or total not in (None, wanted.size):
            raise InputError(
                f"{url}: offers {'?' if total is None else f'{total:,}'} bytes of "
                f"{answer.headers.get('Content-Type', 'an unnamed type')} where weights {wanted.name!r} have "
                f"{wanted.size:,}; not downloaded. Try --from another one"
            )
        _write(answer.iter_content(PIECE), part, start, wanted)
    return True


def _extent(answer: requests.Response) -> tuple[int, int | None]:
    """Return the first byte that an answer brings, and the whole file's size where it says so."""
    if answer.status_code == 206:
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return int(first) if first.isdecimal() else -1, int(total) if total.isdecimal() else None
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _write(pieces: Iterator[bytes], part: Path, start: int, wanted: Entry) -> None:
    """Write pieces from byte ``start`` on; a server that starts anew replaces what was there once new bytes come."""
    bar = tqdm(total=wanted.size, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=wanted.name)
    with bar:
        first = next(pieces, b"")
        if not first:
            return
        with part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            for piece in itertools.chain((first,), pieces):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > wanted.size:  # refused by its size; nothing more need come
                    return


def _fault(path: Path, wanted: Entry) -> str | None:
    """Say what is wrong with a file, or None."""
    if (size := path.stat().st_size) != wanted.size:
        return f"{size:,} bytes where {wanted.size:,} are recorded"
    digest = sha256(path)
    return None if digest == wanted.sha256 else f"SHA-256 {digest} where {wanted.sha256} is recorded"


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    cause = getattr(error.args[0], "reason", error) if error.args else error  # what urllib3 wrapped
    return " ".join(str(cause).split()).rpartition(": ")[2] or type(error).__name__
