"""What is known of each data set: ``data_manifest/<name>.yaml``, all of one schema, ``data_manifest/schema.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from bsm.errors import InputError
from bsm.files import write_text

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "data_manifest"
_WEIGHTS = "weights"  # the list of weights lies in the same folder


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        file: its name.
        url: its address.
        size: bytes; None where unknown.
        checksum: ``md5:`` or ``sha256:`` and the digest, as published; None where unknown.
        verified: whether size and checksum were measured on the file itself.
    """

    file: str
    url: str
    size: int | None
    checksum: str | None
    verified: bool


@dataclass(frozen=True)
class Split:
    """One split's songs.

    Attributes:
        songs: how many; None where unknown.
        folder: where they lie in the data set's folder.
        names: their names; where ``songs`` is another number, some of them. Empty where only the singers are known.
        singers: those who sing them, as the part of a name before the first underscore.
    """

    songs: int | None
    folder: str
    names: tuple[str, ...] = ()
    singers: tuple[str, ...] = ()

    def holds(self, name: str) -> bool:
        """Say whether a song is one of this split's."""
        return name in self.names or name.partition("_")[0] in self.singers


@dataclass(frozen=True)
class DataSet:
    """A data set; the fields are those of the schema, which says what they mean."""

    name: str
    title: str
    source: str
    licence: str
    layout: str
    rate: int
    channels: int
    sources: tuple[str, ...]
    mixture: str
    splits: dict[str, Split]
    citation: str
    files: tuple[Archive, ...] = ()
    inside: str = "."
    made_by: str = ""
    note: str = ""

    @property
    def folder(self) -> Path:
        """Where its songs lie, or will once fetched or made."""
        return data_folder(self.name)


def data_folder(name: str) -> Path:
    """Return where a data set lies: ``data/<name>`` of the checkout. ``data`` may be a link to another disk."""
    return ROOT / "data" / name


def names() -> list[str]:
    """Return the names of the known data sets.

    Raises:
        InputError: no manifests, as in an installation without the checkout.
    """
    found = sorted(path.stem for path in MANIFESTS.glob("*.yaml") if path.stem != _WEIGHTS)
    if not found:
        raise InputError(f"{MANIFESTS}: no data manifests; install bsm from a checkout (pip install -e .)")
    return found


def load(name: str) -> DataSet:
    """Read and check the manifest of one data set.

    Raises:
        InputError: no such data set, or a manifest that is not of the schema; it says where and how.
    """
    if name not in names():
        raise InputError(f"no data set is named {name!r}; choose one of {', '.join(names())}")
    path = _path(name)
    return _parse(name, path, path.read_text(encoding="utf-8"))


def fill(name: str, file: str, size: int, checksum: str) -> None:
    """Write the size and checksum that were measured on a downloaded file into the manifest, as verified.

    Raises:
        InputError: the manifest does not name the file with those fields each on a line of its own.
    """
    path = _path(name)
    text = path.read_text(encoding="utf-8")
    entry = re.search(rf"^  - file: {re.escape(file)}\n(?:    .*\n)+", text, re.MULTILINE)
    if entry is None:
        raise InputError(f"{path}: has no entry `  - file: {file}`; enter {size} and {checksum} by hand")
    block = entry[0]
    for key, value in {"size": size, "checksum": checksum, "verified": "true"}.items():
        block = re.sub(rf"(?m)^    {key}: .*$", f"    {key}: {value}", block)
    text = text[: entry.start()] + block + text[entry.end() :]
    filled = next(archive for archive in _parse(name, path, text).files if archive.file == file)
    if (filled.size, filled.checksum, filled.verified) != (size, checksum, True):
        raise InputError(f"{path}: the entry of {file} is not laid out as one field a line; write it by hand")
    write_text(path, text)


def _path(name: str) -> Path:
    return MANIFESTS / f"{name}.yaml"


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads((MANIFESTS / "schema.json").read_text(encoding="utf-8")))


def _parse(name: str, path: Path, text: str) -> DataSet:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if faults := list(_faults(values)):
        raise InputError(f"{path}: {'; '.join(faults)}. The schema is {MANIFESTS / 'schema.json'}")
    splits = {split: _split(path, split, found) for split, found in values["splits"].items()}
    sung = [name for split in splits.values() for name in (*split.names, *split.singers)]
    if twice := sorted({name for name in sung if sung.count(name) > 1}):
        raise InputError(f"{path}: in more than one split: {', '.join(twice)}")
    files = tuple(Archive(**file) for file in values.get("files", ()))
    return DataSet(**values | {"name": name, "sources": tuple(values["sources"]), "splits": splits, "files": files})


def _faults(values: Any) -> Iterator[str]:
    for error in sorted(_validator().iter_errors(values), key=lambda error: list(map(str, error.absolute_path))):
        place = ".".join(map(str, error.absolute_path)) or "top level"
        what = error.message
        if error.validator == "oneOf":  # the schema's alternatives are keys, of which there is to be one
            keys = " or ".join(option["required"][0] for option in error.validator_value)
            what = f"must have exactly one of {keys}"
        yield f"{place}: {what if len(what) < 200 else what[:200] + ' ...'}"


def _split(path: Path, split: str, values: dict[str, Any]) -> Split:
    found = tuple(values.get("names", ()))
    if other := values.get("names_of"):
        if not _path(other).is_file():
            raise InputError(f"{path}: splits.{split}.names_of: there is no manifest {other!r}")
        listed = yaml.safe_load(_path(other).read_text(encoding="utf-8"))["splits"].get(split, {})
        found = tuple(listed.get("names", ()))
    if values["songs"] is not None and found and values["songs"] > len(found):
        raise InputError(f"{path}: splits.{split}: {values['songs']} songs, but {len(found)} names")
    return Split(values["songs"], values.get("folder", split), found, tuple(values.get("singers", ())))
