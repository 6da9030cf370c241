"""Read tensors from files of ``torch.save`` without running any code that the files name."""

from __future__ import annotations

import collections
import io
import logging
import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsm.errors import InputError

log = logging.getLogger(__name__)

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values from a dictionary written by ``torch.save``.

    Tries PyTorch's restricted reader first. It refuses a file that holds any other object, and a Lightning checkpoint
    holds many, such as hyper-parameters and callbacks. Such a file is read again with a placeholder for every foreign
    class and function. The placeholder does nothing; no foreign code is imported or called.

    Args:
        path: a file in any of PyTorch's formats. A file with foreign objects must be in the zip format (since 2020).

    Returns:
        The dictionary. The weights are its ``state_dict`` or, without one, the dictionary itself. They are tensors on
        the CPU. Other entries of a file with foreign objects may be placeholders.

    Raises:
        InputError: the file is damaged, is not of ``torch.save``, or holds no dictionary.
    """
    try:
        # Mapped: only what is used is read. Three quarters of a Lightning file are optimiser state.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path):
            raise InputError(
                f"{path}: not a weights file, or one in the old format that holds more than tensors "
                f"({_first_line(error)}); fetch or copy it again, or save it again with PyTorch 1.6 or later"
            ) from error
        content = _read_inert(path)
    except Exception as error:  # a damaged file may raise any error; none of its code has run
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__} where a dictionary of weights is wanted")
    return content


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: damaged, or not a weights file ({_first_line(error)}); fetch or copy it again")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@dataclass(frozen=True)
class _Storage:
    """The numbers of tensors, still in the file."""

    name: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _View:
    """A tensor to be made from a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _read_inert(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{path}: a zip file that torch.save did not write; fetch or copy it again")
            folder = pickles[0].removesuffix("data.pkl")
            if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
                raise InputError(f"{path}: written on a big-endian machine, which is not supported; save it on another")
            content, foreign = _unpickle(_stored(archive, pickles[0]))
            if not isinstance(content, dict):
                raise InputError(f"{path}: holds a {type(content).__name__} where a dictionary of weights is wanted")
            log.info("%s: skipped objects that are not tensors: %s", path, ", ".join(sorted(foreign)))
            weights = content.get("state_dict")
            if not isinstance(weights, dict):
                weights = content
            storages: dict[_Storage, Tensor] = {}
            for name, value in weights.items():
                if isinstance(value, _View):
                    if value.storage not in storages:
                        storages[value.storage] = _read_storage(archive, folder, value.storage)
                    weights[name] = storages[value.storage].as_strided(value.size, value.stride, value.offset)
    except InputError:
        raise
    except Exception as error:  # a damaged file may raise any error, as above
        raise _damaged(path, error) from error
    return content


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a member that is not compressed. PyTorch never compresses; a small file must not expand into a huge one."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError(f"{name} is compressed")
    return archive.read(name)


def _read_storage(archive: zipfile.ZipFile, folder: str, storage: _Storage) -> Tensor:
    data = bytearray(_stored(archive, f"{folder}data/{storage.name}"))
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise pickle.UnpicklingError(f"data/{storage.name} has {len(data)} bytes, not {storage.numel} numbers")
    return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


def _unpickle(data: bytes) -> tuple[Any, set[str]]:
    """Unpickle with placeholders for all but tensors and ordered dictionaries; return the names of what they replace.

    Each call defines its own classes, so that no pickle can change the classes of a later call.
    """
    foreign: set[str] = set()

    class Placeholder:
        """Accepts whatever pickle does to an object, and does nothing."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
            return super().__new__(cls)

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def ignore(self, *args: Any) -> None: ...

        __setstate__ = __setitem__ = append = extend = add = ignore

    class StorageType:
        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

    def rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
        if isinstance(storage, Placeholder):  # not a type of tensor that weights have
            return storage
        numbers = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor has an impossible shape")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.numel:
            raise pickle.UnpicklingError("a tensor reaches beyond its storage")
        return _View(storage, offset, tuple(size), tuple(stride))

    known = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    }

    class Unpickler(pickle._Unpickler):  # the Python one: the C one allocates a memo of any size that a pickle names
        dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

        def find_class(self, module: str, name: str) -> Any:
            if module == "torch" and name in _DTYPES:
                return StorageType(_DTYPES[name])
            if (module, name) in known:
                return known[module, name]
            foreign.add(f"{module}.{name}")
            return Placeholder

        def persistent_load(self, pid: Any) -> Any:
            kind, storage_type, name, _, numel = pid
            if kind != "storage" or not isinstance(name, str) or type(numel) is not int:
                raise pickle.UnpicklingError("an unknown kind of storage")
            if not isinstance(storage_type, StorageType):
                return Placeholder()
            return _Storage(name, storage_type.dtype, numel)

    return Unpickler(io.BytesIO(data)).load(), foreign
