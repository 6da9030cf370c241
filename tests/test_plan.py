"""What a training would take: the arithmetic, the choice of a measurement, and what is said about it."""

import pytest

from bsm.config import ModelConfig, TrainConfig
from bsm.errors import InputError
from bsm.study.counts import GIB, parameter_count, step_memory
from bsm.study.profiles import Profile
from bsm.study.records import mark, write_result
from bsm.study.speed import parts, plan
from bsm.study.speed.step import OURS


def measured(preset="tiny", variant=OURS.name, seconds=1.0, batch=2, rounds=(10.0, 10.0)):
    """A step of which a tenth is the optimiser's, a tenth the loss's and a tenth the data's."""
    shares = {parts.OPTIMISER: 0.1, parts.LOSS: 0.1, parts.DATA: 0.1, parts.SCAN: 0.7}
    size = {"preset": preset, "audio_seconds": seconds, "batch": batch, "precision": "32-true"}
    size["parameters"] = parameter_count(ModelConfig.preset(preset))
    split = [{"part": p, "direction": "forward", "seconds": [s * r for r in rounds]} for p, s in shares.items()]
    return {"variant": variant, "scan": "chunked", "seconds": list(rounds), "parts": split} | size


def result(path, *steps, device="cpu"):
    values = {"variants": list(steps), "backends": []}
    given = {"measured": "steps", "parameters": {"device": device}, "data": "noise", "inputs": ()}
    return write_result(path, values=values, started=mark(), **given)


def work(preset="tiny", updates=3600, segments=2, batch=2, seconds=1.0):
    return plan.Work("some", preset, updates, segments, batch, seconds)


def test_each_part_of_a_step_grows_with_its_own_measure():
    """The network's seven tenths with operations, loss and data with samples, the optimiser with parameters."""
    tiny, small = ModelConfig.preset("tiny"), ModelConfig.preset("small")
    longer, wider = (plan.operations(*given) / plan.operations(tiny, 1.0) for given in ((tiny, 2.0), (small, 1.0)))
    assert 2 < longer < 2.5  # more than twice: the scan's one chunk is twice as long, and its products are square
    larger = parameter_count(small) / parameter_count(tiny)
    wanted = {
        work(): 10,  # the measured step itself
        work(segments=20): 1 + 10 * 9,
        work(seconds=2.0): 1 + 2 * 2 + 7 * longer,
        work("small"): larger + 2 + 7 * wider,
    }
    for training, seconds in wanted.items():
        assert plan.update_seconds(measured(), training)[:3] == pytest.approx((seconds, seconds, seconds)), training


def test_trainings():
    todo = plan.works("paper", Profile.load("demo"))
    own = Profile.load("demo").train_config()
    assert [(w.preset, w.updates, w.segments, w.seconds) for w in todo] == [
        ("paper", 200_000, 60, 8.0),
        ("paper", 43_000, 30, 8.0),
        ("paper", 43_000, 1, 8.0),
        (Profile.load("demo").model, own.steps, own.update_segments, own.segment_seconds),
    ]
    assert TrainConfig.preset("paper").update_segments == 60


def test_hours_and_memory(tmp_path):
    path = result(tmp_path / "step.json", measured(rounds=(9.0, 11.0)))
    table, said = plan.plan([work()], path, "cpu")
    row = table.iloc[0]
    assert row["hours"] == "10.0 [9.0, 11.0]"
    assert row["GiB"] == pytest.approx(step_memory("tiny", 1.0, 2, False)["bytes"] / GIB, rel=0.01)
    assert 0 < row["GiB, checkpointing"] < row["GiB"]
    assert "step.json" in said[0]
    assert "2 x 1 s" in said[0] and "of another size" not in said[0]
    assert "of another size" in plan.plan([work("small")], path, "cpu")[1][0]


def test_the_best_fitting_step_is_taken(tmp_path):
    steps = [
        measured(rounds=(8.0, 8.0)),
        measured(seconds=4.0, rounds=(50.0, 50.0)),
        measured(seconds=4.0, batch=4, rounds=(60.0, 60.0)),
        measured("small", seconds=8.0),
        measured(variant="sequential", seconds=16.0),
    ]
    path = result(tmp_path / "step.json", *steps)
    assert plan.choose(path, "tiny", "cpu")[2] == steps[2]  # the longest, and of those the fastest a segment
    assert plan.choose(path, "small", "cpu")[2] == steps[3]
    assert plan.choose(path, "paper", "cpu")[2] == steps[3]  # the largest


def test_reports_are_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    with pytest.raises(InputError, match="bsm bench step --device cuda"):
        plan.choose(None, "tiny", "cuda")
    result(tmp_path / "reports/demo/results/step_profile.json", measured())
    gpu = result(tmp_path / "reports/gpu/results/step_paper.json", measured("paper"), device="cuda")
    assert plan.choose(None, "tiny", "cuda")[0] == gpu
    assert plan.choose(None, "tiny", "cpu")[2]["preset"] == "tiny"


def test_files_that_do_not_fit(tmp_path):
    path = result(tmp_path / "step.json", measured(), device="cuda")
    for file in (path, result(tmp_path / "other.json")):
        with pytest.raises(InputError, match=f"{file.name}: no training step of cpu"):
            plan.choose(file, "tiny", "cpu")


def test_command(tmp_path, invoke):
    path = result(tmp_path / "step.json", measured())
    done = invoke("plan", "--preset", "tiny", "--device", "cpu", "--from", path)
    assert done.exit_code == 0, done.output
    assert "100 epochs x 430 steps of 30 segments" in done.output
    assert "profile demo" in done.output
    assert "extrapolated from 2 steps" in done.output
    wrong = invoke("plan", "--preset", "huge", "--from", path)
    assert isinstance(wrong.exception, InputError)
