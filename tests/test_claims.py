"""The rules that turn measurements into findings, and the ledger that they fill."""

import json
import shutil

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from bsm.cli import cli
from bsm.errors import InputError
from bsm.stats import bootstrap_interval
from bsm.study import claims, ledger
from bsm.study.records import ROOT, mark, write_result


@pytest.mark.parametrize(
    ("values", "low", "high", "status"),
    [
        ([9, 9.1, 8.9, 9.2], 8, np.inf, claims.REPRODUCED),
        ([5, 5.1, 4.9, 5.2], 8, np.inf, claims.CONTRADICTED),
        ([7, 9, 7.5, 8.5], 8, np.inf, claims.PARTLY),
        ([1.5, 1.51, 1.49], 1.1, 1.2, claims.CONTRADICTED),
        ([1.14, 1.15, 1.16], 1.1, 1.2, claims.REPRODUCED),
        ([9.0], 8, np.inf, claims.PARTLY),  # one value has no interval
    ],
)
def test_ratio_rule(values, low, high, status):
    assert claims.judge_ratio(bootstrap_interval(values), low, high) == status


def benchmark(scale=1.0, direct=0.3):
    """Results of a benchmark in which `chunked` takes 1 s, scaled, and the loops 12 and 30."""
    times = {"sequential": 12.0, "loop, indexed": 30.0, "chunked": scale}
    speed = [
        {"axis": "time", "pass": "forward + backward", "length": length, "backend": name, "seconds": [s, s * 1.01, s]}
        for length in (101, 401)
        for name, s in times.items()
        if (name, length) != ("loop, indexed", 401)
    ]
    memory = [
        {"axis": "time", "length": 101, "backend": name, "peak_bytes": size}
        for name, size in (("sequential", 100), ("chunked", 7))
    ]
    conv = [
        {"pass": "forward + backward", "backend": name, "seconds": [s, s]}
        for name, s in (("conv1d", 2), ("shifted", 1))
    ]
    block = [{"rows": 1, "length": 400, "seconds": [0.5]}, {"rows": 62, "length": 400, "seconds": [5.0]}]
    compiled = {"preset": "small", "compile_seconds": 60, "seconds": {"plain": [1, 1.0, 1.01], "compiled": [1, 1, 1]}}
    shares = [
        {"weights": kind, "direct": share + 0.01 * i, "length": (62, 401)[i % 2], "without_state": 0.04 * (i % 2)}
        for kind, share in (("trained", direct), ("random", 0.2))
        for i in range(4)
    ]
    return {
        "scan_backends": {"speed": speed, "memory": memory, "conv": conv, "block": block, "compile": compiled},
        "direct_term": {"shares": shares},
    }


@pytest.mark.parametrize(
    ("status", "words"),
    [(claims.REPRODUCED, "it holds; 1 dB"), (claims.CONTRADICTED, "it does not hold; 1 dB"), (claims.PARTLY, None)],
)
def test_small_models_settle_no_claim(monkeypatch, status, words):
    monkeypatch.setattr(claims, "RULES", {})

    @claims.rule(claims.RE_TRAINED)
    def trained(value):
        """Find what it is told to find."""
        return claims.Finding(status, f"{value} dB", "")

    found = claims.RULES["trained"].judge(1)
    assert found.status == claims.PARTLY
    assert found.measured == (f"small models: {words}" if words else "1 dB")
    assert trained(1).status == status
    # A result that is comparable with the paper's is not of small models.
    at_scale = claims.RULES["trained"].of(comparable=True)
    assert (at_scale.judge(1), at_scale.evidence) == (trained(1), claims.AT_SCALE)
    assert claims.RULES["trained"].of(comparable=False).judge(1) == found


def window_scores():
    """Scores of six songs, of which windows of 1 and 16 s are as good as the training's of 8 s."""
    own = {"model": "BSMamba2", "seed": 0}
    scores = [
        own | {"track": f"song {song}", "window": window, "hop": window, "usdr": 1.0 + song, "csdr": 1.0 + song}
        for song in range(6)
        for window in (1.0, 8.0, 16.0)
    ]
    return {"input_length": {"scores": scores, "trained": {"BSMamba2": 8.0}}}


def test_the_models_of_the_papers_own_result_are_not_small(reports):
    put(reports, window_scores())
    found = judged(reports)["stable-1-16"]
    assert found["status"] == claims.PARTLY and found["measured"].startswith("small models: it holds")
    assert "at the paper's scale untested" in found["why"] and found["evidence"] == claims.RE_TRAINED
    put(reports, window_scores(), comparable_with_paper=True)
    found = judged(reports)["stable-1-16"]
    assert found["status"] == claims.REPRODUCED and found["evidence"] == claims.AT_SCALE
    assert "small" not in found["measured"] + found["why"] and "untested" not in found["why"]


def test_a_result_does_not_stand_beside_itself(reports):
    put(reports, window_scores())
    put(reports, window_scores(), "mir1k-subset")
    found = judged(reports)["stable-1-16"]
    assert "on real singing" in found["measured"] and len(found["result"]) == 2
    rows = ledger.evaluated(ledger.load(reports / "claims.yaml"), "mir1k-subset", reports)
    found = next(row for row in rows if row["id"] == "stable-1-16")
    assert found["measured"].startswith("small models: it holds") and "on real singing" not in found["measured"]
    assert found["result"] == [f"{reports.name}/mir1k-subset/results/input_length.json"]


@pytest.fixture
def reports(tmp_path):
    """A reports folder with the ledger's rows, to be filled with results."""
    shutil.copy(ROOT / "reports" / "claims.yaml", tmp_path)
    return tmp_path


def put(reports, results, profile=ledger.PROFILE, parameters=(), **extra):
    for name, values in results.items():
        path = reports / profile / "results" / f"{name}.json"
        given = {"measured": "test", "parameters": dict(parameters), "data": "test", "inputs": ()} | extra
        write_result(path, values=values, started=mark(), **given)


def judged(reports):
    return {row["id"]: row for row in ledger.evaluated(ledger.load(reports / "claims.yaml"), reports=reports)}


def test_findings_follow_the_results(reports):
    put(reports, benchmark())
    found = judged(reports)
    # A CPU settles no claim about a GPU, neither way.
    assert found["scan-8x"]["status"] == claims.PARTLY and "101 steps" in found["scan-8x"]["why"]
    assert found["scan-8x"]["measured"].startswith("on this CPU: it holds; 30.0")
    assert found["scan-8x"]["why"].endswith("the GPU that the claim means was not tested")
    assert found["scan-8x"]["result"] == [f"{reports.name}/demo/results/scan_backends.json"]
    assert found["scan-8x"]["device"] and found["scan-8x"]["evidence"] == claims.RE_EXECUTED
    assert found["compile-20"]["status"] == claims.PARTLY
    assert found["compile-20"]["measured"].startswith("on this CPU: it does not hold; 1.00x")
    assert found["feedthrough-dominant"]["status"] == claims.PARTLY
    assert found["feedthrough-dominant"]["measured"].startswith(
        "small models: it does not hold; ||D u|| / ||y|| = 0.31"
    )
    assert "with random weights 0.21" in found["feedthrough-dominant"]["measured"]
    assert "an error of 4.0 %" in found["feedthrough-dominant"]["measured"]  # of the long sequences alone
    assert found["feedthrough-dominant"]["evidence"] == claims.RE_TRAINED
    for name in ("conv-3x", "bench-25ms", "memory-5-10", "parity-1e5"):
        assert found[name]["status"] == claims.BLOCKED, name
    assert "0.070x" in found["memory-5-10"]["measured"]
    assert "62 rows: 5000 ms, 80 frames/s" in found["bench-25ms"]["measured"]  # of audio: rows are its bands
    put(reports, benchmark(scale=10.0, direct=0.9))
    found = judged(reports)
    assert found["scan-8x"]["measured"].startswith("on this CPU: it does not hold")
    assert found["feedthrough-dominant"]["measured"].startswith("small models: it holds")


def of_a_gpu(factor):
    """Results of a GPU whose times, errors and memory are ``factor`` of what makes the claims hold."""
    speed = [{"backend": "selective", "output_error": 9e-6 * factor, "gradient_errors": {"x": 5e-6 * factor}}]
    memory = [
        {"axis": "time", "length": 101, "backend": name, "peak_bytes": size}
        for name, size in (("sequential", 100), ("selective", 107 * factor))
    ]
    times = (("conv1d", [3.2, 3.3]), ("cuda", [factor, factor]))
    conv = [{"pass": "forward + backward", "backend": name, "seconds": s} for name, s in times]
    block = [{"rows": rows, "length": 401, "seconds": [0.025 * factor]} for rows in (1, 62)]
    return {"scan": {"speed": speed, "memory": memory}, "block": {"conv": conv, "block": block}}


def test_results_of_a_gpu_settle_what_waits_for_one(reports):
    put(reports, benchmark())
    names = ("conv-3x", "bench-25ms", "memory-5-10", "parity-1e5")
    for factor, status in ((1, claims.REPRODUCED), (3, claims.CONTRADICTED)):
        put(reports, of_a_gpu(factor), "gpu", {"device": "cuda"})
        found = judged(reports)
        assert {found[name]["status"] for name in names} == {status}
        assert all(any("/gpu/" in file for file in found[name]["result"]) for name in names)
    half = of_a_gpu(1)
    half["block"]["block"][1]["seconds"] = [1.0]
    half["scan"]["speed"][0]["gradient_errors"]["x"] = 1.0
    put(reports, half, "gpu", {"device": "cuda"})
    found = judged(reports)
    assert found["bench-25ms"]["status"] == found["parity-1e5"]["status"] == claims.PARTLY
    # A GPU without the kernels: what is missing is said, and nothing counts as measured.
    put(reports, {"scan": {"speed": [{"backend": "triton"}], "memory": []}}, "gpu", {"device": "cuda"})
    found = judged(reports)
    for name in ("parity-1e5", "memory-5-10"):
        assert found[name]["status"] == claims.BLOCKED and "needs" in found[name]["why"], name
    assert not found["parity-1e5"]["evidence"] and not found["parity-1e5"]["measured"]


@pytest.mark.parametrize("parameters", [{}, {"device": "cpu"}])
def test_what_a_cpu_measured_is_no_result_of_a_gpu(reports, parameters):
    put(reports, benchmark())
    before = judged(reports)
    put(reports, of_a_gpu(1), "gpu", parameters)
    found = judged(reports)
    for name, file in {"conv-3x": "block", "bench-25ms": "block", "memory-5-10": "scan", "parity-1e5": "scan"}.items():
        said = f"{reports.name}/gpu/results/{file}.json does not count: it was not measured on a GPU"
        said += f" (its parameters.device is {parameters.get('device', 'not given')}, not cuda)"
        assert found[name] == before[name] | {"why": f"{before[name]['why']}; {said}"}, name
        assert found[name]["status"] == claims.BLOCKED


@pytest.mark.parametrize(
    ("csdr", "usdr", "status"),
    [(11.0, 12.0, claims.REPRODUCED), (11.0, 9.0, claims.PARTLY), (3.0, 3.0, claims.CONTRADICTED)],
)
def test_ten_epochs(reports, csdr, usdr, status):
    blocked = judged(reports)["ten-epochs"]
    assert blocked["status"] == claims.BLOCKED
    scores = {"ten_epochs": published(csdr, usdr)["scores"]}
    put(reports, scores, "gpu", {"device": "cuda"})  # of other songs, or in other windows
    found = judged(reports)["ten-epochs"]
    assert found["why"].endswith("ten_epochs.json does not count: it is not comparable with the paper")
    assert {**found, "why": ""} == {**blocked, "why": ""}
    put(reports, scores, "gpu", {"device": "cuda"}, comparable_with_paper=True)
    assert judged(reports)["ten-epochs"]["status"] == status


def test_a_result_that_does_not_count_is_named_where_no_need_is(reports):
    put(reports, {"scan": {"speed": []}}, "gpu")
    row = next(row for row in ledger.load(reports / "claims.yaml") if row["id"] == "parity-1e5")
    found = ledger.evaluate({name: value for name, value in row.items() if name != "needs"}, reports=reports)
    assert found["status"] == claims.UNTESTED and found["why"].startswith(
        f"{reports.name}/gpu/results/scan.json does not"
    )


def test_what_was_not_measured_is_untested_or_blocked(reports):
    results = benchmark()
    put(reports, {"scan_backends": results["scan_backends"] | {"compile": None}})
    found = judged(reports)
    assert found["compile-20"]["status"] == claims.UNTESTED and "has no compile" in found["compile-20"]["why"]
    assert found["feedthrough-dominant"]["status"] == claims.UNTESTED
    assert "there is no" in found["feedthrough-dominant"]["why"]
    assert found["sdr-1103"]["status"] == claims.BLOCKED and "MUSDB18-HQ" in found["sdr-1103"]["why"]
    assert not any(found["sdr-1103"][name] for name in ("measured", "result", "device", "evidence"))


def test_notebooks_and_ledger_use_the_same_rules(reports):
    put(reports, benchmark(), "other")
    table = ledger.claims_table("other", ("scan_backends",), reports).set_index("id")
    assert set(table.index) == {"scan-8x", "conv-3x", "bench-25ms", "memory-5-10", "compile-20"}
    assert table.loc["scan-8x", "status"] == claims.PARTLY


def published(csdr, usdr, status="measured"):
    scores = [
        {"separator": s, "csdr": csdr + d, "usdr": usdr + d} for d in (-0.1, 0.1) for s in ("BSMamba2", "mixture")
    ]
    return {"status": status, "missing": ["No weights."], "scores": scores}


@pytest.mark.parametrize(
    ("values", "status"),
    [
        (published(11.0, 10.75), claims.REPRODUCED),
        (published(11.0, 9.0), claims.PARTLY),
        (published(9.0, 9.0), claims.CONTRADICTED),
        (published(11.0, 10.75, status="blocked"), claims.BLOCKED),
    ],
)
def test_published_scores(reports, values, status):
    put(reports, {"published_model": values})
    found = judged(reports)["sdr-1103"]
    assert found["status"] == status
    assert found["evidence"] == (claims.RE_EXECUTED if status != claims.BLOCKED else "")  # nothing was measured


def deviation(variant, gain, spread=0.1):
    """A row of the table of what each deviation costs."""
    ends = {"low": gain - spread, "high": gain + spread}
    return {"variant": variant, "songs": 3, "seeds": 3, "estimate": gain} | ends | {"n": 9, "dropped": 0, "method": ""}


def test_an_optional_input_may_be_missing(reports):
    found = judged(reports)["arch-100"]
    assert found["status"] == claims.UNTESTED  # the other input may not
    put(reports, {"structure": {"properties": [{"property": "mask", "paper": True, "seed": False}]}})
    found = judged(reports)["arch-100"]
    assert found["status"] == claims.CONTRADICTED and "uSDR" not in found["measured"]
    put(reports, {"ablation_size": {"differences": []}})  # of before the deviations were listed
    assert judged(reports)["arch-100"] == found
    put(reports, {"ablation_size": {"deviations": [deviation("mask-real", -1.0)]}})
    found = judged(reports)["arch-100"]
    assert "after the profile's short trainings, 1 of 1 deviations" in found["measured"] and len(found["result"]) == 2
    scores = [{"variant": name, "usdr": value} for name, value in (("base", 2.0), ("base", None), ("mono", 9.0))]
    values = {"deviations": [deviation("mask-real", 1.0)], "scores": scores}
    put(reports, {"ablation_size": values}, parameters={"train": {"steps": 77}})
    found = judged(reports)["arch-100"]
    assert "after 77 updates (base 2.00 dB), 0 of 1 deviations, one by one, cost uSDR and 1 gain" in found["measured"]
    assert "+1.00 (0.90 to 1.10; n = 9) dB uSDR (better)" in found["why"]
    put(reports, {"ablation_size": {"deviations": [deviation("mask-real", -1.0, spread=np.nan)]}})  # one song
    found = judged(reports)["arch-100"]
    assert "uSDR" not in found["measured"] and "-1.00" in found["why"]


def test_structure_rules():
    def judge(name, *values, **thresholds):
        return claims.RULES[name].judge(*values, **thresholds)

    assert judge("params_48", 48_098_188, millions=48.1).status == claims.REPRODUCED
    assert judge("params_48", 22_061_570, millions=48.1).status == claims.CONTRADICTED
    same = {"property": "layers", "paper": 6, "seed": 6}
    other = {"property": "mask", "paper": True, "seed": False}
    assert judge("arch_100", [same]).status == claims.REPRODUCED
    found = judge("arch_100", [same, other])
    assert found.status == claims.CONTRADICTED and "1 of 2" in found.measured and "mask" in found.why
    assert "uSDR" not in found.measured
    rows = {"loss-reduced": -3.0, "mask-real": -1.0, "time-reshaped": 0.0}  # the first is no architecture
    found = judge("arch_100", [same, other], [deviation(*row) for row in rows.items()])
    assert found.status == claims.CONTRADICTED and "1 of 2 deviations, one by one" in found.measured
    assert "bounded by Tanh -1.00 (-1.10 to -0.90; n = 9)" in found.why and "-3.00" not in found.why
    assert judge("checkpoints_compat", [], 9).status == claims.REPRODUCED
    changed = [{"key": "x_proj.weight", "before": [640, 512], "after": None}]
    found = judge("checkpoints_compat", changed, 9)
    assert found.status == claims.CONTRADICTED and "x_proj.weight: [640, 512] to absent" in found.why
    equal, unequal = {"case": "a", "paper": 2.0, "seed": 2.0}, {"case": "b", "paper": 2.0, "seed": 0.0}
    for losses, status in (
        ([equal], claims.REPRODUCED),
        ([equal, unequal], claims.PARTLY),
        ([unequal], claims.CONTRADICTED),
    ):
        assert judge("loss_exact", losses, tolerance=1e-6).status == status
    counts = {"as described": 10, "three windows": 6, "here": 5}
    assert judge("stft_15", counts, claimed=15).status == claims.CONTRADICTED
    assert judge("stft_15", counts, claimed=10).status == claims.REPRODUCED
    assert judge("bands_equal_mel", {"author": [1, 2], "equal": [1, 2]}).status == claims.REPRODUCED
    assert judge("bands_equal_mel", {"author": [1, 2], "equal": [2, 1]}).status == claims.CONTRADICTED


def test_the_ledger_says_what_its_results_say():
    """What CI checks, too: every row of the repository's ledger has a status, and its files give that status."""
    assert ledger.check() == []
    rows = ledger.load()
    assert {row["status"] for row in rows} <= set(claims.STATUSES)
    for row in rows:
        if row["status"] in (claims.REPRODUCED, claims.CONTRADICTED, claims.PARTLY):
            assert row["measured"] and row["evidence"], row["id"]
            # A rule without inputs computes from definitions alone.
            assert row["result"] or row["evidence"] == claims.COMPUTED, row["id"]
            assert all((ROOT / file).is_file() for file in row["result"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"status": claims.REPRODUCED}, "scan-8x: says 'reproduced', its results say 'partly'"),
        ({"status": None}, "scan-8x: has no status"),
        ({"measured": "99x"}, "scan-8x: measured differ"),
        ({"result": []}, "scan-8x: result differ"),
    ],
)
def test_a_row_that_says_more_than_its_file_is_found(reports, change, problem):
    put(reports, benchmark())
    path = reports / "claims.yaml"
    ledger.render(path)
    assert ledger.check(path) == []
    rows = yaml.safe_load(path.read_text())
    next(row for row in rows if row["id"] == "scan-8x").update(change)
    path.write_text(yaml.safe_dump(rows))
    assert any(line.startswith(problem) for line in ledger.check(path))


def test_a_lost_result_and_an_old_page_are_found(reports):
    put(reports, benchmark())
    path = reports / "claims.yaml"
    ledger.render(path)
    (reports / "CLAIMS.md").write_text("# Claims\n")
    assert ledger.check(path) == ["CLAIMS.md: differs from claims.yaml"]
    (reports / "demo/results/direct_term.json").unlink()
    assert any("feedthrough-dominant: says 'partly', its results say 'untested'" in x for x in ledger.check(path))


def test_rendering_again_changes_nothing_and_keeps_what_is_written_by_hand(reports):
    put(reports, benchmark())
    path = reports / "claims.yaml"
    before = [{k: row[k] for k in row if k not in ledger.FOUND} for row in ledger.load(path)]
    ledger.render(path)
    files = [path, reports / "CLAIMS.md", reports / "demo/tables/claims.md"]
    first = [file.read_text() for file in files]
    ledger.render(path)
    assert [file.read_text() for file in files] == first
    assert [{k: row[k] for k in row if k not in ledger.FOUND} for row in ledger.load(path)] == before
    assert all(f"## {row['id']}: " in first[1] and f"`{row['id']}`" in first[2] for row in before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"claim": None}, "lacks claim"),
        ({"verdict": "true"}, "unknown field verdict"),
        ({"rule": {"name": "gone", "inputs": {"a": "b#c"}}}, "there is no rule 'gone'"),
        ({"rule": {"inputs": {}}}, "a rule has a name"),
        ({"rule": {"name": "scan_8x"}}, "is given no inputs"),
        ({"id": "train-5x"}, "train-5x: an id stands in one row only"),
    ],
)
def test_a_ledger_that_cannot_be_used_is_refused(reports, change, message):
    path = reports / "claims.yaml"
    rows = yaml.safe_load(path.read_text())
    rows[0].update(change)
    path.write_text(yaml.safe_dump(rows))
    with pytest.raises(InputError, match=message):
        ledger.load(path)


def test_values_that_a_rule_cannot_read_are_named(reports):
    put(reports, {"scan_backends": {"conv": [{"other": 1}]}})
    with pytest.raises(InputError, match=r"conv-3x: the rule 'conv_3x' cannot read its inputs \(KeyError"):
        judged(reports)


def test_command(reports):
    def run(word):
        return CliRunner().invoke(cli, ["claims", word, "--ledger", str(reports / "claims.yaml")])

    put(reports, benchmark())
    assert run("render").exit_code == 0
    done = run("check")
    assert done.exit_code == 0 and done.output.startswith(f"{len(ledger.load())} claims: ")
    path = reports / "demo/results/direct_term.json"
    record = json.loads(path.read_text())
    record["values"]["shares"] = [s | {"direct": 0.9} for s in record["values"]["shares"]]
    path.write_text(json.dumps(record))
    done = run("check")
    assert done.exit_code == 1
    assert "feedthrough-dominant: measured differ from its results" in done.output
