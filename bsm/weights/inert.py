"""Read tensors from files of ``torch.save`` without running any code that the files name."""

from __future__ import annotations

import collections
import logging
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch

from bsm.errors import InputError, first_line

log = logging.getLogger(__name__)


def advises_to_run(error: Exception) -> bool:
    """Tell whether the text of PyTorch's error about a file recommends to run the code in the file."""
    return isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read tensors and plain values from a dictionary written by ``torch.save``.

    PyTorch reads the file, with a pickle reader that gets a placeholder for every foreign class and function. The
    placeholder does nothing; no foreign code is imported or called. PyTorch's own restricted reader (``weights_only``)
    would refuse what Lightning checkpoints hold, such as hyper-parameters and callbacks; it reads files from before
    2020.

    Returns:
        The dictionary, with tensors on the CPU. Entries of foreign classes are placeholders.

    Raises:
        InputError: the file is damaged, is not of ``torch.save``, or holds no dictionary.
    """
    foreign: set[str] = set()
    try:
        if zipped := zipfile.is_zipfile(path):
            _check_members(path)
        # Not mapped into memory: PyTorch then misses a storage that is shorter than its tensors.
        reader = {"weights_only": False, "pickle_module": _inert(foreign)} if zipped else {}
        content = torch.load(path, map_location="cpu", **{"weights_only": True} | reader)
    except Exception as error:  # a damaged file may raise any error; none of its code has run
        if advises_to_run(error):
            more = "damaged" if zipped else "one from before PyTorch 1.6 that holds more than tensors"
            raise InputError(f"{path}: not a weights file, or {more}; give a checkpoint of this model") from error
        raise InputError(
            f"{path}: damaged, or not a weights file ({first_line(error)}); fetch or copy it again"
        ) from error
    if foreign:
        log.info("%s: skipped objects that are not tensors: %s", path, ", ".join(sorted(foreign)))
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__} where a dictionary of weights is wanted")
    return content


def _check_members(path: Path) -> None:
    """Refuse a zip file that ``torch.save`` does not write: of a compiled program, or of compressed members."""
    with zipfile.ZipFile(path) as archive:
        names = [name.rpartition("/")[2] for name in archive.namelist()]
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    if names.count("data.pkl") != 1 or "constants.pkl" in names or not stored:
        raise ValueError("a zip file that torch.save did not write")


def _inert(foreign: set[str]) -> SimpleNamespace:
    """Return what PyTorch needs of a pickle module. It enters the foreign names that it meets into ``foreign``.

    Each call defines its own classes and functions, so that no file can change those of a later call.
    """

    class Placeholder:
        """Accept everything that pickle does to an object, and do nothing."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Self:
            return super().__new__(cls)

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def ignore(self, *args: Any) -> None: ...

        __setstate__ = __setitem__ = append = extend = add = ignore

    known = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): lambda *of: torch._utils._rebuild_tensor_v2(*of),
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    }

    class Unpickler(pickle._Unpickler):  # the Python one: the C one allocates a memo of any size that a pickle names
        dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in known:
                foreign.add(f"{module}.{name}")
            return known.get((module, name), Placeholder)

    return SimpleNamespace(__name__="inert", Unpickler=Unpickler)
