"""Widgets to try a model on a song: choose both, set window, overlap and backend, listen and look."""

from __future__ import annotations

import functools
import html
import math
import time
from pathlib import Path
from typing import Self

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from torch import nn

from bsm import audio
from bsm.data.musdb18 import example_track
from bsm.data.tracks import Track
from bsm.errors import BackendUnavailable, InputError
from bsm.inference import separate
from bsm.metrics import usdr
from bsm.scan import available
from bsm.study import figures
from bsm.study.profiles import Profile
from bsm.study.records import ROOT
from bsm.study.scans import set_backend
from bsm.weights import registry
from bsm.weights.files import load_model

LONGEST = 60.0  # s of an excerpt
STEP = 0.5  # s, of the sliders for the excerpt
NO_MODEL = "No model is chosen. Train one with `make reproduce`, or type the path of weights."


def offered_models(settings: Profile, runs: Path = ROOT / "runs") -> dict[str, Path]:
    """Return the models to choose from, by name: the profile's own, then those of the registry, then all other runs."""
    own = settings.run_folder(settings.seed) / "model.safetensors"
    named = {name: entry.place for name, entry in registry.entries().items() if entry.state == "here"}
    trained = {path.parent.relative_to(runs).as_posix(): path for path in sorted(runs.glob("**/model.safetensors"))}
    found = named | trained
    return dict(sorted(found.items(), key=lambda item: item[1] != own))  # the others keep their order


def offered_songs(settings: Profile) -> tuple[dict[str, Track], str]:
    """Return the songs to choose from, by name, and a text that says which are missing.

    They are the profile's test songs, and one real recording (:func:`bsm.data.musdb18.example_track`).
    """
    tracks, missing = [], []
    for find in (lambda: settings.tracks()["test"], lambda: [example_track(ROOT / "data")]):
        try:
            tracks += find()
        except InputError as error:
            missing.append(str(error))
    return {track.name: track for track in tracks}, "; ".join(missing)


class Explorer:
    """A panel of widgets: a notebook displays ``panel``, and its button calls :meth:`run`.

    Attributes:
        mixture: the last excerpt, ``(channels, samples)``.
        vocals: its true vocals, or None where they are not known.
        estimate: its estimated vocals, same shape.
        rate: Hz.
        seconds: time that the last separation took.
    """

    def __init__(self, songs: dict[str, Track], models: dict[str, Path], note: str = "") -> None:
        """Make the panel: songs and models to choose from, the first of each is chosen, and a text to begin with."""
        self.songs, self.models = songs, models
        self._load = functools.lru_cache(1)(load_model)
        shared = {"style": {"description_width": "7em"}, "layout": widgets.Layout(width="auto")}
        self.model, self.song = (
            widgets.Combobox(
                options=list(options),
                value=next(iter(options), ""),
                placeholder="choose one, or type a path",
                description=name,
                **shared,
            )
            for name, options in (("model", models), ("song", songs))
        )
        self.start = widgets.FloatSlider(0, min=0, max=0, step=STEP, description="from (s)", **shared)
        self.length = widgets.FloatSlider(10, min=STEP, max=LONGEST, step=STEP, description="excerpt (s)", **shared)
        self.window = widgets.FloatSlider(8, min=0.25, max=32, step=0.25, description="window (s)", **shared)
        self.overlap = widgets.FloatSlider(0, min=0, max=0.75, step=0.05, description="overlap", **shared)
        backends = ["auto", *(name for name, lack in available().items() if lack is None)]
        self.backend = widgets.Dropdown(options=backends, value="auto", description="scan", **shared)
        self.button = widgets.Button(description="Separate", button_style="primary")
        self.state = widgets.HTML()
        self._say(note)
        self.output = widgets.Output()
        self.button.on_click(lambda _: self.run())
        for widget in (self.song, self.start, self.length):
            widget.observe(lambda _: self._fit_excerpt(), names="value")
        self._fit_excerpt()
        sliders = (self.start, self.length, self.window, self.overlap, self.backend)
        self.panel = widgets.VBox([self.model, self.song, *sliders, self.button, self.state, self.output])

    @classmethod
    def of(cls, profile: str) -> Self:
        """Make the panel with all models and songs of this machine, those of a profile first.

        Raises:
            InputError: no such profile.
        """
        settings = Profile.load(profile)
        songs, missing = offered_songs(settings)
        models = offered_models(settings)
        return cls(songs, models, missing if models else f"{NO_MODEL} {missing}".strip())

    def _say(self, text: str) -> None:
        self.state.value = html.escape(text)

    def _fit_excerpt(self) -> None:
        """Keep the excerpt within the song; a path that is still being typed changes nothing."""
        try:
            seconds = (self.songs.get(self.song.value) or audio.info(self.song.value)).seconds
        except InputError:
            return
        self.start.max = max(0.0, math.floor((seconds - STEP) / STEP) * STEP)
        self.length.max = max(STEP, min(LONGEST, math.floor((seconds - self.start.value) / STEP) * STEP))

    def network(self) -> nn.Module:
        """Return the chosen model; the last one is kept, and not loaded again.

        Raises:
            InputError: none is chosen, or it does not load.
        """
        chosen = str(self.models.get(self.model.value, self.model.value))
        if not chosen:
            raise InputError(NO_MODEL)
        return self._load(chosen)

    def excerpt(self) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Read the chosen part of the song: the mixture, the true vocals where they are known, and the rate.

        Raises:
            InputError: none is chosen, or it cannot be read.
        """
        if not self.song.value:
            raise InputError("no song is chosen; choose one, or type the path of an audio file")
        track = self.songs.get(self.song.value)
        rate = (track or audio.info(self.song.value)).rate
        start = round(self.start.value * rate)
        stop = start + round(self.length.value * rate)
        if track:
            return track.mixture(start, stop), track.read("vocals", start, stop), rate
        return audio.read(self.song.value, start=start, stop=stop)[0], None, rate

    def separate(self) -> np.ndarray:
        """Separate the excerpt with the panel's settings; keep mixture, estimate and time.

        Raises:
            InputError: the model or the song cannot be used.
            BackendUnavailable: the chosen backend cannot run here.
        """
        network = self.network()
        set_backend(network, self.backend.value)
        self.mixture, self.vocals, self.rate = self.excerpt()
        hop = self.window.value * (1 - self.overlap.value) if self.overlap.value else None
        started = time.perf_counter()
        found = separate(network, torch.from_numpy(self.mixture), self.rate, window=self.window.value, hop=hop)
        self.seconds, self.estimate = time.perf_counter() - started, found.numpy()
        return self.estimate

    def run(self) -> None:
        """Separate the excerpt and show the result in the panel; an error is shown there as one line."""
        self.button.disabled, self.button.icon = True, "hourglass-half"
        self._say(f"Separating {self.length.value:g} s ...")
        self.output.clear_output()
        try:
            self.separate()
            with self.output:
                self.show()
            self._say("")
        except (InputError, BackendUnavailable) as error:
            self._say(str(error))
        finally:
            self.button.disabled, self.button.icon = False, ""

    def show(self) -> None:
        """Display the last separation: time, score if the true vocals are known, players and spectrograms."""
        said = f"{self.seconds:.1f} s of computing for {self.mixture.shape[1] / self.rate:.1f} s of audio."
        signals = {"mixture": self.mixture, "estimated vocals": self.estimate}
        if self.vocals is not None:
            said += f" uSDR of the excerpt {usdr(self.vocals, self.estimate):.2f} dB."
            signals["true vocals"] = self.vocals
        signals["what remains"] = self.mixture - self.estimate
        display(Markdown(said))
        figures.players(signals, self.rate)
        figure = figures.spectrograms("excerpt", signals, self.rate)
        display(figure)
        plt.close(figure)
