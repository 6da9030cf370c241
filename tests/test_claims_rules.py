"""The rules: what they say for measurements whose verdict is known."""

import numpy as np
import pytest

from bsm.data import registry
from bsm.stats import Interval
from bsm.study import occurrence
from bsm.study.assay import INSENSITIVE, MARGIN
from bsm.study.baselines import EQUALISER
from bsm.study.claims import data, exact, learning, learning_regions, probe, scan, step
from bsm.study.claims import published as paper
from bsm.study.claims.claim import Verdict, judge_ratio
from bsm.study.figures import LABELS
from bsm.study.speed import data as bench
from bsm.study.speed import spectra
from bsm.study.speed.parts import OPTIMISER, SCAN
from bsm.study.speed.step import BEFORE, OURS, REDUCED
from made import scored

SUPPORTED, NOT_SUPPORTED, INCONSISTENT, INCONCLUSIVE, BLOCKED = Verdict


@pytest.mark.parametrize(
    ("ends", "low", "high", "verdict"),
    [
        ((8.9, 9.2), 8, np.inf, SUPPORTED),
        ((4.9, 5.2), 8, np.inf, NOT_SUPPORTED),
        ((7.2, 8.9), 8, np.inf, INCONCLUSIVE),
        ((1.49, 1.51), 1.1, 1.2, NOT_SUPPORTED),
        ((1.14, 1.16), 1.1, 1.2, SUPPORTED),
        ((np.nan, np.nan), 8, np.inf, INCONCLUSIVE),  # as of one value
        ((-0.1, 0.3), -MARGIN, MARGIN, SUPPORTED),  # none is seen, and it is small at most
        ((-0.1, 0.6), -MARGIN, MARGIN, INCONCLUSIVE),
        ((0.5, 0.9), -MARGIN, MARGIN, NOT_SUPPORTED),
        ((-2, -0.5), -MARGIN, MARGIN, NOT_SUPPORTED),
        ((0.1, 0.2), -MARGIN, MARGIN, SUPPORTED),  # one is seen, and is small: that counts as none
        ((np.nan, np.nan), -MARGIN, MARGIN, INCONCLUSIVE),
    ],
)
def test_a_ratio_or_difference_is_judged_by_its_interval(ends, low, high, verdict):
    assert MARGIN == 0.41
    assert judge_ratio(Interval(np.mean(ends), *ends, 8, 0, ""), low, high) == verdict


def test_exact_rules():
    assert exact.params_48(48_098_188, millions=48.1).verdict == SUPPORTED
    assert exact.params_48(22_061_570, millions=48.1).verdict == NOT_SUPPORTED
    same = {"property": "layers", "paper": 6, "seed": 6}
    other = {"property": "mask", "paper": True, "seed": False}
    assert exact.arch_100([same]).verdict == SUPPORTED
    found = exact.arch_100([same, other])
    assert found.verdict == NOT_SUPPORTED and found.measured.startswith("1 of 2") and "mask" in found.reasons[0]
    assert exact.checkpoints_compat([], 9).verdict == SUPPORTED
    changed = [{"key": "x_proj.weight", "before": [640, 512], "after": None}]
    found = exact.checkpoints_compat(changed, 9)
    assert found.verdict == NOT_SUPPORTED and "x_proj.weight: [640, 512] to absent" in found.reasons[0]
    equal, unequal = {"case": "a", "paper": 2.0, "seed": 2.0}, {"case": "b", "paper": 2.0, "seed": 0.0}
    assert exact.loss_exact([equal], tolerance=1e-6).verdict == SUPPORTED
    assert exact.loss_exact([equal, unequal], tolerance=1e-6).verdict == NOT_SUPPORTED
    counts = {"as described": 10, "three windows": 6, "here": 5}
    assert exact.stft_15(counts, claimed=15).verdict == NOT_SUPPORTED
    assert exact.stft_15(counts, claimed=10).verdict == SUPPORTED
    assert exact.bands_equal_mel({"author": [1, 2], "equal": [1, 2]}).verdict == SUPPORTED
    assert exact.bands_equal_mel({"author": [1, 2], "equal": [2, 1]}).verdict == NOT_SUPPORTED


def test_documents_that_contradict_each_other(monkeypatch):
    assert exact.step_60_12().verdict == INCONSISTENT
    monkeypatch.setattr(exact, "STEP_SECONDS", {"optimisation report": (63, 13), "summary": (63, 13)})
    assert exact.step_60_12().verdict == INCONCLUSIVE  # one total, and the sum of the parts
    given = {"before": 750, "after": 150, "tolerance": 0.01}
    monkeypatch.setattr(exact, "STEP_SECONDS", {"summary": (61, 12.5), "analysis": (63, 13)})
    found = exact.epochs_750_150(**given)
    assert found.verdict == INCONSISTENT and found.measured == "summary: 729 to 149 h; analysis: 752 to 155 h"
    monkeypatch.setattr(exact, "STEP_SECONDS", {"summary": (63, 12.5), "analysis": (63, 13)})
    assert exact.epochs_750_150(**given).verdict == SUPPORTED


@pytest.mark.parametrize(("gigabytes", "verdict"), [(10, NOT_SUPPORTED), (40, SUPPORTED)])
def test_vram(gigabytes, verdict):
    cases = [("paper", 1, False), ("paper", 1, True), ("paper", 5, True), ("vram", 2, False)]
    names = ("preset", "batch", "checkpointing")
    steps = [dict(zip(names, case, strict=True)) | {"bytes": gigabytes * 1e9} for case in cases]
    assert exact.vram_32gb(steps, gigabytes=32).verdict == verdict


@pytest.mark.parametrize(("kernel", "verdict"), [(107, SUPPORTED), (2, NOT_SUPPORTED)])
def test_kept_memory(kernel, verdict):
    scans = {"loop": 100, "selective": kernel, "triton": 1}
    assert exact.memory_5_10(scans, least=1.05, most=1.1).verdict == verdict


def variants(before, reduced, ours, *, share=0.65):
    """Three steps of so many seconds in three rounds, a share of which is the scan's and the rest the optimiser's."""

    def record(variant, seconds):
        rounds = [seconds * f for f in (0.99, 1.0, 1.01)]
        parts = [
            {"part": p, "direction": "forward", "seconds": [s * r for r in rounds]}
            for p, s in {SCAN: share, OPTIMISER: 1 - share}.items()
        ]
        facts = {"preset": "tiny", "batch": 1, "audio_seconds": 4.0}
        return {"variant": variant.name, "seconds": rounds, "parts": parts} | facts

    return [record(v, s) for v, s in ((BEFORE, before), (REDUCED, reduced), (OURS, ours))]


@pytest.mark.parametrize(("after", "verdict"), [(10.0, SUPPORTED), (30.0, NOT_SUPPORTED)])
def test_whole_steps(after, verdict):
    found = step.train_5x(variants(60.0, after, 15.0), faster=5)
    assert found.verdict == verdict and "4.00x" in found.reasons[1]  # ours


@pytest.mark.parametrize(("loop", "verdict"), [(20, INCONCLUSIVE), (4, NOT_SUPPORTED)])
def test_a_small_step_settles_nothing_that_the_papers_size_contradicts(loop, verdict):
    """A small step gains 2x. At the paper's size, a loop takes 20 times as long as a scan with a third of the step."""
    whole = variants(60.0, 30.0, 30.0, share=1 / 3)[2] | {"scan": "chunked", "preset": "paper"}
    timed = {"axis": "time", "pass": scan.BOTH, "length": 101}
    speed = [
        timed | {"backend": scan.LOOP, "seconds": [loop] * 3},
        timed | {"backend": "chunked", "seconds": [1.0] * 3},
    ]
    found = step.train_5x(variants(60.0, 30.0, 30.0), [whole], speed, faster=5)
    assert found.verdict == verdict and f"{2 / 3 + loop / 3:.1f}x" in found.reasons[0]


@pytest.mark.parametrize(
    ("one", "every", "verdict"), [(20, 25, SUPPORTED), (20, 800, INCONCLUSIVE), (30, 800, NOT_SUPPORTED)]
)
def test_a_block_in_either_reading(one, every, verdict):
    block = [{"rows": r, "length": 401, "seconds": [ms / 1e3] * 3} for r, ms in ((1, one), (62, every))]
    assert scan.bench_25ms(block, milliseconds=25.3).verdict == verdict


@pytest.mark.parametrize(("share", "verdict"), [(0.65, SUPPORTED), (0.9, NOT_SUPPORTED), (0.2, NOT_SUPPORTED)])
def test_share_of_the_scan(share, verdict):
    steps = variants(60.0, 12.0, 12.0, share=share)
    assert step.scan_65pct(steps, least=60, most=70).verdict == verdict
    careful = variants(60.0, 12.0, 12.0, share=0.5)[0] | {"scan": "sequential"}
    found = step.scan_65pct(steps, [careful], least=60, most=70)
    assert found.verdict == (verdict if verdict == NOT_SUPPORTED else INCONCLUSIVE)  # the loops disagree
    assert "50.0 % [50.0, 50.0]" in found.reasons[1]


@pytest.mark.parametrize(("after", "verdict"), [(6.0, NOT_SUPPORTED), (2.0, SUPPORTED)])
def test_loss_and_transforms(after, verdict):
    times = {
        spectra.DESCRIBED_LOSS: 10.0,
        spectra.COMPLEX_LOSS: 9.0,
        spectra.AFTER_LOSS: after,
        spectra.EXACT_LOSS: 4.0,
    }
    losses = [{"loss": name, "seconds": [s, 1.01 * s]} for name, s in times.items()]
    found = step.stft_loss_3x(losses, faster=3, least=2)
    assert found.verdict == verdict and found.measured.startswith(f"{10 / after:.2f}x")
    stft = {
        "stereo": [3.0, 3.0],
        "mono": [2.0, 2.0],
        spectra.EACH: [4.0, 4.0],
        spectra.AVERAGED: [after / 2, after / 2],
    }
    found = step.mono_halves(
        {"seconds": stft}, [{"mixture": 0.1, "vocals": 0.0}, {"mixture": 0.3, "vocals": 0.02}], least=1.8
    )
    assert found.verdict == verdict and "20.0 %" in found.reasons[2]


@pytest.mark.parametrize(
    ("trained", "random", "verdict"),
    [(0.9, 0.2, SUPPORTED), (0.9, 0.9, INCONCLUSIVE), (0.2, 0.9, NOT_SUPPORTED), (0.2, 0.2, NOT_SUPPORTED)],
)
def test_a_share_that_random_weights_have_tells_nothing(trained, random, verdict):
    shares = [
        {"weights": kind, "direct": share + 0.01 * i, "length": (62, 401)[i % 2], "without_state": 0.04 * (i % 2)}
        for kind, share in (("trained", trained), ("random", random))
        for i in range(4)
    ]
    found = scan.feedthrough_dominant(shares, share=0.5)
    assert found.verdict == verdict and "4.00 %" in found.reasons[2]  # of the long sequences alone


def loading(**times):
    cases = {"0 workers": [0.5] * 3, "2 workers": [1.0] * 3, bench.RESTARTED: [4.1, 4.3, 4.2], "4 workers": [1.0] * 3}
    return [{"audio_seconds": 1.0, "case": c, "seconds": s, "segments": 100} for c, s in (cases | times).items()]


def test_loader_needs_a_core_for_each_worker():
    given = {"faster": 4, "workers": 4}
    found = data.loader_4x(loading(), 8, **given)
    assert found.verdict == SUPPORTED and found.measured.startswith("4.20x")
    assert data.loader_4x(loading(**{bench.RESTARTED: [1.0] * 3}), 8, **given).verdict == NOT_SUPPORTED
    assert data.loader_4x(loading(), 2, **given).verdict == BLOCKED
    found = data.data_2x(loading(**{"wav, whole file": [9.0] * 3, "wav, segment": [1.0] * 3}))
    assert found.verdict == BLOCKED and "9.00x" in found.reasons[1]


def baselines():
    return scored({EQUALISER: {None: 0.0}})


def trained(means, **given):
    """Records of trained separators."""
    return scored(means, metrics=("usdr", "csdr"), noise=0.02, **given)


@pytest.mark.parametrize(
    ("cost", "seeds", "verdict"),
    [
        (0.1, 3, SUPPORTED),
        (1.0, 3, NOT_SUPPORTED),
        (0.41, 3, INCONCLUSIVE),
        (-0.5, 3, SUPPORTED),
        (0.1, 1, INCONCLUSIVE),
    ],
)
def test_a_slight_loss(cost, seeds, verdict):
    means = {"base": 5.0, learning.REDUCED_LOSS: 5.0 - cost, learning.BLIND_LOSS: 2.0}
    made = trained(means, seeds=range(seeds), field="variant")
    found = learning.slight_loss(made, baselines(), margin=0.41)
    assert found.verdict == verdict and "costs " in found.measured + found.reasons[0]
    assert learning.slight_loss(made, margin=0.41).measured.startswith(INSENSITIVE)  # without the equaliser
    assert learning.slight_loss(trained({"mono": 0.0}, field="variant"), margin=0.41).verdict == BLOCKED


@pytest.mark.parametrize(("leaks", "verdict"), [(0.0, SUPPORTED), (0.6, INCONCLUSIVE), (-1.0, SUPPORTED)])
def test_a_loss_that_leaks_is_not_slight_whatever_its_usdr(leaks, verdict):
    scores = trained({"base": 5.0, learning.REDUCED_LOSS: 4.9, learning.BLIND_LOSS: 2.0})
    means, measures = {"mamba2": -15.0, learning.REDUCED_LOSS: -15.0 + leaks}, (occurrence.BEFORE, occurrence.AFTER)
    found = learning.slight_loss(scores, baselines(), scored(means, metrics=measures), margin=0.41)
    assert found.verdict == verdict and f", leaks {leaks:.2f} dB" in found.measured


def windows(changes, *, without_time=2.0, reshaped=-3.0, seconds=48.0):
    """Scores by window, trained on 2 s: BSMamba2 changes as given, the network without time blocks does not."""
    made = []
    for window, gain in ({1.0: 0.0, 16.0: 0.0} | changes | {2.0: 0.0}).items():
        means = {"BSMamba2": 5.0 + gain, "none": without_time, "time-reshaped": 4.0 + reshaped * (window != 2)}
        made += trained(means, field="model", window=window, hop=window, seconds=seconds)
    return made, {"BSMamba2": 2.0}


LENGTHS = {"shortest": 1, "longest": 16}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({1.0: -0.1, 16.0: 0.2}, SUPPORTED),
        ({16.0: -1.0}, NOT_SUPPORTED),
        ({1.0: -0.41}, INCONCLUSIVE),
        ({0.5: -9.0, 32.0: -9.0}, SUPPORTED),  # outside of 1 to 16 s
    ],
)
def test_stability_is_equivalence(changes, verdict):
    assert learning.stable_1_16(*windows(changes), baselines(), **LENGTHS).verdict == verdict


@pytest.mark.parametrize(("folds", "verdict"), [(True, INCONCLUSIVE), (False, SUPPORTED)])
def test_stability_counts_the_trainings_of_a_cross_validation(folds, verdict):
    """The gain over no time block changes in one of three trainings: singers of one training share its luck."""
    names, made = [f"{name}_1_01" for name in registry.splits("mir1k")["train"].singers[:12]], []
    for window in (1.0, 2.0, 16.0):
        for number, name in enumerate(names):
            lost = window == 16
            means = {"mamba2": 5.0, "none": 2.0 - 0.4 * (lost and number < 4), "attention": 4.0 - lost}
            seconds = 24.0 if number == 11 else 48.0  # the last singer's clips do not fill windows of 16 s
            facts = {"window": window, "seconds": seconds} | ({"fold": number // 4} if folds else {})
            rows = trained(means, songs=1, seeds=[0], **facts)
            made += [row | {"track": name, "usdr": row["usdr"] + 0.01 * number} for row in rows]
    own = [row | {"separator": EQUALISER, "usdr": 0.01 * n, "window": None} for n, row in enumerate(made[::3][:12])]
    seeds = [row | {"seed": seed} for row in made for seed in ((0,) if folds else range(3))]
    found = learning.stable_1_16(seeds, {"BSMamba2": 2.0}, own, **LENGTHS)
    assert found.verdict == verdict and found.measured.endswith(" singers" if folds else " songs"), found


def test_stability_is_not_seen_by_an_insensitive_assay():
    assert learning.stable_1_16(*windows({}), **LENGTHS).measured.startswith(INSENSITIVE)  # without the equaliser
    for given in ({"without_time": 5.0}, {"reshaped": 0.0}):
        found = learning.stable_1_16(*windows({}, **given), baselines(), **LENGTHS)
        assert found.verdict == INCONCLUSIVE and found.measured.startswith(INSENSITIVE)


def test_stability_names_what_the_roformer_loses():
    made, segments = windows({})
    for window, mean in ((1.0, 4.8), (2.0, 5.0), (16.0, 3.5)):
        made += trained({"BS-RoFormer": mean}, field="model", window=window, hop=window)
    reasons = learning.stable_1_16(made, segments, baselines(), **LENGTHS).reasons
    assert any(r.startswith("As context, BS-RoFormer changes at most -1.") and r.endswith("at 16 s.") for r in reasons)


def test_a_window_that_is_padding_is_not_of_its_length():
    """Songs of 24 s have no second window of 16 s, so nothing is known of 16 s."""
    made, segments = windows({16.0: -9.0}, seconds=24.0)
    assert 16.0 not in learning.windows_of(made) and 2.0 in learning.windows_of(made)
    assert learning.stable_1_16(made, segments, baselines(), **LENGTHS).verdict == INCONCLUSIVE
    assert learning.share_of_sound(24, 8) == 1 and learning.share_of_sound(24, 16) == 0.75
    assert learning.share_of_sound(7.9, 0.5) > 0.98


@pytest.mark.parametrize(("gain", "verdict"), [(0.0, SUPPORTED), (-2.0, SUPPORTED), (1.0, NOT_SUPPORTED)])
def test_overlap(gain, verdict):
    given = {"field": "model", "window": 8.0}
    made = trained({"BSMamba2": 5.0, "none": 2.0}, hop=8.0, **given)
    assert learning.nonoverlap_8(made, baselines(), window=8, margin=0.41).verdict == BLOCKED
    made += trained({"BSMamba2": 5.0 + gain}, hop=4.0, **given)
    assert learning.nonoverlap_8(made, baselines(), window=8, margin=0.41).verdict == verdict


def regions(short, long, *, songs=6, cut=False, models=(learning.OURS, learning.THEIRS)):
    """Two short regions and a long one in every song; BSMamba2 is better by so much in each."""
    rng = np.random.default_rng(0)
    return [
        {"track": f"song {s}", "model": model, "seed": seed, "region": i, "duration": duration, "cut": cut}
        | {"sdr": s + (model == learning.OURS) * (long if duration > 2 else short) + 0.02 * rng.normal()}
        for s in range(songs)
        for model in models
        for seed in range(3)
        for i, duration in enumerate((0.5, 1.5, 5.0))
    ]


@pytest.mark.parametrize(
    ("short", "long", "verdict"),
    [(1, 0, SUPPORTED), (-1, 0, NOT_SUPPORTED), (1, 1, INCONCLUSIVE), (1, 3, NOT_SUPPORTED), (0, 0, INCONCLUSIVE)],
)
def test_intermittent_vocals_need_an_advantage_of_their_own(short, long, verdict):
    scores = trained({learning.OURS: 5.0, learning.THEIRS: 4.0, "none": 2.0})
    found = learning_regions.intermittent(regions(short, long), scores, baselines(), shorter=2)
    assert found.verdict == verdict
    assert learning_regions.intermittent(regions(short, long), scores, shorter=2).measured.startswith(INSENSITIVE)
    named = [row | {"separator": LABELS.get(row["separator"], row["separator"])} for row in scores]  # as 04_train does
    assert learning_regions.intermittent(regions(short, long), named, baselines(), shorter=2) == found
    far = [row | {"sdr_in_window": row["sdr"], "sdr": 2 * row["sdr"]} for row in regions(short, long)]
    judged = learning_regions.intermittent(far, scores, baselines(), shorter=2)
    assert judged.measured == found.measured and "In whole songs" in judged.reasons[-4]
    alone = regions(short, long, models=(learning.OURS,))
    assert learning_regions.intermittent(alone, scores, baselines(), shorter=2).verdict == BLOCKED
    assert learning_regions.intermittent(regions(short, long), shorter=2, published=True).verdict == verdict


def test_a_trend_is_told_whichever_way_it_points():
    up, down = (learning_regions.by_bin(learning_regions.advantage(regions(*gains)), "x") for gains in ((1, 3), (3, 1)))
    assert "4 s or more 3.00 dB" in up and "grows" not in down
    cut = learning_regions.advantage(regions(1, 3, cut=True))
    assert set(cut.index.get_level_values("duration")) == {5.0}  # a region that is cut short may have been long
    own = learning_regions.sdr_of(regions(1, 3, cut=True), "duration")
    assert own.index.equals(cut.index)  # the score and the advantage of a bin are of the same regions


def published(csdrs, usdr, status="measured"):
    scores = [{"separator": s, "csdr": c, "usdr": usdr} for c in csdrs for s in ("BSMamba2", "mixture")]
    return {"status": status, "missing": ["No weights."], "scores": scores}


@pytest.mark.parametrize(
    ("csdrs", "usdr", "verdict"),
    [
        ((11.0, 11.0, 11.1), 10.75, SUPPORTED),
        ((11.0, 11.0, 14.0), 10.75, INCONCLUSIVE),  # the median fits and the mean does not: not the kinder of the two
        ((11.0, 11.0, 11.0), 9.0, NOT_SUPPORTED),
        ((9.0, 9.0, 9.0), 10.7, NOT_SUPPORTED),
    ],
)
def test_published_scores(csdrs, usdr, verdict):
    given = {"csdr": 11.03, "usdr": 10.7, "tolerance": 0.1}
    assert paper.sdr_1103(published(csdrs, usdr), **given).verdict == verdict
    assert paper.sdr_1103(published(csdrs, usdr, "blocked"), **given).verdict == BLOCKED


def test_ten_epochs_reach_it_where_mean_and_median_do():
    given = {"csdr": 11.03, "usdr": 10.7, "tolerance": 0.1}
    for csdrs, verdict in (((12.0,) * 3, SUPPORTED), ((11.0, 11.0, 9.0), INCONCLUSIVE), ((9.0,) * 3, NOT_SUPPORTED)):
        assert paper.ten_epochs(published(csdrs, 12.0)["scores"], **given).verdict == verdict
    assert paper.ten_epochs(published((12.0,) * 3, 9.0)["scores"], **given).verdict == NOT_SUPPORTED


def recalled(arm, seed, sdr_far, learned=True, cut=3.0, right=1.0):
    """Answers of a run of the probe: right within the range, and an SDR and a share right of its own after longer gaps.

    An input of 4 s with a near cue costs 2 dB.
    """

    def answer(name, gap, sdr, right, lead=0.5):
        target = [0.9 if n < right * 4 else 0.1 for n in range(4)]
        return {"separator": arm, "seed": seed, "name": name, "gap": gap, "lead": lead, "sdr": [sdr] * 4,
                "target": target, "other": [0.5] * 4}  # fmt: skip

    near = [answer(f"gap {gap:g}", gap, 14.0, learned) for gap in (0.25, 0.5)]
    far = [answer(f"gap {gap}", gap, sdr_far + seed / 10 * (arm == "mamba2"), right) for gap in (1, 2, 4)]
    return [*near, *far, answer("cut 0.5", 0.5, cut + seed / 10, False), answer("lead 4", 0.5, 12.0, True, lead=4.0)]


@pytest.mark.parametrize(
    ("ours", "theirs", "right", "verdict"),
    [
        (12, 6, (1, 0.5), SUPPORTED),
        (12, 6, (1, 1), INCONCLUSIVE),  # some dB, but attention follows the voice just as well
        (12, 6, (0.75, 0.5), INCONCLUSIVE),  # BSMamba2 loses the voice as well
        (6, 12, (1, 0.5), NOT_SUPPORTED),
        (6, 6.4, (1, 0.5), INCONCLUSIVE),
    ],
)
def test_memory_is_judged_at_its_endpoint(ours, theirs, right, verdict):
    arms = zip(("mamba2", "attention"), (ours, theirs), right, strict=True)
    answers = [a for arm, sdr, share in arms for s in range(6) for a in recalled(arm, s, sdr, right=share)]
    found = probe.memory(answers, learned=0.9)
    assert found.verdict == verdict and "learned in 6 of 6 seeds" in found.reasons[1]
    cost = f"`attention` changes -2.00 dB [-2.00, -2.00] by the input's length alone, and {theirs - 12:.2f} dB"
    assert any(cost in reason for reason in found.reasons)


def test_a_seed_that_did_not_learn_says_nothing_about_memory():
    answers = [a for s in range(6) for arm in ("mamba2", "attention") for a in recalled(arm, s, 9, learned=s > 0)]
    assert "learned in 5 of 6 seeds" in probe.memory(answers, learned=0.9).reasons[1]
    nobody = [a for arm in ("mamba2", "attention") for a in recalled(arm, 0, 9, learned=False)]
    assert probe.memory(nobody, learned=0.9).measured == "no seed learned"


def test_memory_needs_a_control_that_loses():
    arms = (("mamba2", 12), ("attention", 6))
    answers = [a for s in range(6) for arm, sdr in arms for a in recalled(arm, s, sdr, cut=14)]
    found = probe.memory(answers, learned=0.9)
    assert found.verdict == INCONCLUSIVE and "the probe shows nothing" in found.reasons[-1]
