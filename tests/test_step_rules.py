"""The rules on a training step: what they say for measurements whose verdict is known."""

import pytest

from bsm.study.claims import BLOCKED, CONTRADICTED, PARTLY, REPRODUCED, RULES
from bsm.study.rules import step as rules
from bsm.study.speed import spectra
from bsm.study.speed.parts import OPTIMISER, SCAN
from bsm.study.speed.step import BEFORE, OURS, REDUCED


def variants(before, reduced, ours, *, scan=0.65):
    """Three steps of so many seconds in three rounds, a share of which is the scan's and the rest the optimiser's."""

    def record(variant, seconds):
        rounds = [seconds * f for f in (0.99, 1.0, 1.01)]
        shares = {SCAN: scan, OPTIMISER: 1 - scan}
        parts = [{"part": p, "direction": "forward", "seconds": [s * r for r in rounds]} for p, s in shares.items()]
        facts = {"preset": "tiny", "batch": 1, "audio_seconds": 4.0}
        return {"variant": variant.name, "seconds": rounds, "parts": parts} | facts

    return [record(v, s) for v, s in ((BEFORE, before), (REDUCED, reduced), (OURS, ours))]


@pytest.mark.parametrize(("after", "status"), [(10.0, REPRODUCED), (30.0, CONTRADICTED)])
def test_train_5x(after, status):
    finding = rules.train_5x(variants(60.0, after, 15.0), faster=5)
    assert finding.status == status
    assert "4.00x" in finding.measured  # ours
    capped = RULES["train_5x"].judge(variants(60.0, after, 15.0), faster=5)
    assert capped.status == PARTLY  # a CPU speaks neither for nor against a claim about a GPU
    assert capped.measured.startswith(f"on this CPU: it {'holds' if status == REPRODUCED else 'does not hold'}; ")


@pytest.mark.parametrize(("scan", "status"), [(0.65, CONTRADICTED), (0.95, PARTLY)])
def test_step_60_12(scan, status):
    finding = rules.step_60_12(variants(60.0, 12.0, 12.0, scan=scan), unlisted=10)
    assert finding.status == status
    assert f"{100 - 100 * scan:.1f} %" in finding.measured


def test_epochs_750_150():
    finding = rules.epochs_750_150(before=750, after=150, tolerance=0.01)
    assert finding.status == PARTLY
    assert "000: 717 to 143 h; 001: 729 to 149 h; 002: 752 to 155 h" in finding.measured
    assert rules.epochs_750_150(before=750, after=155, tolerance=0.01).status == REPRODUCED
    assert rules.epochs_750_150(before=100, after=150, tolerance=0.01).status == CONTRADICTED


@pytest.mark.parametrize(("scan", "status"), [(0.65, REPRODUCED), (0.9, CONTRADICTED), (0.2, CONTRADICTED)])
def test_scan_65pct(scan, status):
    steps = variants(60.0, 12.0, 12.0, scan=scan)
    assert rules.scan_65pct(steps, least=60, most=70).status == status
    careful, chunked, _ = variants(60.0, 12.0, 12.0, scan=0.5)
    found = rules.scan_65pct(
        steps, [careful | {"scan": "sequential"}, chunked | {"scan": "chunked"}], least=60, most=70
    )
    assert "50.0 % (50.0 to 50.0; all of n = 3) with a careful one" in found.measured
    assert found.status == (CONTRADICTED if scan == 0.2 else PARTLY)  # both shares lie below, or the loops disagree
    assert ("50.0 to 90.0 %, straddle it" in found.why) == (scan == 0.9)


@pytest.mark.parametrize(
    ("after", "status", "text"), [(6.0, CONTRADICTED, "does not hold"), (2.0, REPRODUCED, "holds")]
)
def test_stft_loss_3x(after, status, text):
    times = {
        spectra.DESCRIBED_LOSS: 10.0,
        spectra.COMPLEX_LOSS: 9.0,
        spectra.AFTER_LOSS: after,
        spectra.EXACT_LOSS: 4.0,
    }
    losses = [{"loss": name, "seconds": [s, 1.01 * s]} for name, s in times.items()]
    finding = rules.stft_loss_3x(losses, faster=3, least=2)
    assert finding.status == status
    assert finding.measured.startswith(f"{10 / after:.2f}x") and "in bsm: 2.50x" in finding.measured
    assert f"{9 / after:.2f}x" in finding.measured  # from one complex comparison
    assert f"2 times or more: it {text}" in finding.why
    older = rules.stft_loss_3x(losses[1:], faster=3, least=2)
    assert older.status == BLOCKED and "needs a new run" in older.why


@pytest.mark.parametrize(("mono", "status"), [([1.0, 1.01], REPRODUCED), ([1.9, 1.9], CONTRADICTED)])
def test_mono_halves(mono, status):
    sides = [{"mixture": 0.1, "vocals": 0.0}, {"mixture": 0.3, "vocals": 0.02}]
    stft = {"stereo": [3.0, 3.0], "mono": [2.0, 2.0]}
    trained = [{"variant": "mono", "estimate": 0.1, "low": 0.02, "high": 0.2, "n": 9, "dropped": 0, "method": ""}]
    older = rules.mono_halves(stft, sides, least=1.8, most=2.2)
    assert older.status == BLOCKED and "needs a new run" in older.why
    stft |= {spectra.EACH: [2.0, 2.0], spectra.AVERAGED: mono}
    finding = rules.mono_halves(stft, sides, trained, least=1.8, most=2.2)
    assert finding.status == status
    assert "20.0 %" in finding.measured and "in one call: 1.50x" in finding.measured
    assert "+0.10 (0.02 to 0.20; n = 9) dB uSDR (better)" in finding.measured


@pytest.mark.parametrize(("scale", "status"), [(1, CONTRADICTED), (2, PARTLY)])
def test_vram_32gb(scale, status):
    """With checkpointing, the paper's model takes 25 MiB a frame; twice that does not fit, nor does the reduced one."""
    memory = [
        {"preset": preset, "precision": "32-true", "checkpointing": again, "batch": 1, "frames": frames}
        | {"audio_seconds": (frames - 1) / 100}
        | {"kept_bytes": 2**30, "peak_bytes": scale * frames * size * 2**20}
        for preset, again, size in (("paper", False, 50), ("paper", True, 25), ("vram", False, 30))
        for frames in (21, 41)
    ]
    found = rules.vram_32gb(memory, gigabytes=32)
    assert found.status == status
    assert "0.2 and 0.4 s" in found.why and "20 times the longest" in found.why
    assert rules.vram_32gb(memory[:2], gigabytes=32).status == PARTLY
