"""The gate of verdicts about learning, on made-up scores: what it lets through, and what it stops."""

import numpy as np
import pytest

from bsm.study.assay import INSENSITIVE, assay, gain_of
from bsm.study.baselines import EQUALISER
from bsm.study.claims.claim import Finding, Verdict
from bsm.study.claims.learning import gated
from bsm.study.compare import tidy
from made import scored

SUPPORTED, NOT_SUPPORTED, INCONSISTENT, INCONCLUSIVE, BLOCKED = Verdict

SENSITIVE = {"ours": 4.0, "theirs": 3.0, "none": 2.0, EQUALISER: {None: 0.0}}


def scores(means, *, songs=8, noise=0.1, **given):
    """Tidy scores of separators with these means."""
    return tidy(scored(means, field="system", songs=songs, noise=noise, **given))


def test_a_sensitive_assay_lets_a_verdict_through():
    gate = assay(scores(SENSITIVE), ["ours", "theirs"], "none")
    assert gate.sensitive, gate.reasons
    found = gated(Finding(SUPPORTED, "1 dB"), gate)
    assert (found.verdict, found.measured) == (SUPPORTED, "1 dB")
    assert any("`none` is seen to lose" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        ({"theirs": 1.5}, {}, "`theirs` minus static equaliser, 3 trainings: 1."),  # an arm that learned too little
        ({}, {"noise": 4.0}, "` minus static equaliser"),  # the low end is not 1 dB
        ({"none": 4.0}, {}, "`none` is not seen to lose"),
        ({}, {"seeds": [0]}, "1 training: "),
        ({}, {"songs": 4}, "needs 2 dB"),  # too few songs for an interval
    ],
)
def test_an_insensitive_assay_says_so_whatever_it_measured(changed, options, said):
    gate = assay(scores(SENSITIVE | changed, **options), ["ours", "theirs"], "none")
    assert not gate.sensitive
    for verdict in (SUPPORTED, NOT_SUPPORTED):
        found = gated(Finding(verdict, "1 dB"), gate)
        assert found.verdict == INCONCLUSIVE and found.measured.startswith(INSENSITIVE)
        assert found.reasons[0] == "Measured: 1 dB." and said in " ".join(found.reasons)


def test_what_was_not_scored_shows_no_sensitivity():
    frame = scores(SENSITIVE)
    gate = assay(frame[frame["system"] != EQUALISER], ["ours", "theirs"], "none")
    assert not gate.sensitive and "There are no scores of static equaliser on these songs" in gate.reasons
    gate = assay(frame[frame["system"] != "none"], ["ours", "theirs"], "none")
    assert not gate.sensitive and "The positive control `none` was not trained" in gate.reasons


def test_pairing_sees_what_the_spread_of_songs_hides():
    gain = gain_of(scores(SENSITIVE), "ours", "theirs")
    assert gain.estimate == pytest.approx(1, abs=0.1) and gain.low > 0.8 and gain.n == 24


def test_clips_of_one_singer_are_one_cluster():
    clips = scores(SENSITIVE, songs=12)
    names = {f"song {i}": f"{('bug', 'fdps', 'tammy')[i % 3]}_{i}_01" for i in range(12)}
    clips = tidy(clips.drop(columns="song").assign(track=clips["track"].map(names)).to_dict("records"))
    gain = gain_of(clips, "ours", "theirs")
    assert np.isnan(gain.low) and gain.clusters == 3  # three singers give no interval
