"""A campaign: what it trains next follows from the files alone, and one training runs from end to end."""

import json
import os
import subprocess
import sys

import pytest

from bsm.errors import InputError
from bsm.study import campaign as campaigns
from bsm.study.campaign import Campaign, work
from bsm.study.records import ROOT, mark, write_result

FILE = """
revision: HEAD
experiments:
  - name: gap
    kind: cue-gap
    arms: [mamba2, none]
    seeds: [2, 3]
    settings: {longest_gap: 0.5, steps: 60}
    tuning: {seed: 100, rates: [0.002, 0.004]}
"""


@pytest.fixture
def campaign(tmp_path):
    (tmp_path / "campaign.yaml").write_text(FILE)
    return Campaign(tmp_path / "campaign.yaml")


def finish(campaign, name, sdr=0.0):
    values = {"history": [{"update": 30, "sdr": 99.0}, {"update": 60, "sdr": sdr}]}  # the first half does not count
    write_result(campaign.result(name), measured="", parameters={}, values=values, started=mark(), data="", inputs=[])


def known(campaign):
    return {run.name: run.settings for run in campaign.runs() if run.arm == "mamba2"}


def test_a_rate_is_searched_until_both_neighbours_are_worse(campaign):
    assert known(campaign)["gap-mamba2-seed2"] is None
    for rate, sdr, more in ((0.002, 1, []), (0.004, 2, [0.008]), (0.008, 3, [0.016]), (0.016, 2, [])):
        finish(campaign, f"gap-mamba2-lr{rate:g}", sdr)
        tried = {float(name.split("lr")[1]) for name in known(campaign) if "lr" in name}
        assert tried == {0.002, 0.004, *(r for r in (0.008, 0.016) if r <= rate), *more}
    assert known(campaign)["gap-mamba2-seed3"]["lr"] == 0.008
    assert all(settings["seed"] == 100 for name, settings in known(campaign).items() if "lr" in name)


def test_a_rate_may_be_chosen_by_shorter_trainings(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(FILE.replace("0.004]}", "0.004], settings: {steps: 30}}"))
    shorter = Campaign(path)
    finish(shorter, "gap-mamba2-lr0.002", 1), finish(shorter, "gap-mamba2-lr0.004", 0)
    finish(shorter, "gap-mamba2-lr0.001", 0)
    steps = {name: settings["steps"] for name, settings in known(shorter).items()}
    assert steps["gap-mamba2-lr0.001"] == 30 and steps["gap-mamba2-seed2"] == 60


def test_every_arm_gets_a_seed_before_any_gets_the_next(campaign):
    names = [run.name for run in campaign.runs() if "seed" in run.name]
    assert names == ["gap-mamba2-seed2", "gap-none-seed2", "gap-mamba2-seed3", "gap-none-seed3"]


def test_runs_without_their_data_wait(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text(FILE + "  - {name: a, kind: singers, data: clips, arms: [baselines], seeds: [0]}")
    monkeypatch.setattr(campaigns, "ROOT", tmp_path)
    waiting = Campaign(path)
    assert waiting.lacking_data() == [tmp_path / "data/clips"]
    assert "a-baselines-seed0" not in [run.name for run in waiting.todo()]
    (tmp_path / "data/clips").mkdir(parents=True)
    assert not waiting.lacking_data() and "a-baselines-seed0" in [run.name for run in waiting.todo()]


def test_long_windows_wait_for_the_trainings(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(FILE + "  - {name: long, kind: joined, of: gap, arms: [mamba2], seeds: [2]}")
    waiting = Campaign(path)
    assert known(waiting)["long-mamba2-seed2"] is None
    finish(waiting, "gap-mamba2-seed2")
    assert known(waiting)["long-mamba2-seed2"] == {"arm": "mamba2", "seed": 2, "trainings": "gap-mamba2-seed2"}


def test_seeds_that_choose_rates_are_no_results(campaign, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(FILE.replace("[2, 3]", "[2, 100]"))
    with pytest.raises(InputError, match="seed 100 chooses learning rates"):
        Campaign(path).runs()


@pytest.mark.parametrize("text", ["", "revision: x", "revision: [", "- 1"])
def test_a_file_that_is_no_campaign(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match="not a campaign"):
        Campaign(tmp_path / "c.yaml")


class Counted(campaigns.subprocess.Popen):
    """Stands in for a training: writes its result, or fails."""

    def __init__(self, command, **_):
        arguments = command[2].split("train(*", 1)[1][:-1]
        result, _, _, settings = eval(arguments)
        assert command[2].startswith("import sys; sys.argv = ['bsm', 'campaign', 'campaign.yaml']; ")
        ended = "raise SystemExit(1)" if settings["arm"] == "none" else f"write_text({result!r}, {RESULT!r})"
        super().__init__([sys.executable, "-c", f"from bsm.files import write_text; {ended}"])


RESULT = json.dumps(
    {
        "schema": 1,
        "measured": "",
        "data": "",
        "parameters": {},
        "values": {"history": [{"sdr": 1.0}]},
        "comparable_with_paper": False,
        "provenance": {"cpu_seconds": 60},
    }
)


def test_a_failure_stops_nothing_else_and_a_second_call_tries_it_again(campaign, tmp_path, monkeypatch):
    monkeypatch.setattr(campaigns.subprocess, "Popen", Counted)
    monkeypatch.setattr(campaigns, "POLL", 0.01)
    checkout = tmp_path / "runs" / "HEAD"
    assert campaign.left() == "the rest takes an unknown time"
    for _ in range(2):
        assert sorted(work(campaign, checkout, cores=2)) == ["gap-none-lr0.002", "gap-none-lr0.004"]
    status = campaign.status().set_index("name")
    assert status.loc["gap-mamba2-seed3", "done"] and not status.loc["gap-none-lr0.002", "done"]
    left = status[~status["done"]]
    assert campaign.minutes_left() == len(left) == 4  # two rates and two seeds of ``none``, a minute each
    assert campaign.left() == "about 4 core-minutes are left"


def test_a_campaign_that_is_terminated_ends_its_trainings(tmp_path):
    code = f"""
import subprocess, sys
from pathlib import Path
from bsm.study import campaign
class Sleeping(subprocess.Popen):
    def poll(self):  # asked once the campaign knows of it
        print(self.pid, flush=True)
        return super().poll()
campaign._start = lambda *_: Sleeping(["sleep", "60"])
file = Path({str(tmp_path / "c.yaml")!r})
file.write_text("revision: x\\nexperiments: [{{name: a, kind: songs, arms: [baselines], seeds: [0]}}]")
campaign.work(campaign.Campaign(file), Path({str(tmp_path / "runs" / "x")!r}), 1)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    training = int(process.stdout.readline())
    process.terminate()
    assert process.wait(20) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(training, 0)


@pytest.mark.slow
def test_a_training_from_end_to_end(campaign, tmp_path):
    campaigns.train(str(tmp_path / "a.json"), "cue-gap", "", {"arm": "none", "seed": 1, "lr": 1e-3, "steps": 60})
    record = json.loads((tmp_path / "a.json").read_text())
    assert (tmp_path / "a.safetensors").is_file() and record["values"]["traces"] == []
    answers = {answer["name"]: answer for answer in record["values"]["answers"]}
    assert len(answers["gap 4"]["sdr"]) == 400 and len(answers["gap 0.25"]["target"]) == 200
    assert record["provenance"]["git"]["revision"] and ROOT
