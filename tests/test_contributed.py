"""Results of others: checked field by field, their summaries computed again, and judged with their provenance."""

import copy
import json
import re

import numpy as np
import pytest

from bsm.data.registry import load
from bsm.errors import InputError
from bsm.study.claims import ledger
from bsm.study.claims.claim import DEMO, Verdict
from bsm.study.contributed import ABOUT, DEFINITIONS, check, contribute, read_contributed
from bsm.study.evaluation import evaluate_weights
from bsm.study.records import ROOT, mark, write_result
from bsm.weights.files import save_model
from bsm.weights.registry import entry

SUPPORTED, NOT_SUPPORTED, INCONSISTENT, INCONCLUSIVE, BLOCKED = Verdict

EXAMPLE = json.loads(re.search(r"```json\n(.*?)```", (ROOT / "docs/extend.md").read_text(), re.DOTALL)[1])


def put(reports, record, name="mine"):
    path = reports / "contributed" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def changed(changes):
    """The documentation's example with values changed or removed (None), by a path with dots."""
    record = copy.deepcopy(EXAMPLE)
    for name, value in changes.items():
        *parts, last = name.split(".")
        place = record
        for part in parts:
            place = place[int(part) if isinstance(place, list) else part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return record


def test_the_documentations_example_is_valid(tmp_path):
    assert EXAMPLE["contribution"].keys() == {*ABOUT, "metrics"}
    assert read_contributed(put(tmp_path, EXAMPLE)) == EXAMPLE
    assert check(tmp_path) == [] == check(tmp_path / "none")
    rounded = changed({"values.0.usdr": 6.1049, "summary.usdr.mean": 5.80})  # the mean is 5.8016
    assert read_contributed(put(tmp_path, rounded))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": None}, "field 'schema' is missing"),
        ({"schema": 2}, "field 'schema' is 2"),
        ({"values": {}}, "values must be a list with a record for each track"),
        ({"values": []}, "values must be a list with a record for each track"),
        ({"values.0.track": ""}, "with its name as 'track'"),
        ({"values.0.track": "may"}, "values has a track twice"),
        ({"values.0.usdr": "6.1"}, "usdr is .'6.1'. for a track; give a number, or null"),
        ({"values.0.usdr": True}, "usdr is .True. for a track"),
        ({"values.0.csdr": None}, "csdr is .'none'. for a track"),
        ({"contribution": None}, "no field 'contribution'; `bsm claims contribute` adds it"),
        *(({f"contribution.{name}": None}, f"contribution.{name} must be a text") for name in ABOUT),
        ({"contribution.contributor": " "}, "contribution.contributor must be a text"),
        ({"contribution.date": "yesterday"}, "contribution.date is 'yesterday', not a date YYYY-MM-DD"),
        ({"contribution.date": "2026-19-39"}, "contribution.date is '2026-19-39', not a date"),
        ({"contribution.weights_sha256": "ff"}, "weights_sha256 is 'ff', not 64 hex digits"),
        ({"contribution.metrics": {}}, "contribution.metrics must define each metric"),
        ({"contribution.metrics.usdr": 3}, "contribution.metrics must define each metric"),
        ({"contribution.metrics.usdr": None}, "summary must have the metrics csdr"),
        ({"summary": None}, "summary must have the metrics usdr, csdr"),
        ({"summary.usdr": 5.8}, "summary.usdr.n is None, but the tracks give 3"),
        ({"summary.usdr.mean": 5.9}, "summary.usdr.mean is 5.9, but the tracks give 5.8"),
        ({"summary.csdr.median": 6.71}, "summary.csdr.median is 6.71, but the tracks give 6.7"),
        ({"summary.csdr.n": 3}, "summary.csdr.n is 3, but the tracks give 2"),
        ({"values.2.usdr": 4.1}, r"summary.usdr.mean is 5.8, but the tracks give 5.83333"),
    ],
)
def test_each_fault_is_refused_in_a_sentence(changes, match, tmp_path):
    path = put(tmp_path, changed(changes))
    with pytest.raises(InputError, match=rf"mine\.json: .*{match}") as caught:
        read_contributed(path)
    assert "\n" not in str(caught.value)


def test_every_faulty_file_is_named(tmp_path, invoke):
    put(tmp_path, changed({"summary": None}), "a")
    put(tmp_path, EXAMPLE, "b")
    (tmp_path / "contributed" / "c.json").write_text("{")
    faults = check(tmp_path)
    assert [re.search(r"(\w)\.json", fault)[1] for fault in faults] == ["a", "c"]
    done = invoke("claims", "check", "--reports", tmp_path)
    assert done.exit_code == 1 and all(fault in done.output for fault in faults)


# --- The rule --------------------------------------------------------------------------------------------------------


def of_the_author(csdr=11.03, usdr=10.7, **changes):
    """A result of the author's weights on the published songs, of the given means and medians."""
    songs = load("musdb18-hq").splits["test"].names
    spread = np.linspace(-4, 4, len(songs))
    values = [{"track": s, "csdr": csdr + x, "usdr": usdr + x} for s, x in zip(songs, spread, strict=True)]
    summary = {m: {"n": len(songs), "mean": v, "median": v} for m, v in (("csdr", csdr), ("usdr", usdr))}
    sha = entry("author").sha256
    made = {"values": values, "summary": summary, "data": "MUSDB18-HQ, test", "comparable_with_paper": True}
    return changed(made | {"contribution.weights_sha256": sha, "contribution.system": "the author's"} | changes)


@pytest.fixture
def reports(tmp_path):
    """Results of this repository's own that cannot settle the claim."""
    scores = [{"track": "a", "separator": "demo", "csdr": 1.0, "usdr": 1.0}]
    values = {"status": "blocked", "missing": ["The weights."], "scores": scores, "data": "songs", "model": "demo"}
    about = {"measured": "test", "parameters": {}, "data": "test", "inputs": (), "started": mark()}
    write_result(tmp_path / DEMO / "results" / "published_model.json", values=values, **about)
    return tmp_path


def judged(reports):
    return next(line for line in ledger.lines(reports=reports) if line.name == "sdr-1103")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ((11.03, 10.7), SUPPORTED),
        ((11.1, 10.65), SUPPORTED),
        ((11.03, 10.3), NOT_SUPPORTED),
        ((9, 10.7), NOT_SUPPORTED),
    ],
)
def test_contributed_scores_of_the_published_model_are_judged(scores, verdict, reports):
    assert judged(reports).finding.verdict == BLOCKED
    put(reports, of_the_author(*scores))
    line = judged(reports)
    assert line.finding.verdict == verdict and line.evidence == "full scale"
    assert line.finding.measured == f"cSDR mean {scores[0]:.2f}, median {scores[0]:.2f}; uSDR {scores[1]:.2f} dB"
    said = line.finding.reasons[0]
    assert said.startswith("Not measured here, but contributed by A. Name on 2026-11-30")
    for part in ("mine.json", "the author's", "b1fcf93fdd6f", "MUSDB18-HQ, test", "openunmix 1.3.0", "museval"):
        assert part in said, part
    assert line.files == tuple(
        f"{reports.name}/{f}" for f in ("demo/results/published_model.json", "contributed/mine.json")
    )
    ledger.render(reports)
    assert ledger.check(reports) == []
    put(reports, changed({"summary": None}), "other")
    with pytest.raises(InputError, match=r"other\.json"):
        ledger.render(reports)


def test_what_is_measured_here_goes_first_and_contributors_may_disagree(reports):
    put(reports, of_the_author())
    put(reports, of_the_author(csdr=9.0), "second")
    found = judged(reports).finding
    assert found.verdict == INCONCLUSIVE and "11.03" in found.measured and "9.00" in found.measured
    assert "second.json" in found.reasons[1]
    path = reports / DEMO / "results" / "published_model.json"
    record = json.loads(path.read_text())
    record["values"]["status"] = "measured"
    path.write_text(json.dumps(record))
    found = judged(reports).finding
    assert found.verdict == NOT_SUPPORTED and found.measured.startswith("cSDR mean 1.00")
    assert not any("contributed" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"contribution.weights_sha256": "0" * 64}, ""),  # another model: not this claim's business
        ({"comparable_with_paper": False}, "it is not marked comparable_with_paper"),
        ({"values.0.track": "another song"}, "its tracks are not the 50 test songs of MUSDB18-HQ"),
        (
            {"contribution.metrics.csdr": "mean over all seconds"},
            "its csdr is not defined as `bsm evaluate` computes it",
        ),
    ],
)
def test_a_result_of_something_else_settles_nothing(change, reason, reports):
    put(reports, of_the_author(**change))
    finding = judged(reports).finding
    assert finding.verdict == BLOCKED and finding.reasons[0] == "The weights."
    assert [reason in said and "mine.json" in said for said in finding.reasons[1:]] == [True] * bool(reason)


# --- From an evaluation ----------------------------------------------------------------------------------------------


def test_an_evaluation_is_contributed_by_one_command(tmp_path, small_model, write_song, invoke):
    weights = save_model(small_model, tmp_path / "m.safetensors", {})
    for song in ("a", "b"):
        write_song(tmp_path / "songs" / "test" / song, 2.0, seed=ord(song))
    result = tmp_path / "mine.json"
    evaluate_weights(weights, tmp_path / "songs", processes=1, output=result)
    words = ["claims", "contribute", str(result), "--reports", str(tmp_path), "--contributor", "A", "--system", "S"]
    done = invoke(*words)
    assert done.output.strip() == str(tmp_path / "contributed" / "mine.json"), done
    record = read_contributed(tmp_path / "contributed" / "mine.json")
    about, own = record.pop("contribution"), json.loads(result.read_text())
    assert record == own
    assert about["metrics"] == DEFINITIONS and about["weights_sha256"] == own["parameters"]["weights_sha256"]
    assert (about["contributor"], about["system"], about["software"]) == ("A", "S", "bsm")
    with pytest.raises(InputError, match="mine.json: is there already"):
        contribute(result, tmp_path, contributor="A", system="S")
    own["parameters"]["scoring"] = 0
    result.write_text(json.dumps(own))
    with pytest.raises(InputError, match="scored by version 0, not 1; evaluate it again"):
        contribute(result, tmp_path / "others", contributor="A", system="S")
    result.write_text(json.dumps(EXAMPLE))
    with pytest.raises(InputError, match="not a result of `bsm evaluate`"):
        contribute(result, tmp_path, contributor="A", system="S")
