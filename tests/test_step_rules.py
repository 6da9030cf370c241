"""The rules on a training step: what they say for measurements whose verdict is known."""

import pytest

from bsm.study.bench.parts import OPTIMISER, SCAN
from bsm.study.bench.step import BEFORE, OURS, REDUCED
from bsm.study.claims import CONTRADICTED, PARTLY, REPRODUCED
from bsm.study.rules import step as rules


def variants(before, reduced, ours, *, scan=0.65):
    """Three steps of so many seconds in three rounds, a share of which is the scan's and the rest the optimiser's."""

    def record(variant, seconds):
        rounds = [seconds * f for f in (0.99, 1.0, 1.01)]
        shares = {SCAN: scan, OPTIMISER: 1 - scan}
        parts = [{"part": p, "direction": "forward", "seconds": [s * r for r in rounds]} for p, s in shares.items()]
        facts = {"preset": "tiny", "batch": 1, "audio_seconds": 4.0}
        return {"variant": variant.name, "seconds": rounds, "parts": parts} | facts

    return [record(v, s) for v, s in ((BEFORE, before), (REDUCED, reduced), (OURS, ours))]


@pytest.mark.parametrize(("after", "status"), [(10.0, PARTLY), (30.0, CONTRADICTED)])
def test_train_5x(after, status):
    finding = rules.train_5x(variants(60.0, after, 15.0), faster=5)
    assert finding.status == status
    assert "4.00x" in finding.measured  # ours


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


@pytest.mark.parametrize(("scan", "status"), [(0.65, PARTLY), (0.9, CONTRADICTED), (0.2, CONTRADICTED)])
def test_scan_65pct(scan, status):
    assert rules.scan_65pct(variants(60.0, 12.0, 12.0, scan=scan), least=60, most=70).status == status


@pytest.mark.parametrize(("after", "status"), [(5.0, CONTRADICTED), (2.0, PARTLY)])
def test_stft_loss_3x(after, status):
    losses = [{"seconds": [s, 1.01 * s]} for s in (10.0, after, 12.0, 4.0)]
    finding = rules.stft_loss_3x(losses, faster=3)
    assert finding.status == status
    assert "2.50x" in finding.measured  # the exact one


@pytest.mark.parametrize(("mono", "status"), [([1.0, 1.01], REPRODUCED), ([1.9, 1.9], CONTRADICTED)])
def test_mono_halves(mono, status):
    sides = [{"mixture": 0.1, "vocals": 0.0}, {"mixture": 0.3, "vocals": 0.02}]
    finding = rules.mono_halves({"stereo": [2.0, 2.0], "mono": mono}, sides, least=1.8, most=2.2)
    assert finding.status == status
    assert "20.0 %" in finding.measured


@pytest.mark.parametrize(("scale", "status"), [(1, CONTRADICTED), (2, PARTLY)])
def test_vram_32gb(scale, status):
    """The paper's model takes 50 MiB a frame; twice that does not fit, nor does the reduced one."""
    memory = [
        {"preset": preset, "precision": "32-true", "checkpointing": again, "batch": 1, "frames": frames}
        | {"kept_bytes": 2**30, "peak_bytes": scale * frames * size * 2**20}
        for preset, again, size in (("paper", False, 50), ("paper", True, 100), ("vram", False, 30))
        for frames in (21, 41)
    ]
    assert rules.vram_32gb(memory, gigabytes=32).status == status
    assert rules.vram_32gb(memory[:2], gigabytes=32).status == PARTLY
