"""Kill training and fetching at random moments of a fixed seed: the same call again ends as if nothing had happened.

The environment's ``BSM_KILLS`` sets the number of kills of each.
"""

import os
import random
import shutil
import signal
import time

import pytest

from bsm.data import fetch
from bsm.train import train
from made import zipped
from runs import CONFIG, MODEL, assert_same_run, finished, fork

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("BSM_KILLS", 5))
MEMBERS = {f"Set/test/b/{number}.wav": random.Random(number).randbytes(100_000) for number in range(200)}


def killed(action, seconds):
    """Kill a forked process after some time; return whether it was still running."""
    child = fork(action)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return finished(child) == -signal.SIGKILL


def campaign(action, check, undo):
    """Kill an action at random moments, repeat it to its end each time, and check what it made."""
    started = time.monotonic()
    assert finished(fork(action)) == 0
    seconds, rng, hit = time.monotonic() - started, random.Random(0), 0
    check()
    for _ in range(KILLS):
        undo()
        hit += killed(action, rng.uniform(0, seconds))
        assert finished(fork(action)) == 0
        check()
    assert hit > KILLS / 2  # the others had ended before


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_trainings_end_as_the_whole_one(whole, tracks, tmp_path, workers):
    run = tmp_path / "run"
    campaign(
        lambda: train(run, MODEL, CONFIG.replace(workers=workers), tracks, device="cpu"),
        lambda: assert_same_run(run, whole),
        lambda: shutil.rmtree(run),
    )


def check_fetched(home):
    folder = home / "data" / "set"
    assert {f"Set/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*.wav")} == MEMBERS
    assert sorted(path.name for path in (home / "data").iterdir()) == [".fetching-set.lock", "set"]


def test_killed_fetches_end_complete(publish, tmp_path):
    publish(zipped(MEMBERS))
    campaign(lambda: fetch.fetch("set"), lambda: check_fetched(tmp_path), lambda: shutil.rmtree(tmp_path / "data"))


def test_fetches_at_once_end_complete(publish, tmp_path):
    publish(zipped(MEMBERS))
    for _ in range(KILLS):
        children = [fork(lambda: fetch.fetch("set")) for _ in range(3)]
        assert 0 in [finished(child) for child in children]  # the others are refused, or find it complete
        check_fetched(tmp_path)
        shutil.rmtree(tmp_path / "data")
