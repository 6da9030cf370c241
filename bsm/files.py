"""Files that appear whole or not at all, and the revision of those that git keeps."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bsm.errors import InputError

TEMPORARY = ".bsm-"
"""What the name of a file begins with that is being written; a process that is killed leaves it."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path``, with its suffix, that becomes ``path`` if the block succeeds.

    The content reaches the disk before the name does, so that a crash leaves the old file or the new one. If the block
    fails, the temporary file goes away. Missing parent folders are made. The temporary name is short whatever the name,
    so that a long one cannot fail for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are readable by their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Make sure, before hours of work, that a file can be written there in the end; leave everything as it is.

    Raises:
        InputError: a folder has that name, or its own folder cannot be made or written.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file, or another place with -o")
    base = next(p for p in path.absolute().parents if p.exists())
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        raise InputError(f"{path.parent}: cannot be written; name another place with -o")


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write a text file in UTF-8 through :func:`replacing`; return its path.

    A file name that is not UTF-8 appears with ``\\udc..`` for such bytes, as JSON has it.

    Raises:
        InputError: its folder cannot be written, or the disk is full.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room there, or make it writable"
        ) from error
    return Path(path)


def sha256(path: str | os.PathLike) -> str:
    """Return a file's SHA-256 in hexadecimal, read piece by piece."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_checksum(path: Path) -> str:
    """Return 16 hexadecimal digits that tell the contents of audio files apart, without reading all of a large file.

    The first 128 bytes are left out: there, a WAV file of floating-point samples holds the time at which it was
    written. The rest of a file of at most 16 MiB is read whole. Of a larger file, its size and 16 blocks of 256 KiB are
    read, evenly spread from beginning to end. Another recording or another processing differs there; a short edit
    between the blocks is not seen.

    Raises:
        InputError: The file cannot be read.
    """
    header, blocks, block = 128, 16, 256 << 10
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(str(size).encode())
            if size <= 16 << 20:
                file.seek(header)
                digest.update(file.read())
            else:
                for number in range(blocks):
                    file.seek(header + (size - header - block) * number // (blocks - 1))
                    digest.update(file.read(block))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()[:16]


def git_revision(root: Path) -> dict[str, Any]:
    """Return the ``revision`` of a checkout, and whether anything but ``reports/`` differs from it (``dirty``).

    Without git or a repository they are ``"unknown"`` and None.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    unknown = {"revision": "unknown", "dirty": None}
    if not (root / "pyproject.toml").is_file():  # installed elsewhere: a repository around it is not ours
        return unknown
    try:
        return {
            "revision": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".", ":!reports")),
        }
    except (OSError, subprocess.SubprocessError):
        return unknown
