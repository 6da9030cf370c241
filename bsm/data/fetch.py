"""Bring a data set here: download, check, unpack beside its place, and only then give it its name."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from bsm import download
from bsm.data.registry import Archive, DataSet, load
from bsm.errors import InputError
from bsm.files import sha256, write_text

_RECORD = "fetched.json"  # in the data set's folder: which files it was unpacked from
_PIECE = 1 << 20  # bytes


def fetch(name: str, source: str | None = None) -> Path:
    """Bring a data set into its folder, unless it is there. One call at a time per data set.

    Everything happens in a folder beside the data set's own, which the finished one leaves in a single step; so an
    interrupted call is simply repeated, and goes on with what it had downloaded. The archive goes away afterwards: what
    was measured on it stays in ``fetched.json``.

    Args:
        name: a data set whose manifest names a file to download.
        source: another address (http, https) of that file, or a path to take it from, which is left as it is.

    Returns:
        The data set's folder.

    Raises:
        InputError: no such data set, one that is made here, a folder of that name that is not from here, no connection,
            no room, a file that is not the recorded one, or an archive that is damaged or reaches out of its folder.
    """
    wanted = load(name)
    work = _work(wanted)
    if not wanted.files:
        raise InputError(f"{name!r} is made here, not fetched: {wanted.made_by}")
    if record(wanted) is not None:
        shutil.rmtree(work, ignore_errors=True)
        return wanted.folder
    if wanted.folder.is_dir() and any(wanted.folder.iterdir()):
        raise InputError(
            f"{wanted.folder}: is there, but not from `bsm data fetch`; check it with `bsm data verify {name}`, or "
            "move it away"
        )
    if source and len(wanted.files) > 1:
        raise InputError(f"{name!r} has {len(wanted.files)} files, so --from cannot name the one to take")
    try:
        _fetch(wanted, work, source)
    except OSError as error:
        raise InputError(f"{work}: {error}; mend that and run the same command again") from error
    return wanted.folder


def record(wanted: DataSet) -> dict[str, Any] | None:
    """Return what was measured on the downloaded files, by file name; None where the data set is not from here."""
    path = wanted.folder / _RECORD
    return json.loads(path.read_text(encoding="utf-8"))["files"] if path.is_file() else None


def state(wanted: DataSet) -> str:
    """Return ``here``, ``partly fetched``, ``not fetched`` or ``not made``."""
    if wanted.folder.is_dir() and any(wanted.folder.iterdir()):
        return "here"
    if not wanted.files:
        return "not made"
    return "partly fetched" if _work(wanted).is_dir() else "not fetched"


def _work(wanted: DataSet) -> Path:
    return wanted.folder.with_name(f".fetching-{wanted.name}")


def _fetch(wanted: DataSet, work: Path, source: str | None) -> None:
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of a call that was interrupted
    measured = {}
    archives = [(archive, _bring(wanted.name, archive, work, source)) for archive in wanted.files]
    for archive, path in archives:
        _unpack(path, unpacked)
        checksum = archive.checksum or f"sha256:{sha256(path)}"
        measured[archive.file] = {"from": source or archive.url, "size": path.stat().st_size, "checksum": checksum}
    data = unpacked / wanted.inside
    if not data.is_dir():
        raise InputError(f"{archives[0][1]}: has no folder {wanted.inside!r} in it; it is not {wanted.name!r}")
    write_text(data / _RECORD, json.dumps({"files": measured}, indent=1) + "\n")
    os.sync()  # the songs reach the disk before their folder's name does
    data.replace(wanted.folder)
    shutil.rmtree(work, ignore_errors=True)


def _bring(name: str, archive: Archive, work: Path, source: str | None) -> Path:
    if source and not source.startswith(("http://", "https://")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise InputError(f"{path}: no such file to take {archive.file} from")
        if fault := download.fault_of(path, archive.size, archive.checksum):
            raise InputError(f"{path}: not the recorded {archive.file}: {fault}; left as it is")
        return path
    # What is unpacked takes as much room again, at the least; unpacking checks what it takes in truth.
    return download.obtain(
        source or archive.url,
        work / archive.file,
        what=f"{archive.file} of {name}",
        size=archive.size,
        checksum=archive.checksum,
        room=archive.size or 0,
    )


def _unpack(archive: Path, target: Path) -> None:
    """Unpack an archive, none of whose members may lie outside ``target`` or be a link.

    Raises:
        InputError: such a member, a damaged archive, or no room.
    """
    target.mkdir(parents=True, exist_ok=True)
    unpack = _unpack_zip if archive.suffix == ".zip" else _unpack_tar
    try:
        unpack(archive, target)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{archive}: damaged archive ({why}); delete it and fetch it again") from error


def _unpack_zip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        for member in members:
            _refuse_outside(archive, member.filename, link=stat.S_ISLNK(member.external_attr >> 16))
        with _room_and_bar(archive, target, sum(member.file_size for member in members)) as bar:
            for member in members:
                path = target / member.filename
                if member.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as packed, path.open("wb") as out:
                    _copy(packed, out, bar)


def _unpack_tar(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as file:
        members = file.getmembers()
        for member in members:
            _refuse_outside(archive, member.name, link=not (member.isfile() or member.isdir()))
        with _room_and_bar(archive, target, sum(member.size for member in members)) as bar:
            for member in members:
                path = target / member.name
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                packed = file.extractfile(member)
                with path.open("wb") as out:
                    _copy(packed, out, bar)
        while file.fileobj.read(_PIECE):  # on to the checksum of what was compressed
            pass


def _refuse_outside(archive: Path, name: str, *, link: bool) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if link or parts.is_absolute() or ".." in parts.parts or ":" in name.partition("/")[0]:
        raise InputError(f"{archive}: its member {name!r} is a link or lies outside the folder; nothing was unpacked")


def _room_and_bar(archive: Path, target: Path, size: int) -> tqdm:
    download.need_space(target, size, f"the unpacked {archive.name}")
    return tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, desc=f"unpacking {archive.name}")


def _copy(packed: Any, out: Any, bar: tqdm) -> None:
    while piece := packed.read(_PIECE):
        out.write(piece)
        bar.update(len(piece))
