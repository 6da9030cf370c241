"""The probe of memory: what its examples hold, and that its scores tell memory from chance."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bsm import cue_gap
from bsm.cue_gap import (
    RATE,
    TRAINING,
    Condition,
    Probe,
    curriculum,
    example,
    score,
    tone,
    train,
    training_batch,
    voices,
)
from bsm.errors import InputError
from bsm.loss import bsmamba2_loss
from bsm.networks import from_factory
from bsm.study.long import carriers, probe

PROBE = Probe()
SHORT = TRAINING.replace(steps=30, seed=1, lr=1e-2, batch_size=2, warmup=2, validate_every=10)


def brightness(sound):
    """Return the share of energy above 1.4 kHz, between the formants of the two timbres."""
    power = np.abs(np.fft.rfft(sound)) ** 2
    return power[round(1400 / RATE * len(sound)) :].sum() / power.sum()


@settings(max_examples=15, deadline=None)
@given(
    gap=st.floats(0.05, 3),
    lead=st.floats(0, 2),
    timbre=st.integers(0, 1),
    index=st.integers(0, 10**6),
    cut=st.booleans(),
)
def test_stretches(gap, lead, timbre, index, cut):
    made = example([2, 0, index], Condition(gap, lead, deleted=cut), PROBE, timbre)
    whole = example([2, 0, index], Condition(gap, lead), PROBE, timbre)
    samples = sum(round(RATE * s) for s in (lead, 0.4, 0.6, *([] if cut else [gap])))
    assert made.mixture.shape == made.target.shape == made.other.shape == (samples,)
    assert made.mixture.dtype == np.float32 and made.cue.start == round(RATE * lead) and made.play.stop == samples
    voices = np.zeros(samples, bool)
    voices[made.cue] = voices[made.play] = True
    assert not made.target[~voices].any() and not made.other[: made.play.start].any()
    for sound, stretch in ((made.target, made.cue), (made.target, made.play), (made.other, made.play)):
        assert np.sqrt(np.square(sound[stretch]).mean()) == pytest.approx(cue_gap.LEVEL, rel=1e-3)
    noise = made.mixture - made.target - made.other
    assert 0.005 < noise.std() < 0.05
    assert np.array_equal(made.mixture[made.play], whole.mixture[whole.play])


@pytest.fixture
def few_phrases(monkeypatch):
    """Sing little: two phrases of two words in each split."""
    voices.phrases.cache_clear()
    monkeypatch.setattr(voices, "PHRASES", (2, 2, 2))
    monkeypatch.setattr(voices, "WORDS_EACH", 2)
    yield
    voices.phrases.cache_clear()


def test_sung_voices_fill_the_stretches_and_come_again(few_phrases):
    probe = Probe(voices="sung")
    first, again, other = (example([2, 0, i], Condition(0.25), probe, 1) for i in (0, 0, 1))
    assert np.array_equal(first.mixture, again.mixture) and not np.array_equal(first.target, other.target)
    for sound, stretch in ((first.target, first.cue), (first.target, first.play), (first.other, first.play)):
        assert np.sqrt(np.square(sound[stretch]).mean()) == pytest.approx(cue_gap.LEVEL, rel=1e-3)
    voices.phrases.cache_clear()  # sung anew
    assert np.array_equal(example([2, 0, 0], Condition(0.25), probe, 1).mixture, first.mixture)
    assert not np.array_equal(example([0, 0, 0], Condition(0.25), probe, 1).target, first.target)
    with pytest.raises(ValueError, match="shorten cue and play"):
        example([2, 0, 0], Condition(0.25), Probe(play=30.0, voices="sung"), 0)


def test_only_two_kinds_of_voices():
    with pytest.raises(ValueError, match="unknown voices 'spoken'; choose one of tones, sung"):
        Probe(voices="spoken")


@pytest.mark.slow
def test_a_cue_tells_the_singers_apart_whatever_they_sing():
    def heard(split, count):
        features, singers = [], []
        for index in range(count):
            for timbre in (0, 1):
                made = example([split, 0, index], Condition(0.25), Probe(voices="sung"), timbre)
                spectrum = torch.from_numpy(made.target[made.cue].copy())
                power = torch.stft(spectrum, 512, 128, window=torch.hann_window(512), return_complex=True).abs() ** 2
                bands = torch.stack([band.sum(0) for band in power.split(6)])
                levels, weights = (bands + 1e-5).log(), bands.sum(0) / bands.sum()
                features.append(torch.cat([(levels * weights).sum(1), levels.std(1), torch.ones(1)]).numpy())
                singers.append(2 * timbre - 1)
        return np.stack(features), np.array(singers)

    (seen, labels), (new, wanted) = heard(0, 800), heard(2, 150)
    weights = np.linalg.solve(seen.T @ seen + np.eye(seen.shape[1]), seen.T @ labels)
    assert ((new @ weights) * wanted > 0).mean() > 0.95  # other words than in training


@pytest.mark.parametrize("timbre", [0, 1])
def test_only_the_timbres_tell_the_voices_apart(timbre):
    bright = {name: [] for name in ("cue", "target", "other")}
    for index in range(20):
        made = example([2, 0, index], Condition(0.2), PROBE, timbre)
        for name, sound in (("cue", made.target[made.cue]), ("target", made.target[made.play])):
            bright[name].append(brightness(sound))
        bright["other"].append(brightness(made.other[made.play]))
    high, low = ("other", ("cue", "target")) if timbre == 0 else ("cue", ("other",))
    assert min(bright[high]) > max(max(bright[name]) for name in low)


def test_the_notes_do_not_depend_on_the_timbre():
    """The strongest harmonics move with the formants; the rests and the notes' edges stay."""
    first, second = (tone(np.random.default_rng(7), 40_000, timbre) for timbre in (0, 1))
    assert np.array_equal(first == 0, second == 0) and (first == 0).any()


def test_examples_are_fixed_by_version_and_seed():
    """Another sum means another generator: raise ``VERSION``."""
    made = example([2, 3, 5], Condition(0.25, 0.5), PROBE, 1)
    again = example([2, 3, 5], Condition(0.25, 0.5), PROBE, 1)
    assert np.array_equal(made.mixture, again.mixture)
    assert not np.array_equal(made.mixture, example([2, 3, 6], Condition(0.25, 0.5), PROBE, 1).mixture)
    assert cue_gap.VERSION == 1
    assert np.abs(made.mixture * 2**15).sum(dtype=np.int64) == 28_744_565


def test_a_swapped_cue_changes_the_cue_alone():
    plain, swapped = (example([2, 0, 4], Condition(0.3, swapped=s), PROBE, 0) for s in (False, True))
    differs = np.flatnonzero(plain.mixture != swapped.mixture)
    assert plain.cue.start <= differs[0] and differs[-1] < plain.cue.stop
    assert np.array_equal(plain.target[plain.play], swapped.other[swapped.play])
    assert brightness(swapped.target[swapped.cue]) > brightness(plain.target[plain.cue])


def test_training_batches_stay_in_range_and_are_balanced():
    timbres, lengths = [], []
    for update in range(60):
        mixture, target = training_batch(0, update, 4, PROBE, longest_gap=0.5)
        assert mixture.shape == target.shape == (4, 1, mixture.shape[2])
        lengths.append(mixture.shape[2] / RATE)
        timbres += [brightness(t[0, -4800:].numpy()) > 0.5 for t in target]
    assert 1.1 <= min(lengths) < 1.5 and 2.0 < max(lengths) <= 2.5
    assert 0.4 < np.mean(timbres) < 0.6
    assert torch.equal(training_batch(0, 5, 4, PROBE, 0.5)[0], training_batch(0, 5, 4, PROBE, 0.5)[0])


def test_a_curriculum_grows_to_the_range():
    assert {curriculum(Probe(0.5), p) for p in (0, 0.5, 1)} == {0.5}
    for longest in (2, 8):
        steps = [curriculum(Probe(longest), p) for p in np.linspace(0, 1, 101)]
        assert steps[0] == 0.5 and steps == sorted(steps) and steps[67] == longest


class Listener(nn.Module):
    """Knows the generator: takes the timbre from the cue, or from nowhere, and gives the voice of that timbre."""

    def __init__(self, condition, remembers):
        super().__init__()
        self.condition, self.remembers = condition, remembers

    def forward(self, mixture):
        voices = []
        for index, sound in enumerate(mixture[:, 0].numpy()):
            made = example([cue_gap.TEST, 0, index], self.condition, PROBE, index % 2)
            cue_is_bright = brightness(sound[made.cue]) > 0.5
            target_is_bright = brightness(made.target[made.play]) > 0.5
            follows = cue_is_bright == target_is_bright if self.remembers else index % 4 < 2
            voices.append(made.target if follows else made.other)
        return torch.from_numpy(np.stack(voices))[:, None]


@pytest.mark.parametrize("swapped", [False, True])
def test_scores_tell_memory_from_chance(swapped):
    condition = Condition(0.3, swapped=swapped)
    scores = score(Listener(condition, remembers=True), condition, PROBE, examples=12)
    assert cue_gap.summary(scores).items() >= {"examples": 12, "right": 1, "clear": 1}.items()
    assert min(scores["sdr"]) > 50
    assert np.abs(np.subtract(scores["target"], 1)).max() < 1e-4 and max(scores["other"]) < 0.5
    guesses = score(Listener(condition, remembers=False), condition, PROBE, examples=12)
    assert cue_gap.summary(guesses)["right"] == 0.5


class Filter(nn.Module):
    """A network of one layer: enough to train, not to remember."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(1, 1, 31, padding=15)

    def forward(self, x):
        return self.layer(x)


def test_training_lowers_the_loss_and_repeats():
    histories = []
    for _ in range(2):
        torch.manual_seed(0)
        network = Filter()
        histories.append(train(network, PROBE, SHORT))
    assert histories[0] == histories[1]
    losses = [record["loss"] for record in histories[0]]
    assert [record["update"] for record in histories[0]] == [10, 20, 30] and losses[-1] < losses[0]


def test_an_update_that_is_not_finite_is_left_out(caplog):
    """One overflow must not turn the weights into NaN, which would read as choices that are always wrong."""

    class Overflows(Filter):
        calls, bad = 0, ()

        def forward(self, x):
            self.calls += self.training
            return super().forward(x) * (float("inf") if self.training and self.calls in self.bad else 1)

    network = Overflows()
    network.bad = (3,)
    history = train(network, PROBE, SHORT)
    assert all(np.isfinite(record["loss"]) for record in history)
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    network.bad = range(1000)
    with pytest.raises(FloatingPointError, match="not finite in 10 updates in a row, until update 10"):
        train(network, PROBE, SHORT)


# ---- the study's interventions (bsm.study.long.probe)


def tokens(model, seconds):
    return torch.randn(1, 1, round(seconds * RATE), generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("arm", ["mamba2", "lstm", "attention", "attention-nopos"])
def test_a_cut_memory_carries_nothing_across(arm):
    """With the memory cut in a gap, the output after it does not depend on what came before it."""
    model = probe.network(arm, seed=0).eval()
    frame, hop = 40, model.config.stft.hop_length
    first, second = tokens(model, 3), tokens(model, 3)
    second[..., : 20 * hop] *= -0.3  # far before the cut: short convolutions and frames reach over it
    with torch.no_grad():
        plain = [model(sound) for sound in (first, second)]
        with carriers.replaced(model, lambda part: carriers.Cut(part, frame)):
            cut = [model(sound) for sound in (first, second)]
        again = model(first)
    differences = [(a - b)[..., 60 * hop :].abs().max() for a, b in (plain, cut)]
    assert torch.equal(plain[0], again)
    assert differences[0] > 0 and differences[1] <= 1e-3 * differences[0]  # the chunked scan rounds


@pytest.mark.parametrize("arm", ["none", "convolution", "bs-roformer"])
def test_arms_without_a_memory_cannot_be_cut(arm):
    with pytest.raises(ValueError, match="no memory"), carriers.replaced(probe.network(arm, seed=0), id):
        pass


def test_traces_follow_the_cue():
    (mamba, _) = carriers.traces(probe.network("mamba2", seed=0).eval(), PROBE, 0.5, pairs=2)
    assert mamba["times"] == [0, 0.1, 0.25, 0.5] and len(mamba["half_life"]) == 2
    assert mamba["difference"] == sorted(mamba["difference"], reverse=True) and mamba["difference"][0] > 0.05
    (attention, _) = carriers.traces(probe.network("attention", seed=0).eval(), PROBE, 0.5, pairs=2)
    assert attention["mass"] == pytest.approx([attention["uniform"]] * 2, rel=0.2)  # before training
    assert carriers.traces(probe.network("none", seed=0).eval(), PROBE, 0.5, pairs=2) == []


def test_questions_reach_the_endpoint():
    for arm in probe.ARMS:
        changed = probe.interventions(arm, Probe(2.0))
        asked = cue_gap.questions(Probe(2.0)) + [question for question, _ in changed]
        assert len({question.name for question in asked}) == len(asked)
        (end,) = (question for question in asked if question.examples == 400)
        assert end.condition.gap == cue_gap.ENDPOINT * 2.0
        assert ("cut" in {change for _, change in changed}) == (arm not in ("none", "convolution", "bs-roformer"))


def test_answers_hold_every_example():
    question = cue_gap.Question("q", Condition(0.25, swapped=True), 6)
    found = probe.answer(probe.network("none", seed=0), question, PROBE)
    assert found["frames"] == round(1.75 * RATE / 256) and found["swapped"]
    assert [len(found[name]) for name in ("sdr", "target", "other")] == [6, 6, 6]


# ---- anyone's network


def adapter():
    return Filter()


def of_another_shape():
    return nn.Conv1d(1, 2, 1)


def test_any_network_is_trained_and_scored(tmp_path, invoke):
    path = tmp_path / "filter.json"
    options = ["--steps", "4", "--seed", "3", "-o", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        few = [cue_gap.Question("gap 0.25", Condition(0.25), 4)]
        patch.setattr(cue_gap, "questions", lambda probe: few)
        done = invoke("cue-gap", "--network", f"{__name__}:adapter", *options, catch_exceptions=False)
    assert done.exit_code == 0 and "gap 0.25" in done.output
    record = json.loads(path.read_text())
    assert record["seed"] == 3 and record["parameters"]["arm"] == f"{__name__}:adapter"
    assert [len(a["sdr"]) for a in record["values"]["answers"]] == [4]


@pytest.mark.parametrize("name", ["bs_roformer", "mel_band_roformer", "Lstm"])
def test_the_networks_of_the_docs_fit(tmp_path, monkeypatch, name):
    """Networks that are not ours: the page's code gives a gradient to every weight that the output depends on."""
    page = (Path(__file__).parents[1] / "docs" / "cue-gap.md").read_text()
    (tmp_path / f"adapters_{name}.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    mixture, target = training_batch(0, 0, 2, PROBE, 0.5)
    network = from_factory(f"adapters_{name}:{name}", mixture)
    bsmamba2_loss(network.train()(mixture), target, TRAINING.loss).backward()
    assert sum(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters()) > 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bsm.networks", "names no network"),
        ("no_such_module:net", "ModuleNotFoundError"),
        ("bsm.networks:missing", "AttributeError"),
        ("bsm.networks:build", "TypeError"),
        ("builtins:dict", "AttributeError"),
        (f"{__name__}:of_another_shape", "returns shape"),
    ],
)
def test_what_is_no_network_is_named(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        probe.benchmark(tmp_path / "a.json", name, seed=0, lr=1e-3, longest_gap=0.5, steps=2)
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("back", [0, 7, 100])
def test_receptive_field(back):
    filters = nn.Sequential(nn.ConstantPad1d((back, 3), 0.0), nn.Conv1d(1, 1, back + 4))
    assert cue_gap.receptive_field(filters, seconds=0.1) == (back / cue_gap.RATE, 3 / cue_gap.RATE)
    assert all(parameter.grad is None for parameter in filters.parameters())
    with torch.no_grad():
        filters[1].weight.zero_()
    with pytest.raises(InputError, match="does not depend on its input"):
        cue_gap.receptive_field(filters, seconds=0.1)
