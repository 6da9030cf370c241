"""Regions of the long study's songs: surroundings, counterfactuals and comparisons whose numbers are known."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bsm.activity import Region
from bsm.config import ModelConfig, StftConfig
from bsm.data.tracks import load_tracks
from bsm.inference import separate
from bsm.model import BSMamba2
from bsm.study import campaign
from bsm.study.baselines import EQUALISER
from bsm.study.compare import UNTRAINED
from bsm.study.long import arms, region_tables, songs
from bsm.study.long import regions as study
from bsm.study.long.carriers import Cut, replaced
from bsm.study.occurrence import AFTER, BEFORE, CAP, SDR
from bsm.weights.files import save_model
from made import scored, write_run

RATE = 1000
REGIONS = [Region(1.0, 2.0), Region(2.5, 3.5), Region(6.0, 8.0), Region(8.4, 8.9)]


@st.composite
def sung(draw):
    """Vocal regions of a song, in s: durations and the gaps before them."""
    spans = draw(st.lists(st.tuples(st.floats(0.2, 20), st.floats(0.1, 9)), max_size=12))
    found, time = [], 0.0
    for gap, duration in spans:
        found.append(Region(time + gap, time + gap + duration))
        time += gap + duration
    return found, time + 1.0


def test_surroundings_of_known_regions():
    first, second, third, fourth = study.surroundings(REGIONS, 10.0, window=4.0)
    assert [first["nearest"], second["nearest"], third["nearest"]] == pytest.approx([0.5, 0.5, 0.4])
    assert [r["elsewhere"] for r in (first, third)] == pytest.approx([3.5, 2.5])
    assert [r["elsewhere_in_window"] for r in (first, third, fourth)] == pytest.approx([1.0, 0.0, 0.0])
    assert first["share"] == pytest.approx(0.45)
    across = study.surroundings([Region(3.0, 5.0)], 10.0, window=4.0)[0]
    assert math.isnan(across["elsewhere_in_window"]) and math.isnan(across["nearest"])


@given(sung())
def test_surroundings_of_any_regions(song):
    regions, seconds = song
    for region, around in zip(regions, study.surroundings(regions, seconds), strict=True):
        others = [r for r in regions if r is not region]
        assert around["elsewhere"] == pytest.approx(sum(r.duration for r in others))
        assert around["elsewhere"] + region.duration == pytest.approx(around["share"] * seconds)
        gaps = [max(r.start - region.stop, region.start - r.stop) for r in others]
        assert around["nearest"] == pytest.approx(min(gaps)) if gaps else math.isnan(around["nearest"])
        inside = around["elsewhere_in_window"]
        assert math.isnan(inside) or -1e-9 <= inside <= study.WINDOW - region.duration + 1e-9


@given(sung(), st.integers(1, 4))
def test_counterfactuals_take_the_shortest_and_the_longest_gap(song, most):
    regions, _ = song
    chosen = study.sampled(regions, most)
    inner = range(1, len(regions) - 1)
    assert len(set(chosen)) == len(chosen) == min(most, len(inner)) and set(chosen) <= set(inner)
    gaps = [regions[i].start - regions[i - 1].stop for i in inner]
    if most > 1 and len(gaps) > 1:
        taken = [regions[i].start - regions[i - 1].stop for i in chosen]
        assert (min(taken), max(taken)) == (min(gaps), max(gaps))


class Context(nn.Module):
    """Gives the mixture where somebody sang before (or sings later, apart from the region itself), else half of it."""

    config = SimpleNamespace(sample_rate=RATE, channels=1, stft=SimpleNamespace(hop_length=10))

    def __init__(self, *, past):
        super().__init__()
        self.past = past

    def forward(self, x):
        """Find the ends of regions: frames that sound before frames that do not."""
        heard = x if self.past else x.flip(-1)
        sounds = (heard != 0).float()
        ended = nn.functional.pad((sounds[..., :-1] > sounds[..., 1:]).float().cumsum(-1), (1, 0)) > 0
        return x * torch.where(ended if self.past else ended.flip(-1), 1.0, 0.5)


def test_what_a_network_owes_to_the_past_and_to_the_future():
    """Half of the vocals is an SDR of 6.02 dB; no error at all counts as the cap."""
    vocals = np.zeros((1, 10 * RATE), np.float32)
    for region in REGIONS:
        vocals[:, round(region.start * RATE) : round(region.stop * RATE)] = 1.0
    half, names = 20 * math.log10(2), (study.NO_FUTURE, study.NO_PAST, study.FIRST_NO_PAST)
    for past, expected in ((True, (CAP, half, half)), (False, (half, CAP, CAP))):
        found = study.counterfactuals(Context(past=past), vocals, vocals, RATE, *REGIONS[1:3])
        assert [found[name] for name in names] == pytest.approx(expected)
    short = study.counterfactuals(Context(past=True), vocals, vocals, RATE, REGIONS[0], Region(2.5, 3.0))
    assert math.isnan(short[study.FIRST_NO_PAST])


SMALL = ModelConfig.preset("tiny").replace(
    sample_rate=8000, channels=1, stft=StftConfig(128, 32), bands=(16, 16, 33), time_block="mamba2"
)


@pytest.mark.parametrize("block", ["mamba2", "lstm", "attention", "none"])
def test_no_past_is_the_state_zeroed_in_the_whole_song(block):
    """What lies before the gap is not computed, and could not change anything after the cut."""
    torch.manual_seed(0)
    model = BSMamba2(SMALL.replace(time_block=block)).eval()
    mixture = np.random.default_rng(0).normal(0, 0.1, (1, 8000)).astype(np.float32)
    frame = 125  # 0.5 s
    found = study.without_past(model, mixture, 8000, 0.41, 0.5)
    after = slice(frame * 32 + 128, None)  # a transform's length after the edge
    heard = separate(model, torch.from_numpy(mixture), 8000, whole=True).numpy()
    if block == "none":
        assert found[:, after] == pytest.approx(heard[:, after], abs=1e-6)
        return
    with replaced(model, lambda part: Cut(part, frame)):
        zeroed = separate(model, torch.from_numpy(mixture), 8000, whole=True).numpy()
    assert found[:, after] == pytest.approx(zeroed[:, after], abs=1e-6)
    assert np.abs(heard - zeroed)[:, after].max() > 1e-4


FILE = """
revision: HEAD
experiments:
  - {name: a, kind: songs, arms: [none], seeds: [0], tuning: {seed: 100, rates: [0.002]}}
  - {name: a-regions, kind: regions, of: a, arms: [none], seeds: [0]}
  - {name: b-regions, kind: regions, arms: [baselines], seeds: [0]}
"""


def test_a_network_is_measured_once_it_is_trained(tmp_path):
    (tmp_path / "c.yaml").write_text(FILE)
    made = campaign.Campaign(tmp_path / "c.yaml")
    assert [run.name for run in made.todo()] == ["a-none-lr0.002", "b-regions-baselines-seed0"]
    weights = tmp_path / "results/a-none-seed0.safetensors"
    weights.parent.mkdir()
    weights.touch()
    ready = {run.name: run.settings for run in made.todo()}
    assert ready["a-regions-none-seed0"] == {"arm": "none", "seed": 0, "weights": str(weights)}
    assert ready["b-regions-baselines-seed0"] == {"arm": "baselines", "seed": 0}


@pytest.mark.slow
def test_the_measurement_from_end_to_end(tmp_path, monkeypatch):
    for name, value in {"SONGS": {"train": 1, "valid": 1, "test": 2}, "SECONDS": 24.0, "SCORED": 1}.items():
        monkeypatch.setattr(songs, name, value)
    model = BSMamba2(songs.model_config("mamba2").replace(depth=1))
    weights = tmp_path / "songs-1s-mamba2-seed0.safetensors"
    save_model(model, weights, {"data": "none", "seed": 0})
    for arm, name in (("mamba2", "songs-1s-regions"), (songs.BASELINES, "songs-baselines-regions")):
        settings = {"arm": arm, "seed": 0} | ({"weights": str(weights)} if arm == "mamba2" else {})
        result = tmp_path / f"results/{name}-{arm}-seed0.json"
        campaign.train(str(result), "regions", str(tmp_path), settings)
        text = result.read_text()
        assert str(tmp_path) not in text
        values = json.loads(text)["values"]
        regions, scores = values["regions"], values["scores"]
        assert {row["track"] for row in regions} == {row["track"] for row in scores} == {"demo-3000", "demo-3001"}
        assert all(row[SDR] is not None and 0 < row["share"] < 1 for row in regions)
        if arm == "mamba2":
            assert [(row["window"], row["hop"]) for row in scores] == [
                (None, None), (8.0, 8.0), (8.0, 4.0), (None, None), (8.0, 8.0)
            ]  # fmt: skip
            changed = [row for row in regions if study.NO_PAST in row]
            assert changed and len(changed) <= study.SAMPLED * 2
            assert all(study.IN_WINDOW in row for row in regions)
            fewer = study.of_network(model, load_tracks(tmp_path / songs.SONGS_FOLDER, "test"), changed=0)
            assert not any(study.NO_PAST in row for row in fewer["regions"]) and len(fewer["scores"]) == 4
        else:
            assert {row["separator"] for row in regions} == {row["separator"] for row in scores} == {*study.TRIVIAL}


def measured(folder, arm, level, seed=0, *, after_long_gaps=0.0, past=0.0, of="songs-1s-regions", change=dict, **own):
    """Write the result of a network of so many dB, and so many more after gaps from 4 s on; ``past`` is worth that.

    ``change`` returns what else is in a region's record, from the record.
    """
    regions, scores = [], scored({arm: {seed: level}}, songs=12, noise=0.05, window=None, hop=None)
    for score in scores:
        for region, gap in enumerate((0.5, 1.5, 5.0, 9.0)):
            sdr = score["usdr"] + after_long_gaps * (gap >= 4)
            row = {"track": score["track"], "region": region, "start": 10.0 * region, "duration": 1.0 + region}
            row |= {"cut": False, "gap": gap, "nearest": gap, "elsewhere": 9.0 - region, "elsewhere_in_window": 1.0}
            row |= {"share": 0.2, SDR: sdr, BEFORE: -20.0, AFTER: -20.0, study.FIRST: sdr, study.IN_WINDOW: sdr}
            if region in (1, 2):
                row |= {study.NO_FUTURE: sdr, study.NO_PAST: sdr - past, study.FIRST_NO_PAST: sdr - past}
            regions.append(row | change(row) | own)
    values = {"regions": regions, "scores": [row | own for row in scores]}
    return write_run(folder / f"{of}-{arm}-seed{seed}.json", arm, values, seed)


@pytest.fixture
def made(tmp_path):
    """Results in which the base is better by 1 dB, and after long gaps by 2 dB, which its memory alone is worth."""
    assert not region_tables.there(tmp_path, "songs-1s")
    for seed in range(3):
        measured(tmp_path, "mamba2", 5.0, seed, after_long_gaps=1.0, past=1.0)
        assert not region_tables.there(tmp_path, "songs-1s")
    for seed in range(2):  # a campaign that goes on
        measured(tmp_path, "none", 4.0, seed)
    measured(tmp_path, songs.BASELINES, 1.0, of="songs-baselines-regions", separator=EQUALISER)
    return tmp_path


@pytest.fixture
def singing(tmp_path):
    """Return a function that writes and reads results on real singing: by arm, the level in dB and a change."""

    def write(**arms_of):
        for arm, (level, change) in arms_of.items():
            measured(tmp_path, arm.replace("_", "-"), level, of="singers-1s", change=change)
        assert not region_tables.there(tmp_path, "singers-1s")
        values = {"scores": scored({EQUALISER: {None: 1.0}}, songs=12)}  # no regions
        write_run(tmp_path / "singers-baselines-baselines-seed0.json", songs.BASELINES, values)
        return [region_tables.read(tmp_path, "singers-1s", field) for field in ("regions", "scores")]

    return write


def test_the_arms_are_compared_by_bin(made):
    assert region_tables.there(made, "songs-1s")
    frame = region_tables.read(made, "songs-1s")
    assert arms.trained(frame) == ["BSMamba2", "no time block"]
    rows = region_tables.compare(frame, region_tables.CONDITIONS["songs"])
    found = {(row["by"], row["group"], row["quantity"]): row for row in rows}
    short, long = (found["gap before", group, SDR] for group in ("1 to 2 s", "8 s or more"))
    assert short["differences"]["no time block"]["estimate"] == pytest.approx(1, abs=0.1)
    assert long["differences"]["no time block"]["estimate"] == pytest.approx(2, abs=0.1)
    gain = long["differences"]["no time block"]
    assert (gain["tracks"], gain["songs"], gain["seeds"]) == (12, 12, 2)
    assert long["means"][EQUALISER]["estimate"] == pytest.approx(1, abs=0.1)
    leaked = found["gap before", "1 to 2 s", BEFORE]["differences"]["no time block"]
    assert (leaked["estimate"], leaked["verdict"]) == (0, "no difference seen")
    assert found["all regions", "all", SDR]["means"]["BSMamba2"]["estimate"] == pytest.approx(5.5, abs=0.1)
    assert len(region_tables.mean_table(rows)) == len(rows)
    measured(made, "none", 4.0, 2)  # of two trainings nothing follows after the correction
    rows = region_tables.compare(region_tables.read(made, "songs-1s"), region_tables.CONDITIONS["songs"][1:2])
    starred = region_tables.difference_table(rows).set_index(["by", "bin", "measure"])["minus no time block"]
    assert starred["gap before", "8 s or more", "SDR (dB)"].endswith(" †")


def test_an_advantage_after_long_gaps_is_told_from_one_everywhere(made):
    found = region_tables.contrasts(region_tables.read(made, "songs-1s"), region_tables.CONTRASTS["songs"]).set_index(
        "where"
    )
    assert found.loc["after gaps of 4 s or more", "more than elsewhere (dB)"].startswith("1.0")
    assert found.loc["after gaps of 4 s or more", "verdict"].startswith("better")
    assert found.loc["in regions under 2 s", "more than elsewhere (dB)"].startswith("-0.6")  # those after 0.5 s


SHORT = [region_tables.Contrast("duration", "in regions under 2 s", 0, 2)]


def test_a_contrast_by_duration_takes_regions_whose_duration_is_known(singing):
    """A region that the recording cuts short counts from 4 s on, among the long ones, and not before."""

    def changed(gain):  # of each song one region of 1 s, two that are cut, one of 3 s
        return lambda row: {"cut": row["duration"] in (2.0, 4.0), SDR: row[SDR] + gain * row["duration"]}

    frame, _ = singing(mamba2=(5.0, changed(1)), bs_roformer=(3.0, changed(0)))
    (row,) = region_tables.contrasts(frame, SHORT).to_dict("records")
    assert row["regions (songs)"] == "12 (12)"  # those of 2 s are left out
    assert row["more than elsewhere (dB)"].startswith("-2.50 [")  # 1 dB, against 3 and 4 dB


def test_the_trainings_of_a_cross_validation_widen_its_intervals(singing):
    """Each fold has its own luck; over songs alone, the intervals would not know it."""

    def lucky(luck):
        def change(row):
            fold = int(row["track"][5:]) % 4
            return {"fold": fold, SDR: row[SDR] + luck * fold * (1 if row["duration"] < 2 else 3)}

        return change

    frame, _ = singing(mamba2=(5.0, lucky(1)), none=(4.0, lucky(0)))
    ends = []
    for part in (frame, frame.drop(columns="fold")):
        everywhere = region_tables.compare(part, ())[0]["differences"]["no time block"]
        (row,) = region_tables.contrasts(part, SHORT).to_dict("records")
        lows = [float(row[name].split("[")[1].split(",")[0]) for name in ("gain (dB)", "more than elsewhere (dB)")]
        ends.append([everywhere["low"], *lows])
    assert all(with_folds < without - 0.3 for with_folds, without in zip(*ends, strict=True))


def test_captions_and_the_answer_say_how_often_the_networks_were_trained(made):
    frame, scores = (region_tables.read(made, "songs-1s", field) for field in ("regions", "scores"))
    rows = region_tables.compare(frame, ())
    alone = scores[scores["seed"].isin(["0", UNTRAINED])]
    folds = scores.assign(fold=scores["track"].str[5:].astype(int) % 4)
    for found, counts, covers, said in (  # the campaign goes on: the base has three trainings, the other two
        (scores, (2, 1), "songs and 2 training seeds, ", "2 trainings: 2 seeds."),
        (alone, (1, 1), "songs alone: with one training seed, ", "one training."),
        (folds, (2, 4), "singers and 2 training seeds of 4 trainings", "8 trainings: 4 folds of 2 seeds."),
    ):
        assert arms.trainings(found) == counts
        assert arms.coverage(found).startswith(f"95 % intervals over {covers}")
        assert f"Each network has {said}" in region_tables.answer(found, rows, [])


def test_real_singing_is_compared_alike(singing):
    """Its results hold regions and scores together, and its trivial separators have no regions."""
    frame, scores = singing(mamba2=(5.0, dict), none=(4.0, dict), loss_blind=(1.0, dict))
    assert arms.trained(frame) == ["BSMamba2", "no time block"]  # a variant of the base is no other network
    conditions, places = region_tables.CONDITIONS["singers"], region_tables.CONTRASTS["singers"]
    rows = region_tables.compare(frame, conditions)
    everywhere = rows[0]["differences"]["no time block"]
    assert everywhere["estimate"] == pytest.approx(1, abs=0.1) and everywhere["tracks"] == 48
    region_tables.figure_of(rows, conditions)
    assert len(region_tables.contrasts(frame, places)) == len(places)
    assert "BSMamba2 minus no time block, SDR: " in region_tables.answer(scores, rows, [])


def test_what_the_past_is_worth_and_whether_the_assay_sees(made):
    frame, scores = (region_tables.read(made, "songs-1s", field) for field in ("regions", "scores"))
    changes = region_tables.without(frame)
    found = {(row["system"], row["case"]): row for row in changes}
    assert found["BSMamba2", "no past"]["estimate"] == pytest.approx(-1)
    assert found["BSMamba2", "no past"]["tracks"] == 24
    assert found["no time block", "no past"]["estimate"] == found["BSMamba2", "no future"]["estimate"] == 0
    assert region_tables.without_table(changes).loc["BSMamba2", "no past"].startswith("-1.00 [")
    rows = region_tables.compare(frame, region_tables.CONDITIONS["songs"][:1])
    said = region_tables.answer(scores, rows, changes)
    assert said.startswith("- The assay is sensitive.") and "`no time block` minus" not in said
    assert "BSMamba2, no past: -1.00 " in said and "Positive means better without." in said
    assert "helps in these cases: BSMamba2 (no past), " in said and "no time block (" not in said
    useless = [row | ({"high": 0.0} if row["system"] == "BSMamba2" else {}) for row in changes]
    assert "So these songs cannot show memory over gaps." in region_tables.answer(scores, rows, useless)
    unknown = [row | {"high": math.nan} for row in changes]  # too few songs for intervals
    said_of_few = region_tables.answer(scores, rows, unknown)
    assert "cannot show" not in said_of_few and "helps" not in said_of_few
    scores.loc[scores["system"] == EQUALISER, "usdr"] += 3
    said = region_tables.answer(scores, rows, changes)
    assert said.startswith("- The assay is insensitive") and "3 trainings" in said


def test_a_gain_below_silence_is_told_from_one_above_it(made):
    frame, durations = region_tables.read(made, "songs-1s"), region_tables.CONDITIONS["songs"][:1]
    short = frame["system"].isin(["BSMamba2", "no time block"]) & (frame["duration"] < 2)
    for loss, below in ((0, "no network"), (4.5, "no time block"), (9, "every network")):
        rows = region_tables.compare(frame.assign(**{SDR: frame[SDR] - loss * short}), durations)
        said = region_tables.of_durations(rows)
        assert f"Below silence on average: {below}." in said and ("less harm" in said) == (below == "every network")
        assert "BSMamba2 minus no time block, by duration of the region: 1 to 2 s 0.9" in said
    assert region_tables.of_durations([]) == ""


def test_the_figures_name_every_network_and_bin(made):
    conditions = region_tables.CONDITIONS["songs"]
    rows = region_tables.compare(region_tables.read(made, "songs-1s"), conditions)
    for part in (conditions[:3], conditions[3:]):
        drawn = region_tables.figure_of(rows, part)
        labels = [text.get_text() for text in drawn.legends[0].get_texts()]
        assert labels == ["BSMamba2", "no time block", EQUALISER, region_tables.SILENCE]
        assert [ax.get_title() for ax in drawn.axes[: len(part)]] == [condition.title for condition in part]
        if part[0].title == region_tables.DURATION:
            ticks = [text.get_text() for text in drawn.axes[len(part)].get_xticklabels()]
            assert ticks == ["1–2\nn=12", "2–4\nn=24", "4 on\nn=12"]
    drawn = region_tables.figure_without(region_tables.without(region_tables.read(made, "songs-1s")))
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()][:2] == ["no future", "no past"]
