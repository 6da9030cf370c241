"""The panel for people: what its widgets choose is what is separated, and mistakes become one line."""

import html
import shutil

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from bsm import audio
from bsm.data.tracks import load_tracks
from bsm.errors import InputError
from bsm.inference import separate
from bsm.study import explore
from bsm.study.profiles import Profile
from bsm.study.records import ROOT
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
    path = place / "runs/demo/first/model.safetensors"
    made = explore.Explorer({track.name: track}, {"demo/first": path})
    made.length.value, made.window.value = 1, 0.5
    return made


def test_the_profiles_own_model_is_the_default(tmp_path, monkeypatch):
    """Not the first of the alphabet, which is a variant of the ablations."""
    settings = Profile.load("demo")
    own = tmp_path / settings.run_folder(settings.seed).relative_to(ROOT / "runs") / "model.safetensors"
    variant = own.parents[1] / "bands-equal-tiny-seed0" / own.name
    for path in (own, variant):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(Profile, "run_folder", lambda *_: own.parent)
    names = list(explore.offered_models(settings, tmp_path))
    assert names[0] == f"demo/bsmamba2-{settings.model}-seed0"
    assert names[-1] == "demo/bands-equal-tiny-seed0"


def test_the_widgets_choose_what_is_separated(explorer, place):
    explorer.start.value, explorer.overlap.value, explorer.backend.value = 1, 0.5, "sequential"
    estimate = explorer.separate()
    (track,) = load_tracks(place / "data", "test")
    mixture = torch.from_numpy(track.mixture(RATE, 2 * RATE))
    expected = separate(explorer.network(), mixture, RATE, window=0.5, hop=0.25).numpy()
    np.testing.assert_array_equal(estimate, expected)
    np.testing.assert_array_equal(explorer.vocals, track.read("vocals", RATE, 2 * RATE))
    assert {m.backend for m in explorer.network().modules() if hasattr(m, "backend")} == {"sequential"}
    assert explorer.seconds > 0


def test_the_excerpt_stays_within_the_song(explorer):
    assert (explorer.start.max, explorer.length.max) == (2.5, 3.0)
    explorer.length.value, explorer.start.value = 3, 2
    assert (explorer.length.value, explorer.length.max) == (1.0, 1.0)


def test_paths_can_be_typed(explorer, place, tmp_path):
    noise = np.random.default_rng(1).normal(0, 0.1, (1, RATE)).astype(np.float32)
    audio.write(tmp_path / "mine.wav", noise, RATE)
    explorer.model.value = str(place / "runs/demo/first/model.safetensors")
    explorer.song.value = str(tmp_path / "mine.wav")
    assert (explorer.start.max, explorer.length.max) == (0.5, 1.0)
    assert explorer.separate().shape == (1, RATE)
    assert explorer.vocals is None


@pytest.mark.parametrize(
    ("widget", "value", "message"),
    [
        ("song", "nowhere.wav", "nowhere.wav"),
        ("model", "nowhere", "nowhere"),
        ("song", "", "no song is chosen"),
        ("model", "", "No model is chosen"),
    ],
)
def test_mistakes_are_told_in_one_line_of_the_panel(explorer, widget, value, message):
    getattr(explorer, widget).value = value
    with pytest.raises(InputError):
        explorer.separate()
    explorer.button.click()
    assert message in html.unescape(explorer.state.value)
    assert "\n" not in explorer.state.value
    assert not explorer.output.outputs
    assert not explorer.button.disabled


def test_the_button_shows_that_it_works_and_then_the_result(explorer, monkeypatch):
    seen = []
    monkeypatch.setattr(explorer, "separate", lambda: seen.append((explorer.state.value, explorer.button.disabled)))
    monkeypatch.setattr(explorer, "show", lambda: seen.append("shown"))
    explorer.button.click()
    assert seen == [("Separating 1 s ...", True), "shown"]
    assert (explorer.state.value, explorer.button.disabled) == ("", False)


def test_what_is_missing_is_said_and_the_clip_is_always_there(monkeypatch, place):
    """On a fresh clone, before any song or model was made."""
    (track,) = load_tracks(place / "data", "test")
    monkeypatch.setattr(explore, "example_track", lambda _: track)
    monkeypatch.setattr(explore, "offered_models", lambda _: {})
    monkeypatch.setattr(Profile, "data_folder", place / "nothing")
    found = explore.Explorer.of("smoke")
    assert list(found.songs) == [track.name] and found.model.value == ""
    assert "No model is chosen. Train one with `make reproduce`" in found.state.value
    assert "no songs yet; run `bsm data prepare smoke` first" in found.state.value


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the clip is decoded by ffmpeg")
def test_the_notebook_runs_untouched():
    """It is no part of the study, which would run it; with or without songs and models, no cell fails."""
    notebook = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    done = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
