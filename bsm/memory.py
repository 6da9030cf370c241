"""Set how the C library manages memory: a training allocates and frees arrays thousands of times a second."""

from __future__ import annotations

import ctypes
import logging
from functools import cache

log = logging.getLogger(__name__)

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's names of these settings, from malloc.h


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for later arrays of this process; return whether the setting was made.

    By default, glibc returns large blocks to the system at once, and the system clears each page that it hands out
    again. That takes about a tenth of a training step on a CPU. Other C libraries have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    kept = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    if kept:
        log.info("freed memory stays with this process (mallopt), which saves page faults")
    return kept
