"""Freed memory stays with a training process: fewer page faults, the same numbers."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from bsm.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
def churn():
    for _ in range(5):  # of 40 MB: glibc always asks the system for more than 32 MB, whatever was freed before
        (torch.ones(10_000_000) + 1).sum()
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_is_not_faulted_in_again():
    def faults(how):
        command = [sys.executable, "-c", COUNT, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 0.5 * faults("default")
