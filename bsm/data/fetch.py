"""Fetch a data set: download, check and unpack it in a work folder, then rename that folder in one step."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from bsm import download
from bsm.data import check
from bsm.data.registry import DataSet, load
from bsm.errors import InputError, one_line
from bsm.files import alone, sha256, write_text

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)


def fetch(name: str, source: str | None = None) -> Path:
    """Fetch a data set into its folder, unless it is there; return the folder.

    Repeat an interrupted call to continue its download. A downloaded archive is deleted in the end; its size and
    checksum stay in ``fetched.json``.

    Args:
        name: a data set whose manifest names files to download.
        source: another address (http, https) of the file, or a local path. A local file is left as it is.

    Raises:
        InputError: the data set is unknown, or is made here; its folder holds something else; another process fetches
            it; the connection fails; the disk is full; the file is not the recorded one; the archive is damaged or has
            members outside its folder; or the folder lacks songs of the manifest.
    """
    wanted = load(name)
    if not wanted.files:
        raise InputError(f"{name!r} is made here, not fetched: {wanted.made_by}")
    if source and len(wanted.files) > 1:
        raise InputError(f"{name!r} has {len(wanted.files)} files, so --from cannot name the one to take")
    if wanted.fetched is None and wanted.state == "here":
        raise InputError(
            f"{wanted.place}: is there, but not from `bsm data fetch`; check it with `bsm data verify {name}`, or "
            "move it away"
        )
    if wanted.fetched is None or wanted.work.exists():
        try:
            # The lock is outside the work folder, because its holder deletes that folder.
            with alone(wanted.work.with_suffix(".lock"), f"another process is fetching {name!r}"):
                if wanted.fetched is None:
                    _fetch(wanted, source)
                shutil.rmtree(wanted.work, ignore_errors=True)
        except OSError as error:
            raise InputError(f"{wanted.work}: {error}; fix that and run the same command again") from error
    songs = check.find_songs(wanted.place, wanted.layout)
    if lacking := [str(fault) for fault in check.check_names(wanted, songs) if fault.where not in songs]:
        named = "; ".join(lacking[:3]) + (f"; and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise InputError(f"{wanted.place}: incomplete: {named}; move the folder away, and fetch {name} again")
    return wanted.place


def _fetch(wanted: DataSet, source: str | None) -> None:
    unpacked = wanted.work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # of an interrupted call
    archives = {
        archive: download.obtain(
            source or archive.url,
            wanted.work / archive.file,
            what=f"{archive.file} of {wanted.name}",
            size=archive.size,
            checksum=archive.checksum,
            room=archive.size or 0,  # the unpacked files take at least as much again
        )
        for archive in wanted.files
    }
    measured = {}
    for archive, path in archives.items():
        unpack(path, unpacked)
        checksum = archive.checksum or f"sha256:{sha256(path)}"
        measured[archive.file] = {"from": source or archive.url, "size": path.stat().st_size, "checksum": checksum}
    data = unpacked / wanted.inside
    if not data.is_dir():
        files = ", ".join(map(str, archives.values()))
        raise InputError(f"{files}: has no folder {wanted.inside!r} in it; it is not {wanted.name!r}")
    write_text(data / wanted.record.name, json.dumps({"files": measured}, indent=1) + "\n")
    os.sync()  # the songs reach the disk before their folder's name does
    data.replace(wanted.place)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a .zip or .tar archive.

    Raises:
        InputError: a member is a link or lies outside ``target`` (then nothing is unpacked), the archive is damaged, or
            the disk is full.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) if archive.suffix == ".zip" else tarfile.open(archive) as file:
            members = list(_members(archive, file))
            total = sum(size for _, size in members)
            download.need_space(target, total, f"the unpacked {archive.name}")
            file.extraction_filter = getattr(tarfile, "data_filter", None)  # for tar; Python 3.11.3 has none
            bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=f"unpacking {archive.name}")
            with bar:
                for member, size in members:
                    file.extract(member, target)
                    bar.update(size)
            if isinstance(file, tarfile.TarFile):
                while file.fileobj.read(1 << 20):  # gzip compares its checksum at the end of the file
                    pass
    except _DAMAGED as error:
        raise InputError(f"{archive}: damaged archive ({one_line(error)}); delete it and fetch it again") from error


def _members(archive: Path, file: zipfile.ZipFile | tarfile.TarFile) -> Iterator[tuple[Any, int]]:
    """List each member of an archive and its size in bytes; refuse a link, and a member outside the folder."""
    for member in file.infolist() if isinstance(file, zipfile.ZipFile) else file.getmembers():
        if isinstance(member, zipfile.ZipInfo):
            name, size, plain = member.filename, member.file_size, not stat.S_ISLNK(member.external_attr >> 16)
        else:
            name, size, plain = member.name, member.size, member.isfile() or member.isdir()
        path = PurePosixPath(name.replace("\\", "/"))
        if not plain or path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{archive}: its member {name!r} is a link or lies outside the folder; nothing was unpacked"
            )
        yield member, size
