"""Timing: what counts as disturbed, what is measured again, and what a record says of it."""

import time

import pytest

from bsm.study.speed import timer
from bsm.study.speed.timer import Rounds, disturbed, is_quiet, repeated, timed, turns


def test_a_sleeping_round_waits_and_a_computing_one_does_not():
    slept = timed(lambda: time.sleep(0.05))
    assert slept[0] >= 0.05 > 5 * slept[1]
    assert disturbed([slept[0]], [slept[1]]) == [True]
    assert disturbed([1.0, 1.02], [0.99, 1.01]) == [False, False]


def test_a_round_far_above_the_best_is_disturbed():
    assert disturbed([1.0, 1.2, 1.6]) == [False, False, True]
    assert disturbed([0.5, 0.36, 0.03]) == [True, True, False]  # the best is what cannot be explained away


def scripted(**times):
    """Measurements with known wall times and equal processor times, or pairs of both."""
    walls = {name: iter(own) for name, own in times.items()}

    def measure(name):
        found = next(walls[name])
        return found if isinstance(found, tuple) else (found, found)

    return {name: (lambda name=name: measure(name)) for name in times}


def test_quiet_rounds_are_not_repeated():
    found = turns(scripted(a=[1.0, 1.1, 9.0], b=[2.0, 2.1, 9.0]), 2)
    times = {"a": [1.0, 1.1], "b": [2.0, 2.1]}
    assert found == Rounds(times, times, {"a": [(), ()], "b": [(), ()]}, 0)
    assert found.of("b") == {"seconds": [2.0, 2.1], "processor_seconds": [2.0, 2.1], "rounds_repeated": 0}
    assert found.of()["seconds"] == {"a": [1.0, 1.1], "b": [2.0, 2.1]} and is_quiet(found.of())


def test_a_disturbed_round_is_measured_again_for_all_cases():
    found = turns(scripted(a=[(1.0, 1.0, "first"), (3.0, 1.0, "second"), (1.1, 1.1, "third")], b=[2.0, 2.1, 2.2]), 2)
    assert found.seconds == {"a": [1.0, 1.1], "b": [2.0, 2.2]}
    assert (found.found["a"], found.repeated) == ([("first",), ("third",)], 1)
    assert is_quiet(found.of("a")) and is_quiet(found.of("b"))


def test_a_machine_that_never_rests_is_told():
    found = turns(scripted(a=[(2.0, 1.0)] * 6), 3)
    assert (len(found.seconds["a"]), found.repeated) == (3, 3)
    assert not is_quiet(found.of("a")) and not is_quiet(found.of())


def test_waiting_for_others_is_no_disturbance_where_it_is_the_task():
    found = turns(scripted(a=[(2.0, 0.1), (2.1, 0.1)]), 2, waits=True)
    assert found.of("a") == {"seconds": [2.0, 2.1], "processor_seconds": None, "rounds_repeated": 0}
    assert is_quiet(found.of("a"))


@pytest.mark.parametrize(("rounds", "quiet"), [([0.50, 0.36, 0.25, 0.34, 0.03], False), ([1.0, 1.1, 1.2], True)])
def test_older_records_are_judged_by_their_spread(rounds, quiet):
    assert is_quiet({"seconds": rounds}) == quiet
    assert is_quiet({"seconds": {"a": [1.0], "b": rounds}}) == quiet


def test_functions_take_turns_after_a_warm_up():
    calls = []
    functions = {name: lambda name=name: (calls.append(name), sum(range(20_000))) for name in "ab"}
    found = repeated(functions, 2)
    assert calls == list("ab") * (3 + found.repeated)
    assert all(len(own) == 2 and min(own) > 0 for own in found.seconds.values())


def test_memory_is_told_or_not(monkeypatch, tmp_path):
    monkeypatch.setattr(timer, "_CLEAR", tmp_path / "missing")
    assert timer.resident(lambda: 1) == (1, None, None)
