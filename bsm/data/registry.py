"""Read the manifest of each data set, ``data_manifest/<name>.yaml``. The classes here are the schema of manifests."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError, model_validator

from bsm.errors import InputError, known, one_line
from bsm.files import write_text

ROOT = Path(__file__).parents[2]
MANIFESTS = Path(__file__).parents[1] / "manifests"  # in a checkout, a link to data_manifest/; in a wheel, a folder
_WEIGHTS = "weights"  # in the same folder, weights.yaml lists weights and not a data set

Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(min_length=1)]


class _Part(BaseModel):
    """A part of a manifest. It refuses unknown keys and wrong types, and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Part):
    """A file to download."""

    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    url: Annotated[str, Field(pattern="^https?://")]
    size: PositiveInt | None  # bytes; null where unknown
    # As published; null where unknown.
    checksum: Annotated[str, Field(pattern="^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")] | None
    verified: bool = False  # whether size and checksum were measured on the file itself


class Entry(_Part):
    """A data set or weights: something with a name that is either fetched or made here.

    Each subclass defines ``place``, the path of its file or folder, and ``work``, the path of an unfinished fetch.
    """

    name: str = ""  # the manifest's file name, or the key in the list of weights
    title: Text
    licence: Text  # its terms, or that none are stated
    source: str = ""  # the publisher's page
    files: tuple[Archive, ...] = ()  # what is downloaded
    made_by: str = ""  # the command that makes it, if it is not downloaded
    note: str = ""  # what else users should know

    @model_validator(mode="after")
    def _check_origin(self) -> Self:
        if bool(self.files) == bool(self.made_by):
            raise ValueError("needs exactly one of files and made_by")
        return self

    @property
    def terms(self) -> str:
        """The licence and the note, as commands print them before they use the entry."""
        return f"licence of {self.name!r}: {self.licence}" + (f"\n{self.note}" if self.note else "")

    @property
    def state(self) -> str:
        """``here``, ``partly fetched``, ``not fetched`` or ``not made``."""
        if self.place.is_file() or (self.place.is_dir() and any(self.place.iterdir())):
            return "here"
        if not self.files:
            return "not made"
        return "partly fetched" if self.work.exists() else "not fetched"


class Split(_Part):
    """The songs of one split, known by their names or by their singers."""

    songs: PositiveInt | None  # how many; null where unknown
    folder: str = ""  # in the data set's folder; by default it has the split's name
    names: Names | None = None  # more names than songs: it is unknown which of them the data set has
    names_of: str = ""  # another data set, which has the same names in this split
    singers: Names | None = None  # a clip's name begins with its singer and an underscore

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if sum(map(bool, (self.names, self.names_of, self.singers))) != 1:
            raise ValueError("needs exactly one of names, names_of and singers")
        if self.names and self.songs and self.songs > len(self.names):
            raise ValueError(f"{self.songs} songs, but {len(self.names)} names")
        return self

    def holds(self, name: str) -> bool:
        """Return whether a song belongs to this split."""
        return name in (self.names or ()) or name.partition("_")[0] in (self.singers or ())


class DataSet(Entry):
    """A data set."""

    source: Text
    inside: Text = "."  # the folder in the archive that holds the data
    # folders: <song>/<source>.wav or .flac; stems: <song>.stem.mp4; clips: a file per song, a source per channel
    layout: Literal["folders", "stems", "clips"]
    rate: PositiveInt  # samples per second
    channels: PositiveInt  # audio channels of each source
    sources: Names  # for clips, in the order of the channels
    mixture: Literal["sum", "coded", "none"]  # a file with the sources' sum; a lossy file coded apart; or no file
    splits: Annotated[dict[Literal["train", "valid", "test"], Split], Field(min_length=1)]
    citation: Text

    @model_validator(mode="after")
    def _check_lists(self) -> Self:
        if "vocals" not in self.sources or len(set(self.sources)) != len(self.sources) or len(self.sources) < 2:
            raise ValueError(f"sources: needs vocals and others, each once, not {', '.join(self.sources)}")
        if other := [file.file for file in self.files if not re.search(r"\.(zip|tar|tar\.gz|tgz)$", file.file)]:
            raise ValueError(f"files: {', '.join(other)}: needs .zip, .tar, .tar.gz or .tgz")
        listed = Counter(name for part in self.splits.values() for name in (*(part.names or ()), *(part.singers or ())))
        if twice := sorted(name for name, count in listed.items() if count > 1):
            raise ValueError(f"splits: listed twice: {', '.join(twice)}")
        return self

    @property
    def place(self) -> Path:
        """The folder of the songs. The folder ``data`` above it may be a link to another disk."""
        return ROOT / "data" / self.name

    @property
    def work(self) -> Path:
        """The folder that keeps an unfinished fetch."""
        return self.place.with_name(f".fetching-{self.name}")

    @property
    def record(self) -> Path:
        """The file that records from which downloaded files the data set was unpacked."""
        return self.place / "fetched.json"

    @property
    def fetched(self) -> dict[str, Any] | None:
        """Size and checksum of each downloaded file, by name; None if `bsm data fetch` did not make the folder."""
        try:
            return json.loads(self.record.read_text(encoding="utf-8"))["files"] if self.record.is_file() else None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.record}: damaged ({error!r}); move its folder away, and fetch it again") from error


def names() -> list[str]:
    """Return the names of the known data sets."""
    return sorted(path.stem for path in MANIFESTS.glob("*.yaml") if path.stem != _WEIGHTS)


def load(name: str) -> DataSet:
    """Read and check the manifest of one data set.

    Raises:
        InputError: no data set has that name, or its manifest is not valid; the message names every fault.
    """
    found = read(DataSet, MANIFESTS / f"{known('data set', name, names())}.yaml")
    splits = {}
    for split, part in found.splits.items():
        named = load(part.names_of).splits.get(split, part) if part.names_of else part
        splits[split] = part.model_copy(update={"folder": part.folder or split, "names": named.names})
    return found.model_copy(update={"name": name, "splits": splits})


def splits(name: str) -> dict[str, Split]:
    """Return the splits of a data set; none if this installation lacks its manifest."""
    return dict(load(name).splits) if (MANIFESTS / f"{name}.yaml").is_file() else {}


def folder_of(name_or_path: str | Path) -> Path:
    """Return the folder of a known data set, or the path itself."""
    return load(str(name_or_path)).place if str(name_or_path) in names() else Path(name_or_path)


def fill(name: str, file: str, size: int, checksum: str) -> None:
    """Write the measured size and checksum of a downloaded file into the manifest; keep all other lines.

    Raises:
        InputError: the manifest has no entry for the file, or its fields are not in the usual order, one a line.
    """
    path = MANIFESTS / f"{name}.yaml"
    entry = rf"(  - file: {re.escape(file)}\n    url: .*\n)    size: .*\n    checksum: .*\n    verified: .*\n"
    filled = rf"\g<1>    size: {size}\n    checksum: {checksum}\n    verified: true\n"
    text, count = re.subn(entry, filled, path.read_text(encoding="utf-8"))
    if count != 1:
        raise InputError(f"{path}: has no entry `  - file: {file}`; enter {size} and {checksum} by hand")
    write_text(path, text)


def read(kind: Any, path: Path) -> Any:
    """Read a YAML file as an object of a type made of the classes above.

    Raises:
        InputError: the file is not YAML, or does not fit the type; the message names every fault.
    """
    return _parse(kind, path, path.read_bytes())


@cache  # with the content as a key, so a changed file is parsed again
def _parse(kind: Any, path: Path, content: bytes) -> Any:
    try:
        return TypeAdapter(kind).validate_python(yaml.safe_load(content))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {one_line(error)}; mend the file") from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'top level'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise InputError(f"{path}: {'; '.join(faults)}. The fields are those in bsm/data/registry.py") from error
