"""What the ablations measure, compare and draw."""

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from bsm import audio
from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.scan.feedthrough import CHUNK
from bsm.study import ablation, scans, sizes
from bsm.study.baselines import CONSTANT, EQUALISER
from bsm.study.profiles import Profile
from bsm.study.records import mark, write_result
from bsm.study.subjects import Subject, own_runs
from bsm.study.variants import changed
from made import scored

RATE = 44100


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Two songs of 0.5 s; the vocals of the first are on the left, those of the second in the middle."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for song in ("left", "middle"):
        folder = root / "test" / song
        folder.mkdir(parents=True)
        vocals, other = rng.normal(0, 0.1, (2, 2, RATE // 2)).astype(np.float32)
        vocals[1] = 0 if song == "left" else vocals[0]
        vocals[:, RATE // 4 :] *= 0.01
        for name, sound in {"vocals": vocals, "other": other, "mixture": vocals + other}.items():
            audio.write(folder / f"{name}.wav", sound, RATE)
    return load_tracks(root, "test")


def records(gains):
    """Scores in which a variant is better than the base by a known amount."""
    return scored({"base": 0.0} | gains, field="variant", luck=1.0, spread=0.01)


def test_tables_and_figures_have_every_variant():
    made = records({"mono": -0.5, "loss-mean": 0.0})
    made[6]["usdr"] = None  # as a result file holds what is undefined
    rows = ablation.differences(made)
    assert [(r["songs"], r["seeds"], r["n"]) for r in rows] == [(6, 3, 18), (5, 3, 15)]  # paired over both
    table = ablation.score_table(made, rows, {"base": 1, "mono": 2, "loss-mean": 3})
    assert list(table["change"])[::2] == ["the paper's design and loss", "mean over windows instead of their sum"]
    assert list(table["parameters"]) == [1, 2, 3]
    assert list(table["verdict"]) == ["–", "worse", "no difference seen"]
    assert table["difference (dB)"][1].startswith("-0.50 [")
    assert table["uSDR (dB)"][0] == pytest.approx(np.mean([r["usdr"] for r in made if r["variant"] == "base"]))
    figure = ablation.figure(made, rows)
    (ax,) = figure.axes
    labels = [label.get_text().replace("\n", " ") for label in ax.get_yticklabels()]
    assert labels[1] == "mean over windows instead of their sum"
    assert ax.containers[0].lines[0].get_xdata()[0] == pytest.approx(-0.5, abs=0.02)


def floor(records, **gains):
    """Scores of trivial separators on the songs of records, each by a known amount above the base's mean."""
    base = {}
    for record in records:
        if record["variant"] == "base":
            base.setdefault(record["track"], []).append(record["usdr"])
    names = {"constant": CONSTANT, "equaliser": EQUALISER}
    return [
        {"track": track, "separator": names[name], "seed": None, "usdr": np.mean(own) + gain}
        for track, own in base.items()
        for name, gain in gains.items()
    ]


def test_a_base_below_trivial_separators_decides_nothing():
    made = records({"mono": -0.5})
    rows, mean = ablation.differences(made), np.mean([r["usdr"] for r in made if r["variant"] == "base"])
    above = ablation.unbeaten(made, floor(made, constant=-2.0, equaliser=-1.0))
    assert above == {} and ablation.reading(above).endswith("(Holm)")
    assert list(ablation.score_table(made, rows, floors=above)["verdict"]) == ["–", "worse"]
    below = ablation.unbeaten(made, floor(made, constant=-2.0, equaliser=1.0))
    assert below == {EQUALISER: pytest.approx(mean + 1)}
    said = f". The base scores below static equaliser ({mean + 1:.2f} dB): no difference here decides anything"
    assert ablation.reading(below) == said
    assert "verdict" not in ablation.score_table(made, rows, floors=below)
    assert list(ablation.unbeaten(made, floor(made, constant=0.5, equaliser=1.0))) == [CONSTANT, EQUALISER]
    with pytest.raises(ValueError, match="other songs"):
        ablation.unbeaten(made, floor(made, constant=0.5, equaliser=1.0)[:-1])


def test_trivial_separators_are_read_where_they_are_of_these_songs(tmp_path, monkeypatch):
    settings = Profile({"profile": str(tmp_path), "data": str(tmp_path / "songs"), "out": str(tmp_path / "other")})
    settings.data_folder.mkdir()
    monkeypatch.setattr(Profile, "tracks", lambda settings: {"test": [], "train": []})
    monkeypatch.setattr(ablation.baselines, "scores", lambda test, train: "measured")
    assert ablation.trivial(settings) == "measured"
    made = {"parameters": {}, "started": mark(), "data": "", "inputs": [settings.data_folder]}
    path = Profile({"profile": str(tmp_path)}).result("baselines")
    write_result(path, measured="", values=[{"separator": EQUALISER}], **made)
    assert ablation.trivial(settings) == [{"separator": EQUALISER}]
    (settings.data_folder / "another song").write_text("")
    assert ablation.trivial(settings) == "measured"


def test_the_recipe_is_what_the_weights_record(small_config, tmp_path):
    def trained(name, seed, **train):
        path = tmp_path / f"{name}-{seed}" / "model.safetensors"
        path.parent.mkdir()
        config = changed(name, small_config, TrainConfig(steps=7, segment_seconds=3.0, seed=seed))[1].replace(**train)
        path.with_suffix(".json").write_text(json.dumps({"train": config.to_dict()}))
        return Subject(name, seed, path, torch.nn.Identity(), 1.0)

    found = [trained("base", 0), trained("base", 1), trained("loss-mean", 0, workers=3)]
    assert ablation.recipe(found) == TrainConfig(steps=7, segment_seconds=3.0)
    with pytest.raises(InputError, match="mono-0.* trained unlike the base; these differ: steps; train it again"):
        ablation.recipe([*found, trained("mono", 0, steps=8)])
    with pytest.raises(InputError, match="loss-magnitude-0.* differ: loss;"):
        ablation.recipe([*found, trained("loss-magnitude", 0, loss=LossConfig())])
    found[1].path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="base-1/model.json: missing"):
        ablation.recipe(found)


def test_an_untrained_variant_is_named(tmp_path):
    settings = Profile({"profile": str(tmp_path), "model": "tiny"})
    with pytest.raises(InputError, match="not trained yet; run `bsm train .* --variant mono --seed 7` first"):
        own_runs(settings, ["mono"], [7])


def test_scores_are_the_models(tracks):
    class Halved(torch.nn.Module):
        config = ModelConfig.preset("tiny")

        def forward(self, mixture):
            return mixture * 0

    found = [Subject("base", 0, tracks[0].files[0], Halved(), 1.0)]
    made = ablation.scores(found, tracks, 0.25)
    assert [(r["track"], r["variant"], r["seed"]) for r in made] == [("left", "base", 0), ("middle", "base", 0)]
    assert all(r["usdr"] == pytest.approx(0, abs=1e-3) for r in made)


def test_the_losses_of_the_notebook(small_config):
    configs = ablation.loss_configs(small_config, TrainConfig())
    assert configs["base"] == LossConfig()
    assert {"loss-reduced", "loss-magnitude"} < set(configs)
    assert "mono" not in configs  # another network, the same loss


def test_magnitudes_are_blind_to_the_sign(small_config, tracks):
    configs = {
        name: ablation.loss_configs(small_config, TrainConfig())[name]
        for name in ("base", "loss-magnitude", "loss-reduced")
    }
    found = ablation.blindness(configs, tracks, 0.1)
    assert len(found) == 2 * 3 * 4
    spectral, total = ablation.relative(found), ablation.relative(found, "total")
    assert spectral[ablation.FLIPPED]["base"].estimate == pytest.approx(2, rel=1e-3)  # |2 X| against |X|
    for blind in ("loss-magnitude", "loss-reduced"):
        assert spectral[ablation.FLIPPED][blind].estimate == pytest.approx(0, abs=1e-4)
        assert total[ablation.FLIPPED][blind].estimate > 0.01  # the waveform's term sees it
    assert spectral[ablation.DELAYED]["loss-magnitude"].estimate < spectral[ablation.DELAYED]["base"].estimate / 2
    assert len(ablation.blindness_table(found)) == 3
    figure, ax = plt.subplots()
    ablation.draw_blindness(ax, found)
    assert "n = 2" in ax.get_title()


def test_costs_of_losses(small_config):
    configs = ablation.loss_configs(small_config, TrainConfig())
    found = ablation.loss_costs(configs, samples=5000, channels=2, repeats=2)
    transforms = {r["variant"]: r["transforms"] for r in found}
    assert (transforms["base"], transforms["loss-magnitude"], transforms["loss-reduced"]) == (5, 10, 6)
    table = ablation.loss_cost_table(
        [r | {"seconds": [s, s]} for r, s in zip(found, [0.2, *[0.1] * 9], strict=False)], [1.0]
    )
    assert table["times the speed of the paper's"][1].startswith("2.00x")
    assert table["saves of a step (%)"][1] == pytest.approx(10)


def test_no_mono_estimate_beats_the_average(tracks):
    ceiling = {r["track"]: r["usdr"] for r in ablation.mono_ceiling(tracks)}
    assert ceiling["left"] == pytest.approx(10 * math.log10(2), abs=1e-3)  # half of the energy is error
    assert ceiling["middle"] > 60


def test_published_parameters():
    table = sizes.published_table().set_index("width / layers")
    ours = table[table["source"] == "author's code"]
    assert ours["the same, as far as given"].all() and len(ours) == 5
    assert not table[table["source"] != "author's code"]["the same, as far as given"].any()


def test_costs_of_settings(small_config):
    configs = {"base": small_config, "half-mask": small_config.replace(mask_expansion=1)}
    found = sizes.measure(configs, seconds=0.05, repeats=2)
    assert found[0]["parameters"]["mask_estimator"] > found[1]["parameters"]["mask_estimator"]
    assert found[0]["operations"] > found[1]["operations"]
    assert all(len(r[name]["processor_seconds"]) == 2 for r in found for name in ("forward", "training"))
    table = sizes.cost_table([r | {"training": {"seconds": [s, s]}} for r, s in zip(found, (0.2, 0.1), strict=True)])
    assert table["speed against the base"][1].startswith("2.00x")
    assert list(table[""]) == ["the paper's design and loss", "mask expansion halved"]
    names = set(sizes.settings(ModelConfig.preset("tiny")))
    assert {"paper", "vram", "small", "tiny", "base", "bands-mel", "half-expand", "mono"} <= names
    assert "loss-mean" not in names
    figure, ax = plt.subplots()
    sizes.draw_bands(ax, ModelConfig.preset("tiny"))
    assert len(ax.get_legend().get_texts()) == 4


@pytest.fixture(scope="module")
def trained(tracks, small_config):
    config = TrainConfig(steps=2, batch_size=1, lr=1e-3, loss=LossConfig(windows=(256,), min_fft=256))
    names = ["sequential", "chunked", "quadratic", "feedthrough"]
    return scans.trainings(small_config, config, tracks, names, seconds=0.2)


def test_exact_backends_end_within_rounding(trained):
    table = scans.training_table(trained).set_index("scan")
    assert dict(table["ends within rounding"]) == {
        "sequential": "yes",
        "chunked": "yes",
        "quadratic": "yes",
        "feedthrough": "no",
    }
    assert all(len(r["loss"]) == 2 for r in trained)
    assert trained[0]["weights"] == 0 and 0 < trained[1]["weights"] < 1e-9


def test_segments_in_which_nothing_is_left_out_are_refused(tracks, small_config):
    with pytest.raises(InputError, match=f"have 69 frames; take more than {CHUNK}"):
        scans.trainings(small_config, TrainConfig(steps=1), tracks, ["sequential"], seconds=0.1)
