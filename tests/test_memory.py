"""Freed memory stays with a training process: fewer page faults, the same numbers."""

import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from bsm.memory import keep_freed_memory
def churn():
    for _ in range(5):  # of 40 MB: glibc always asks the system for more than 32 MB, whatever was freed before
        (torch.ones(10_000_000) + 1).sum()
def faults():
    churn()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    churn()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
assert keep_freed_memory() and keep_freed_memory()
print(default, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_not_faulted_in_again():
    counted = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True).stdout
    default, kept = map(int, counted.split())
    assert kept < 0.5 * default
