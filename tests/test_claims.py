"""The ledger: claims judged from result files, and the page that says so."""

import json
import re

import pytest

from bsm.errors import InputError
from bsm.study.baselines import EQUALISER
from bsm.study.claims import ledger
from bsm.study.claims.claim import CLAIMS, GPU, LONG, PUBLISHED, Evidence, Finding, Values, Verdict, claim, computed
from bsm.study.records import ROOT, mark, write_result
from made import scored

SUPPORTED, NOT_SUPPORTED, INCONSISTENT, INCONCLUSIVE, BLOCKED = Verdict

ROW = re.compile(r"(?<!\\)\|")


def benchmark(scale=1.0):
    """Results of a benchmark in which `chunked` takes 1 s, scaled, and the loops 12 and 30."""
    times = {"sequential": 12.0, "loop, indexed": 30.0, "chunked": scale}
    speed = [
        {"axis": "time", "pass": "forward + backward", "length": length, "backend": name, "seconds": [s, s * 1.01, s]}
        | {"output_error": 1e-7, "gradient_errors": {"x": 2e-5}}
        for length in (101, 401)
        for name, s in times.items()
        if (name, length) != ("loop, indexed", 401)
    ]
    conv = [
        {"pass": "forward + backward", "backend": name, "seconds": [s, s]} for name, s in (("conv1d", 2), ("numba", 1))
    ]
    block = [{"rows": 1, "length": 400, "seconds": [0.02]}, {"rows": 62, "length": 400, "seconds": [5.0]}]
    compiled = {"preset": "small", "compile_seconds": 60, "seconds": {"plain": [1, 1.0, 1.01], "compiled": [1, 1, 1]}}
    return {"scan_backends": {"speed": speed, "conv": conv, "block": block, "compile": compiled}}


def of_a_gpu(factor=1.0):
    """Results of a GPU whose times, errors and memory are ``factor`` of what makes the claims hold."""
    errors = {"output_error": 9e-6 * factor, "gradient_errors": {"x": 5e-6 * factor}}
    where = {"axis": "time", "pass": "forward + backward", "length": 101}
    speed = [where | {"backend": "selective", "seconds": [factor, factor]} | errors]
    speed += [where | {"backend": name, "seconds": [9.0, 9.0]} for name in ("loop, indexed", "sequential")]
    memory = [
        where | {"backend": name, "peak_bytes": size}
        for name, size in (("sequential", 100), ("selective", 107 * factor))
    ]
    times = (("conv1d", [3.2, 3.3]), ("cuda", [factor, factor]))
    conv = [{"pass": "forward + backward", "backend": name, "seconds": s} for name, s in times]
    block = [{"rows": rows, "length": 401, "seconds": [0.025 * factor]} for rows in (1, 62)]
    return {"scan": {"speed": speed, "memory": memory}, "block": {"conv": conv, "block": block}}


def put(reports, results, profile=ledger.PROFILE, parameters=(), **extra):
    for name, values in results.items():
        path = reports / profile / "results" / f"{name}.json"
        given = {"measured": "test", "parameters": dict(parameters), "data": "test", "inputs": ()} | extra
        write_result(path, values=values, started=mark(), **given)


def judged(reports, profile=ledger.PROFILE):
    return {line.name: line for line in ledger.lines(profile, reports)}


def verdicts(reports):
    return {name: line.finding.verdict for name, line in judged(reports).items()}


def test_a_cpu_settles_the_algorithm_and_nothing_about_a_gpu(tmp_path):
    put(tmp_path, benchmark())
    found = judged(tmp_path)
    line = found["scan-8x (CPU)"]
    assert line.finding.verdict == SUPPORTED and line.finding.measured.startswith("30.0x [30.0, ")
    assert "101 steps" in " ".join(line.finding.reasons) and line.evidence == "CPU timing" and line.devices
    assert line.files == (f"{tmp_path.name}/demo/results/scan_backends.json",)
    assert found["conv-3x (CPU)"].finding.verdict == NOT_SUPPORTED
    assert found["compile-20 (CPU)"].finding.verdict == NOT_SUPPORTED
    gpu = [line for name, line in found.items() if name.endswith("(GPU)")]
    assert len(gpu) > 6 and {line.finding.verdict for line in gpu} == {BLOCKED}
    for line in gpu:
        assert line.evidence == "–" and line.test.evidence == Evidence.FULL
        assert "CUDA" in line.test.needs and line.test.command == "make gpu"
    put(tmp_path, benchmark(scale=10.0))
    assert judged(tmp_path)["scan-8x (CPU)"].finding.verdict == NOT_SUPPORTED


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, SUPPORTED), (3.0, NOT_SUPPORTED)])
def test_results_of_a_gpu_settle_what_waits_for_one(tmp_path, factor, verdict):
    put(tmp_path, benchmark())
    put(tmp_path, of_a_gpu(factor), GPU, {"device": "cuda"})
    found = judged(tmp_path)
    names = ["scan-8x (GPU)", "conv-3x (GPU)", "bench-25ms (GPU)", "memory-5-10 (GPU)", "parity-1e5"]
    assert {name: found[name].finding.verdict for name in names} == dict.fromkeys(names, verdict)
    assert all(any("/gpu/" in file for file in found[name].files) for name in names)


def test_a_gpu_without_the_kernels_settles_nothing(tmp_path):
    put(tmp_path, benchmark())
    put(tmp_path, of_a_gpu(), GPU, {"device": "cuda"})
    path = tmp_path / "gpu/results/scan.json"
    path.write_text(path.read_text().replace("selective", "chunked"))
    found = judged(tmp_path)
    for name in ("scan-8x (GPU)", "memory-5-10 (GPU)", "parity-1e5"):
        assert found[name].finding.verdict == BLOCKED and not found[name].finding.measured


@pytest.mark.parametrize("parameters", [{}, {"device": "cpu"}])
def test_what_a_cpu_measured_is_no_result_of_a_gpu(tmp_path, parameters):
    put(tmp_path, benchmark())
    before = verdicts(tmp_path)
    put(tmp_path, of_a_gpu(), GPU, parameters)
    assert verdicts(tmp_path) == before
    assert "was not measured on a GPU" in judged(tmp_path)["scan-8x (GPU)"].finding.reasons[0]


def test_the_long_study_goes_first_and_other_profiles_are_judged_alone(tmp_path):
    shares = [
        {"weights": w, "direct": d, "length": 9, "without_state": 0.1} for w in ("trained", "random") for d in (1, 2)
    ]
    put(tmp_path, {"direct_term": {"shares": shares}})
    put(tmp_path, {"direct_term": {"shares": shares}}, "long")
    assert "/long/" in judged(tmp_path)["feedthrough-dominant"].files[0]
    (tmp_path / "long/results/direct_term.json").unlink()
    assert "/demo/" in judged(tmp_path)["feedthrough-dominant"].files[0]
    (missing,) = judged(tmp_path, "smoke")["feedthrough-dominant"].finding.reasons
    assert missing.endswith("smoke/results/direct_term.json yet.")


def test_a_campaigns_runs_are_gathered(tmp_path):
    """Stability from the long study's runs: one file per arm and seed, and one of the trivial separators."""
    for arm, mean in {"mamba2": 5.0, "none": 2.0, "attention": 4.0}.items():
        for seed in range(3):
            scores = []
            for window in (1.0, 4.0, 16.0, None):
                lost = 2 * (arm == "attention" and window == 16)
                scores += scored({arm: {seed: mean - lost}}, noise=0.02, window=window)
            put(tmp_path, {f"songs-1s-{arm}-seed{seed}": {"scores": scores}}, LONG, {"arm": arm}, seed=seed)
    trivial = scored({EQUALISER: {None: 0.0}})
    put(tmp_path, {"songs-baselines-baselines-seed0": {"scores": trivial}}, LONG, {"arm": "baselines"}, seed=0)
    put(tmp_path, {"songs-1s-mamba2-lr0.004": {"history": []}}, LONG, {"arm": "mamba2"})  # chooses a rate: no result
    line = judged(tmp_path)["stable-1-16 (small models)"]
    assert line.finding.verdict == SUPPORTED, line.finding
    assert len(line.files) == 10 and "these are seen to degrade here: attention" in " ".join(line.finding.reasons)
    (tmp_path / "long/results/songs-1s-none-seed0.json").unlink()
    assert len(judged(tmp_path)["stable-1-16 (small models)"].files) == 9


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_the_long_studys_songs_speak_once_both_networks_were_measured(tmp_path, gain):
    """Without BS-RoFormer the default profile's regions are judged; windows of 8 s need no second network."""
    for arm, mean in {"mamba2": 5.0, "none": 3.0, "bs-roformer": 4.5}.items():
        if arm == "bs-roformer":
            before = judged(tmp_path)
            lacking = before["intermittent (small models)"].finding.reasons
            assert "songs-1s-regions yet: bs-roformer" in lacking[0], lacking
            assert before["nonoverlap-8"].finding.verdict == (SUPPORTED if gain < 0.4 else NOT_SUPPORTED)
        for seed in range(3):
            regions, scores = [], []
            for region, duration in enumerate((0.5, 1.5, 3.0)):
                reached = {arm: {seed: mean + 0.5 * (arm == "mamba2" and duration < 2)}}
                about = {"region": region, "cut": False, "duration": duration, "gap": 1.0}
                regions += scored(reached, songs=8, noise=0.002, metrics=["sdr"], **about)
            for window, hop, more in ((None, None, 0.0), (8.0, 8.0, 0.0), (8.0, 4.0, gain)):
                scores += scored({arm: {seed: mean + more}}, songs=8, noise=0.002, window=window, hop=hop)
            name = f"songs-1s-regions-{arm}-seed{seed}"
            put(tmp_path, {name: {"regions": regions, "scores": scores}}, LONG, {"arm": arm}, seed=seed)
        trivial = {"scores": scored({EQUALISER: {None: 0.5}}, songs=8, window=None, hop=None)}
        put(tmp_path, {"songs-baselines-regions-baselines-seed0": trivial}, LONG, {"arm": "baselines"}, seed=0)
    line = judged(tmp_path)["intermittent (small models)"]
    assert line.finding.verdict == SUPPORTED, line.finding
    assert line.finding.measured.startswith("1.0") and "0.50 dB" in line.finding.reasons[0]


def quiet(record, *, wall=1.0):
    """The same timing with processor times, which the wall times are so many times."""
    return record | {"processor_seconds": [seconds / wall for seconds in record["seconds"]]}


@pytest.mark.parametrize(("wall", "verdict"), [(1.0, SUPPORTED), (2.0, INCONCLUSIVE)])
def test_no_verdict_rests_on_a_timing_during_which_other_work_ran(tmp_path, wall, verdict):
    results = benchmark()
    speed = [quiet(r, wall=wall if r["backend"] == "chunked" else 1.0) for r in results["scan_backends"]["speed"]]
    put(tmp_path, {"scan_backends": {"speed": speed}})
    found = judged(tmp_path)["scan-8x (CPU)"].finding
    assert found.verdict == verdict and found.measured.startswith("30.0x")
    assert ("It was measured while other work ran; run `bsm study 02_scan_backends`" in found.reasons[0]) == (wall > 1)
    alone = [quiet(r, wall=2.0 if r["backend"] == "sequential" else 1.0) for r in results["scan_backends"]["speed"]]
    put(tmp_path, {"scan_backends": {"speed": alone}})
    assert judged(tmp_path)["scan-8x (CPU)"].finding.verdict == SUPPORTED  # the disturbed case is only context


def test_a_gpus_timing_waits_and_counts(tmp_path):
    put(tmp_path, benchmark())
    speed = [r | {"processor_seconds": None} for r in of_a_gpu()["scan"]["speed"]]
    put(tmp_path, {"scan": {"speed": speed}}, GPU, {"device": "cuda"})
    assert judged(tmp_path)["scan-8x (GPU)"].finding.verdict == SUPPORTED


def test_every_cpu_timing_names_the_records_that_it_rests_on(committed):
    timed = [x for x in committed if x.test.evidence == "CPU timing" and x.finding.verdict != BLOCKED]
    assert len(timed) > 5 and all(x.finding.timings for x in timed)


def test_results_that_are_not_the_papers_do_not_count_as_such(tmp_path):
    scores = {"ten_epochs": [{"separator": "BSMamba2", "csdr": 11.1, "usdr": 10.8}] * 2}
    put(tmp_path, scores, GPU, {"device": "cuda"})
    found = judged(tmp_path)["ten-epochs"].finding
    assert found.verdict == BLOCKED and "not comparable with the paper" in found.reasons[0]
    put(tmp_path, scores, GPU, {"device": "cuda"}, comparable_with_paper=True)
    assert verdicts(tmp_path)["ten-epochs"] == SUPPORTED


def test_the_published_model_is_judged_as_far_as_excerpts_can(tmp_path):
    """What `make published` writes: a change between windows that is seen counts, that none is seen does not."""

    def put_windows(gain):
        given = {"field": "model", "metrics": ("usdr", "csdr"), "noise": 0.02, "seconds": 6.0}
        values = []
        for window in (1.0, 2.0, 6.0):
            reached = {"BSMamba2": {None: gain * (window == 1)}}
            values += scored(reached, window=window, hop=window, **given)
        put(tmp_path, {"input_length": {"scores": values, "against": {"BSMamba2": 6.0}}}, PUBLISHED)
        return judged(tmp_path)["stable-1-16 (published model)"]

    assert judged(tmp_path)["stable-1-16 (published model)"].test.command == "make published"
    assert put_windows(0.0).finding.verdict == INCONCLUSIVE
    line = put_windows(-1.0)
    assert (line.finding.verdict, line.evidence) == (NOT_SUPPORTED, Evidence.FULL)
    assert line.finding.measured.startswith("at most -1.0")
    region = {"track": "a", "model": "BSMamba2", "seed": None, "cut": False, "duration": 1.5, "sdr": 3.0}
    made = [region | {"region": 0, "gap": None}, region | {"region": 1, "gap": 0.3}]
    put(tmp_path, {"vocal_occurrence": {"regions": made}}, PUBLISHED)
    finding = judged(tmp_path)["intermittent (published model)"].finding
    assert finding.verdict == BLOCKED
    assert finding.reasons[1:] == (
        "BSMamba2's SDR by duration: 1 to 2 s 3.00 dB.",
        "BSMamba2's SDR by gap: under 0.5 s 3.00 dB.",
    )
    scores = [{"separator": "msst", "csdr": 9.0, "usdr": 8.0}]
    blocked = {"status": "blocked", "missing": ["Whole songs."], "scores": scores, "model": "msst"}
    put(tmp_path, {"published_model": blocked | {"data": "MUSDB18: musdb18-sample"}}, PUBLISHED)
    line = judged(tmp_path)["sdr-1103"]
    assert line.finding.verdict == BLOCKED
    assert line.finding.reasons[1].startswith("As context, msst on MUSDB18: musdb18-sample: cSDR mean 9.00")
    assert "stable-1-16 (published model)" not in set(ledger.claims_table("demo", ("input_length",), tmp_path)["id"])


def test_notebooks_and_ledger_use_the_same_rules(tmp_path):
    put(tmp_path, benchmark(), "other")
    table = ledger.claims_table("other", ("scan_backends",), tmp_path).set_index("id")
    assert set(table.index) == {f"{name} (CPU)" for name in ("scan-8x", "conv-3x", "bench-25ms", "compile-20")} | {
        "parity-1e5"
    }
    assert table.loc["scan-8x (CPU)", "verdict"] == SUPPORTED


def test_values_that_a_rule_cannot_read_are_named(tmp_path):
    put(tmp_path, {"scan_backends": {"conv": [{"other": 1}]}})
    with pytest.raises(InputError, match=r"conv-3x: cannot read its results \(KeyError"):
        judged(tmp_path)


@pytest.fixture
def no_claims():
    """Take all claims away for a test, and give them back in their order, which is the page's."""
    known = dict(CLAIMS)
    CLAIMS.clear()
    yield known
    CLAIMS.clear()
    CLAIMS.update(known)


def test_a_new_claim_is_one_function(tmp_path, no_claims):
    tests = [computed(number=Values("n", "two"))]

    @claim("two-is-two", "Two is two", figure="2", source=("nobody",), tests=tests, limit=2)
    def two(number, *, limit):
        return Finding(SUPPORTED if number == limit else NOT_SUPPORTED, str(number))

    put(tmp_path, {"n": {"two": 2}})
    assert verdicts(tmp_path) == {"two-is-two": SUPPORTED}
    with pytest.raises(ValueError, match="there are two claims 'two-is-two'"):
        claim("two-is-two", "Again", figure="", source=(), tests=[])(two)


def test_the_page_says_what_the_results_say(committed, monkeypatch):
    """What CI checks, too: CLAIMS.md is what the committed results give, and every figure leads back to a file."""
    monkeypatch.setattr(ledger, "lines", lambda **_: committed)
    assert ledger.check() == []
    for line in committed:
        assert line.finding.verdict in list(Verdict) and line.test.evidence in list(Evidence)
        assert bool(line.finding.measured) == (line.finding.verdict != BLOCKED), line.name
        assert all((ROOT / file).is_file() for file in line.files)
        assert line.files or not line.test.inputs or line.finding.verdict == BLOCKED
        if line.finding.verdict == BLOCKED:
            assert line.test.needs or line.test.command, line.name


def test_the_page_does_not_depend_on_which_room_is_imported_first(committed, no_claims, monkeypatch):
    known = {(line.claim.id, line.test.on): line for line in committed}
    monkeypatch.setattr(ledger, "judge", lambda claim, test, *_: known[claim.id, test.on])
    rooms = [claim.judge.__module__ for claim in no_claims.values()]
    CLAIMS.update(no_claims)
    page = ledger.page(ledger.lines())
    CLAIMS.clear()
    for room in reversed(list(dict.fromkeys(rooms))):
        CLAIMS.update({name: claim for name, claim in no_claims.items() if claim.judge.__module__ == room})
    assert list(CLAIMS) != list(no_claims) and ledger.page(ledger.lines()) == page


def test_the_committed_results_give_the_verdicts_that_they_should(committed):
    found = {line.name: (line.finding.verdict, line.test.evidence) for line in committed}
    assert found["params-48"] == (SUPPORTED, Evidence.EXACT)
    assert found["scan-8x (CPU)"] == (SUPPORTED, "CPU timing")
    assert found["compile-20 (CPU)"] == (NOT_SUPPORTED, "CPU timing")
    for name in ("train-5x (CPU)", "stft-loss-3x (CPU)", "mono-halves (CPU)"):  # near their thresholds: machines differ
        assert found[name][0] != BLOCKED and found[name][1] == "CPU timing", name
    for name in ("epochs-750-150", "step-60-12"):
        assert found[name] == (INCONSISTENT, Evidence.EXACT), name
    for name in ("vram-32gb", "memory-5-10 (counted)", "arch-100", "loss-exact", "stft-15", "bands-equal-mel"):
        assert found[name] == (NOT_SUPPORTED, Evidence.EXACT), name
    for name in ("data-2x", "loader-4x", "parity-1e5", "sdr-1103", "ten-epochs", "stable-1-16 (published model)"):
        assert found[name][0] == BLOCKED, name
    small = ("slight-loss (small models)", "stable-1-16 (small models)", "intermittent (small models)")
    for name in ("nonoverlap-8", "feedthrough-dominant", *small):
        if not any("/long/" in file for line in committed if line.name == name for file in line.files):
            assert found[name] == (INCONCLUSIVE, Evidence.SMALL), name


def test_tables_of_the_page_fit_on_a_page():
    text = (ROOT / "reports/CLAIMS.md").read_text()
    rows = [ROW.split(line.strip("|")) for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > len(CLAIMS)
    for row in rows:
        assert len(row) <= 5 and all(len(cell.split()) <= 15 for cell in row), row
    head = text.partition("## All tests")[0]
    assert len(head.splitlines()) < 60 and all(f"### {name}\n" in text for name in CLAIMS)


def test_a_page_that_says_other_than_the_files_is_found(tmp_path, invoke):
    def run(word):
        done = invoke("claims", word, "--reports", tmp_path)
        return done.exit_code, done.output

    put(tmp_path, benchmark())
    assert run("render")[0] == 0
    status, said = run("check")
    assert status == 0 and said.startswith(f"{len(CLAIMS)} claims in ")
    page, results = tmp_path / "CLAIMS.md", tmp_path / "demo/results/scan_backends.json"
    page.write_text(page.read_text().replace("**CPU: supported**", "**CPU: not supported**", 1))
    record = json.loads(results.read_text())
    record["values"]["compile"]["seconds"]["plain"] = [1.15, 1.15, 1.15]
    results.write_text(json.dumps(record))
    status, said = run("check")
    found = re.findall(r"(.+): CLAIMS.md differs from what the results say", said)
    assert status == 1 and found == ["Claims", "In a minute", "All tests", "scan-8x", "compile-20"]
    page.unlink()
    assert ledger.check(tmp_path) == ["CLAIMS.md: not there"]
