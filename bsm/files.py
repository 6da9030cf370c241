"""Write files whole or not at all, check beforehand that they can be written, lock them, and compute checksums.

Every file that the package writes goes through :func:`replacing` or :func:`write_text`, except growing journals.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bsm.errors import InputError

log = logging.getLogger(__name__)

TEMPORARY = ".bsm-"
"""Prefix of the names of unfinished files. A killed process leaves such a file behind."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the same suffix; it becomes ``path`` if the block succeeds.

    Makes missing parent folders. If ``path`` is a symbolic link, the file that it leads to is replaced. The content
    reaches the disk before the name does: a crash leaves the old file or the new one. If the block fails, the temporary
    file is deleted.

    Raises:
        InputError: a folder cannot be made; the path is a folder, a pipe or a device; or the file cannot be written.
        OSError: the block failed because of another file.
    """
    path, temporary = Path(path), None
    try:
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=TEMPORARY, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp lets only the owner read
        temporary.replace(target)
    except OSError as error:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        if name and TEMPORARY not in name and not target.is_relative_to(name):
            raise
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); make room there, or make it writable") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write a text file in UTF-8 through :func:`replacing`; return its path.

    Bytes of file names that are not UTF-8 are written as ``\\udc..``, as in JSON.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return Path(path)


def check_writable(*paths: Path) -> None:
    """Check, before computing, that files can be written afterwards. Changes nothing on disk.

    Raises:
        InputError: a path is a folder, a pipe or a device, a name is longer than its file system allows, or the file's
            folder cannot be made or written.
    """
    for path in (_target(path).absolute() for path in paths):
        # Path.exists would raise OSError for a name that is too long, and miss a link that leads nowhere.
        base = next(parent for parent in path.parents if os.path.lexists(parent))
        if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
            raise InputError(f"{path.parent}: cannot be written; name another place with -o")
        longest = os.pathconf(base, "PC_NAME_MAX")
        for name in path.relative_to(base).parts:
            if (length := len(os.fsencode(name))) > longest:
                raise InputError(
                    f"{path}: file name of {length} bytes, more than the {longest} allowed there; choose a shorter name"
                )


def _target(path: Path) -> Path:
    """Return a path, or the file behind a symbolic link; a folder, a pipe or a device is an InputError."""
    # Functions of os.path, because Path's methods raise an error for names that are too long.
    if os.path.isdir(path):  # noqa: PTH112
        raise InputError(f"{path}: is a folder; name a file, or another place with -o")
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise InputError(f"{path}: is a pipe or a device; name a file to write to")
    return real(path) if os.path.islink(path) else path  # noqa: PTH114


def real(path: Path) -> Path:
    """Resolve symbolic links. Unlike Path.resolve, this does not fail if links form a circle."""
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Hold a lock file during the block. The system releases the lock when this process ends, however it ends.

    Child processes do not inherit the lock. The file is not deleted: a process that still had the deleted file open
    would hold a lock that no other process sees.

    Raises:
        InputError: another process holds the lock; the message begins with ``busy``.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            owner = file.read().strip() or "not known"
            raise InputError(f"{busy} ({owner}); wait for it, or stop it") from None
        except OSError as error:
            log.warning("%s: this file system has no locks (%s); run one process at a time", lock, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def sha256(path: str | os.PathLike) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_checksum(path: Path) -> str:
    """Return a checksum of an audio file's content, 16 hexadecimal digits, without reading all of a large file.

    The first 128 bytes are skipped: a WAV file of floating-point samples holds the time of writing there. Above 16 MiB,
    only the size and 16 blocks of 256 KiB count. That tells other recordings and versions apart, but may miss a short
    edit.

    Raises:
        InputError: the file cannot be read.
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
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions and its disk") from error
    return digest.hexdigest()[:16]
