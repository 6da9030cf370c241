"""The panel for people: what its widgets choose is what is separated, and mistakes are told."""

import numpy as np
import pytest
import torch

from bsm import audio
from bsm.config import ModelConfig
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.inference import separate
from bsm.networks import build, network_config
from bsm.study import explore
from bsm.study.profiles import Profile
from bsm.study.run import run_notebook
from bsm.weights.files import save_model

RATE = 44100


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_model, write_song):
    """A run's folder and a song of 3 s."""
    folder = tmp_path_factory.mktemp("explore")
    save_model(small_model, folder / "runs/demo/first/model.safetensors", {})
    write_song(folder / "data/test/song", 3)
    return folder


@pytest.fixture
def explorer(place):
    (track,) = load_tracks(place / "data", "test")
    made = explore.Explorer({track.name: track}, explore.trained_models(place / "runs"))
    made.length.value, made.window.value = 1, 0.5
    return made


def test_models_are_named_by_their_runs(place):
    assert explore.trained_models(place / "runs") == {"demo/first": place / "runs/demo/first/model.safetensors"}


def test_the_widgets_choose_what_is_separated(explorer, place):
    assert explorer.start.max == 2.0  # a second before the end
    explorer.start.value, explorer.overlap.value, explorer.backend.value = 1, 0.5, "sequential"
    estimate = explorer.separate()
    (track,) = load_tracks(place / "data", "test")
    mixture = torch.from_numpy(track.mixture(RATE, 2 * RATE))
    expected = separate(explorer.network(), mixture, RATE, window=0.5, hop=0.25).numpy()
    np.testing.assert_array_equal(estimate, expected)
    np.testing.assert_array_equal(explorer.vocals, track.read("vocals", RATE, 2 * RATE))
    assert {m.backend for m in explorer.network().modules() if hasattr(m, "backend")} == {"sequential"}
    assert explorer.seconds > 0


def test_paths_can_be_typed(explorer, place, tmp_path):
    noise = np.random.default_rng(1).normal(0, 0.1, (1, RATE)).astype(np.float32)
    audio.write(tmp_path / "mine.wav", noise, RATE)
    explorer.model.value = str(place / "runs/demo/first/model.safetensors")
    explorer.song.value = str(tmp_path / "mine.wav")
    assert explorer.start.max == 0
    assert explorer.separate().shape == (1, RATE)
    assert explorer.vocals is None


@pytest.mark.parametrize(
    ("widget", "value"), [("song", "nowhere.wav"), ("model", "nowhere"), ("song", ""), ("model", "")]
)
def test_mistakes_are_told_in_the_panel(explorer, widget, value):
    getattr(explorer, widget).value = value
    with pytest.raises(InputError):
        explorer.separate()
    explorer.button.click()
    (shown,) = explorer.output.outputs
    assert (value or f"no {widget} is chosen") in shown["text"]
    assert not explorer.button.disabled


def test_other_networks_have_no_backend(explorer):
    assert explore.set_backend(explorer.network(), "auto")
    assert not explore.set_backend(build(network_config("bs-roformer", ModelConfig.preset("tiny"))), "sequential")


@pytest.mark.slow
def test_the_notebook_runs_untouched(tmp_path):
    """It is no part of the study, which would run it."""
    Profile.load("smoke").prepare_data()
    output = run_notebook("explore", tmp_path / "out.ipynb", profile="smoke")
    assert "application/vnd.jupyter.widget-view+json" in output.read_text()
