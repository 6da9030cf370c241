"""The memory of this process: its peak, and how the C library manages it."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys
from functools import cache

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's names of these settings, from malloc.h


def peak_bytes(*, children: bool = False) -> int:
    """Return the peak resident memory of this process, or of the largest child process that it waited for, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # only macOS counts bytes


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for later arrays of this process; return whether the setting was made.

    A training allocates and frees arrays thousands of times a second. By default, glibc returns large blocks to the
    system at once, and the system clears each page that it hands out again. That takes about a tenth of a training step
    on a CPU. Other C libraries have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    kept = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    if kept:
        log.info("freed memory stays with this process (mallopt), which saves page faults")
    return kept
