"""Download files: resume interrupted downloads, and check every file before it is used."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import requests
from tqdm import tqdm

from bsm.errors import InputError
from bsm.files import alone

TIMEOUT = 10, 60  # seconds to wait for a connection, and for the next piece
PIECE = 1 << 14  # bytes; a broken connection loses one piece at most


def obtain(
    source: str, target: Path, *, what: str, size: int | None = None, checksum: str | None = None, room: int = 0
) -> Path:
    """Get a file from an address or a local path, and check its size and checksum.

    An unfinished download is kept as ``<target>.part`` and resumed by the next call. A complete file that is not the
    recorded one is kept as ``<target>.refused``.

    Args:
        source: an address (http, https), or the path of a local file.
        target: where to put a download; missing folders are made. If it is already the right file, nothing is done.
        what: the file's name in messages, such as ``weights 'author'``.
        size: bytes, if known.
        checksum: ``sha256:`` or ``md5:`` and the hexadecimal digest, if known.
        room: bytes that must be free in addition to the download's own.

    Returns:
        The checked file: ``target``, or the local file in its own place.

    Raises:
        InputError: the local file is missing; the connection fails; the disk is full; the file is not the recorded one;
            or another process is downloading it.
    """
    if target.is_file() and fault_of(target, size, checksum) is None:
        return target
    if not source.startswith(("http://", "https://")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: no such file to take {what} from")
        if fault := fault_of(path, size, checksum):
            raise InputError(f"{path}: not the recorded {what}: {fault}; the file is left as it is")
        return path
    part = part_of(target)
    try:
        with alone(target.with_name(f"{target.name}.lock"), f"another process is fetching {what}"):
            need_space(target.parent, (size or 0) - _size(part) + room, what)
            _download(source, part, what, size)
            if fault := fault_of(part, size, checksum):
                refused = part.replace(target.with_name(f"{target.name}.refused"))
                raise InputError(
                    f"{source}: not the recorded file: {fault}; kept as {refused}, not used. Try another source with "
                    "--from"
                )
            part.replace(target)
    except requests.RequestException as error:
        raise InputError(
            f"{source}: {_reason(error)}; {_size(part):,} of {_count(size)} bytes are here and kept. Run the same "
            "command to continue, or name another source with --from"
        ) from error
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}); fix that and run the same command again") from error
    return target


def part_of(target: Path) -> Path:
    """Return where an unfinished download is kept."""
    return target.with_name(f"{target.name}.part")


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise an InputError unless a folder's disk has ``size`` free bytes."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{folder}: {what}: {free:,} bytes are free where {size:,} are needed; make room, or replace that folder "
            "by a link to another disk"
        )


def fault_of(path: Path, size: int | None, checksum: str | None) -> str | None:
    """Return how a file differs from a recorded size and checksum, or None."""
    if size is not None and (found := path.stat().st_size) != size:
        return f"{found:,} bytes where {size:,} are recorded"
    if checksum is None:
        return None
    algorithm, _, wanted = checksum.partition(":")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).hexdigest()
    name = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
    return None if digest == wanted else f"{name} {digest} where {wanted} is recorded"


def _download(url: str, part: Path, what: str, size: int | None) -> None:
    """Complete ``part``: ask the server for the rest of the file.

    Raises:
        InputError: the server offers another file; ``part`` is left as it was.
        requests.RequestException: the connection failed or broke off; ``part`` keeps the bytes that came.
    """
    if size is not None and _size(part) > size:  # of another file
        part.unlink()
    have = _size(part)
    if have and have == size:
        return
    with requests.Session() as session:
        answer = _ask(session, url, have)
        if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
            answer = _ask(session, url, 0)  # no bytes follow: the file is complete, or is another file
        start, total = _extent(answer)
        if answer.status_code not in (200, 206):
            raise InputError(
                f"{url}: the server answered {answer.status_code} {answer.reason}; try another source with --from"
            )
        kind = answer.headers.get("Content-Type", "an unnamed type")
        # A server may send a page that says why the file is not available.
        page = kind.startswith("text/html") and (total is None or total != size)
        other = size is not None and total not in (None, size)
        if start not in (0, have) or total == 0 or page or other:
            raise InputError(
                f"{url}: offers {_count(total)} bytes of {kind}, not the {_count(size)} of {what}; not downloaded. "
                "Try another source with --from"
            )
        need_space(part.parent, (total or 0) - have, what)
        _write(url, answer, part, start, size or total, what)
    if _size(part) < (size or 1):
        raise requests.exceptions.ChunkedEncodingError("fewer bytes than recorded")


def _ask(session: requests.Session, url: str, start: int) -> requests.Response:
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    return session.get(url, headers=headers, stream=True, timeout=TIMEOUT)


def _write(url: str, answer: requests.Response, part: Path, start: int, end: int | None, what: str) -> None:
    """Write an answer that begins at byte ``start`` into ``part``; other bytes than ``part`` has are an InputError."""
    have = _size(part)
    bar = tqdm(total=end, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=what)
    with part.open("a+b") as file, bar:
        file.seek(start)
        for piece in answer.iter_content(PIECE):
            known = file.read(min(len(piece), max(0, have - file.tell())))
            if not piece.startswith(known):
                raise InputError(
                    f"{url}: offers another file than the one begun in {part}; delete that one to start again, or try "
                    "another source with --from"
                )
            file.write(piece[len(known) :])
            bar.update(len(piece))
            if end is not None and file.tell() > end:
                break  # it is not the recorded file


def _extent(answer: requests.Response) -> tuple[int, int | None]:
    """Return the number of an answer's first byte in the file, and the file's size if the answer states it."""
    if span := answer.headers.get("Content-Range", ""):
        span, _, total = span.removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        return int(first) if first.isdecimal() else -1, int(total) if total.isdecimal() else None
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _count(size: int | None) -> str:
    return "?" if size is None else f"{size:,}"


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    cause = getattr(error.args[0], "reason", error) if error.args else error  # what urllib3 wrapped
    return " ".join(str(cause).split()).rpartition(": ")[2] or type(error).__name__
