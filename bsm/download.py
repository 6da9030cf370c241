"""Downloads that go on where they stopped and are not used before they are checked."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

from bsm.errors import InputError

TIMEOUT = 10, 60  # seconds to connect, and between two pieces
PIECE = 1 << 14  # bytes; a connection that breaks loses one at most


def obtain(
    url: str, target: Path, *, what: str, size: int | None = None, checksum: str | None = None, room: int = 0
) -> Path:
    """Bring a file from an address, unless it is there already, and check its size and checksum.

    A download that broke off lies beside the target as ``.part`` and goes on where it stopped, if the server can do
    that; where it starts anew, ``.part`` stays until more than it holds has come. A file that is not the recorded one
    never takes the target's name; a complete one is kept as ``.refused``.

    Args:
        url: its address (http, https).
        target: where to put it; missing folders are made.
        what: what messages call it, such as ``weights 'author'``.
        size: bytes, if known.
        checksum: ``sha256:`` or ``md5:`` and the hexadecimal digest, if known.
        room: bytes that must be free besides the download's own.

    Returns:
        ``target``.

    Raises:
        InputError: no connection, no room, an answer that is not the file; it says what came.
    """
    part = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file():
            need_space(target.parent, (size or 0) - _size(part) + room, what)
        pooch.get_logger().setLevel("WARNING")
        resuming = _Resuming(part, what, size)
        pooch.retrieve(url, checksum, fname=target.name, path=target.parent, downloader=resuming)
    except InputError:
        raise
    except requests.RequestException as error:
        raise InputError(
            f"{url}: {_reason(error)}; {_size(part):,} of {_count(size)} bytes are here and kept: run the same command "
            "to go on, or name another source with --from"
        ) from error
    except ValueError as error:  # pooch's, of a checksum that differs
        fault = fault_of(part, size, checksum) if part.is_file() else str(error)
        refused = target.with_name(f"{target.name}.refused")
        if part.is_file():
            part.replace(refused)
        raise InputError(
            f"{url}: not the recorded file: {fault}; kept as {refused}, not used. Try --from another one"
        ) from error
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}); mend that and run the same command again") from error
    for left in (part, _anew(part)):
        left.unlink(missing_ok=True)
    return target


def part_of(target: Path) -> Path:
    """Return where a download that broke off keeps what it has."""
    return target.with_name(f"{target.name}.part")


def _anew(part: Path) -> Path:
    return part.with_name(f"{part.name}.anew")


def need_space(folder: Path, size: int, what: str) -> None:
    """Check that a folder's disk has room for so many bytes.

    Raises:
        InputError: it has not; the message says how much is free and how much is needed.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(
            f"{folder}: {what}: {free:,} bytes are free where {size:,} are needed; make room there, or let that folder "
            "be a link to another disk"
        )


def fault_of(path: Path, size: int | None, checksum: str | None) -> str | None:
    """Say in what a file differs from a recorded size and checksum, or None."""
    if size is not None and (found := path.stat().st_size) != size:
        return f"{found:,} bytes where {size:,} are recorded"
    if checksum is None:
        return None
    algorithm, _, wanted = checksum.partition(":")
    digest = pooch.file_hash(str(path), alg=algorithm)
    name = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
    return None if digest == wanted else f"{name} {digest} where {wanted} is recorded"


class _Resuming:
    """A downloader for pooch: it fills ``part``, going on from what that holds, and gives pooch the whole file."""

    def __init__(self, part: Path, what: str, size: int | None) -> None:
        self.part, self.what, self.size = part, what, size
        self.html = part.stem.endswith((".html", ".htm"))

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        have = _size(self.part)
        if have != self.size or not have:
            too_much = self.size is not None and have > self.size
            if too_much or not self._ask(url, have):
                self._ask(url, 0)
            if (got := _size(self.part)) < (self.size or 1):
                raise requests.exceptions.ChunkedEncodingError("fewer bytes than recorded")
            if self.size is not None and got > self.size:
                raise ValueError("more bytes than recorded")
        # Under both names until pooch has checked it: pooch throws away what it refuses.
        Path(output_file).unlink()
        try:
            os.link(self.part, output_file)
        except OSError:  # a file system without links
            self.part.replace(output_file)

    def _ask(self, url: str, have: int) -> bool:
        """Ask for the file from byte ``have`` on and write what comes; False where the server has none from there."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            start, total = _extent(answer)
            if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                return total == have
            if answer.status_code not in (200, 206):
                raise InputError(
                    f"{url}: the server answered {answer.status_code} {answer.reason}; try --from another one"
                )
            kind = answer.headers.get("Content-Type", "an unnamed type")
            # Instead of the file a server may send a page that says why not, of no stated length.
            page = kind.startswith("text/html") and not self.html and (total is None or total != self.size)
            other = self.size is not None and total not in (None, self.size)
            if start not in (0, have) or total == 0 or page or other:
                raise InputError(
                    f"{url}: offers {_count(total)} bytes of {kind}, not the {_count(self.size)} of {self.what}; "
                    "not downloaded. Try --from another one"
                )
            need_space(self.part.parent, (total or 0) - start, self.what)
            self._write(url, answer.iter_content(PIECE), start, total)
        return True

    def _write(self, url: str, pieces: Iterator[bytes], start: int, total: int | None) -> None:
        """Write pieces from byte ``start`` on; a server that starts anew writes to a second file.

        That takes the part's place if it is whole, or of the right announced size and longer than the part.
        """
        path = _anew(self.part) if not start and _size(self.part) else self.part
        end = total if self.size is None else self.size
        with tqdm(total=end, initial=start, unit="B", unit_scale=True, unit_divisor=1024, desc=self.what) as bar:
            first = next(pieces, b"")
            if not first:
                return
            whole = False
            try:
                with path.open("r+b" if start else "wb") as file:
                    file.truncate(start)
                    file.seek(start)
                    for piece in itertools.chain((first,), pieces):
                        file.write(piece)
                        bar.update(len(piece))
                        if self.size is not None and file.tell() > self.size:  # nothing more need come
                            break
                whole = self.size is None or _size(path) == self.size
            finally:
                if path != self.part:
                    self._settle(url, path, whole or (total is not None and _size(path) > _size(self.part)))

    def _settle(self, url: str, anew: Path, better: bool) -> None:
        """Let a second file take the part's place, or throw it away.

        Raises:
            InputError: it is longer than the recorded file.
        """
        if better:
            anew.replace(self.part)
            return
        got = _size(anew)
        anew.unlink()
        if self.size is not None and got > self.size:
            raise InputError(
                f"{url}: not the recorded file: {got:,} bytes where {self.size:,} are recorded; what had been fetched "
                "before is kept. Try --from another one"
            )


def _extent(answer: requests.Response) -> tuple[int, int | None]:
    """Return the first byte that an answer brings, and the whole file's size where it says so."""
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
