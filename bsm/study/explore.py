"""Widgets to try a model on a song: choose both, set window, overlap and backend, listen and look."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from torch import nn

from bsm import audio
from bsm.data.tracks import Track
from bsm.errors import BackendUnavailable, InputError
from bsm.inference import separate
from bsm.mamba2 import Scan
from bsm.metrics import usdr
from bsm.scan import available
from bsm.study import figures
from bsm.study.records import ROOT
from bsm.weights.files import load_model


def trained_models(runs: Path = ROOT / "runs") -> dict[str, Path]:
    """Return the weights that training has left under a folder, by their run's path."""
    paths = sorted(runs.glob("**/model.safetensors"))
    return {path.parent.relative_to(runs).as_posix(): path for path in paths}


def set_backend(network: nn.Module, backend: str) -> bool:
    """Set the scan backend of every Mamba2 mixer in a network; return whether it has one."""
    scans = [module for module in network.modules() if isinstance(module, Scan)]
    for scan in scans:
        scan.backend = backend
    return bool(scans)


class Explorer:
    """A panel of widgets; ``panel`` is what a notebook displays, ``separate`` what its button does.

    Attributes:
        mixture: the last excerpt, ``(channels, samples)``.
        estimate: its estimated vocals, same shape.
        rate: Hz.
        seconds: what the last separation took.
    """

    def __init__(self, songs: dict[str, Track], models: dict[str, Path] | None = None) -> None:
        """Make the panel.

        Args:
            songs: to choose from, by name; the path of any audio file can be typed instead.
            models: to choose from, by name; by default all that were trained here. A path, or a name of ``bsm weights
                list``, can be typed instead.
        """
        self.songs, self.models = songs, trained_models() if models is None else models
        self._loaded: tuple[str, nn.Module] | None = None
        wide, style = widgets.Layout(width="100%"), {"description_width": "7em"}
        shared = {"style": style, "layout": wide}
        self.model = self._choice("model", self.models, shared)
        self.song = self._choice("song", self.songs, shared)
        self.start = widgets.FloatSlider(0, min=0, max=600, step=1, description="from (s)", **shared)
        self.length = widgets.FloatSlider(10, min=1, max=60, step=1, description="excerpt (s)", **shared)
        self.window = widgets.FloatSlider(8, min=0.25, max=32, step=0.25, description="window (s)", **shared)
        self.overlap = widgets.FloatSlider(0, min=0, max=0.75, step=0.05, description="overlap", **shared)
        backends = ["auto", *(name for name, lack in available().items() if lack is None)]
        self.backend = widgets.Dropdown(options=backends, value="auto", description="scan", **shared)
        self.button = widgets.Button(description="Separate", button_style="primary")
        self.output = widgets.Output()
        self.button.on_click(lambda _: self._clicked())
        self.song.observe(lambda _: self._fit_start(), names="value")
        self._fit_start()
        sliders = (self.start, self.length, self.window, self.overlap, self.backend)
        self.panel = widgets.VBox([self.model, self.song, *sliders, self.button, self.output])

    @staticmethod
    def _choice(name: str, options: dict[str, Any], shared: dict[str, Any]) -> widgets.Combobox:
        return widgets.Combobox(
            options=list(options),
            value=next(iter(options), ""),
            placeholder="choose one, or type a path",
            description=name,
            ensure_option=False,
            **shared,
        )

    def _fit_start(self) -> None:
        """Let an excerpt begin anywhere in the song; a path that is still being typed changes nothing."""
        try:
            seconds = self._seconds()
        except InputError:
            return
        self.start.max = max(self.start.min, seconds - self.length.min)

    def _seconds(self) -> float:
        track = self.songs.get(self.song.value)
        return track.seconds if track else audio.info(self.song.value).seconds

    def network(self) -> nn.Module:
        """Load the chosen model, unless it is the last one.

        Raises:
            InputError: none is chosen, or it does not load.
        """
        chosen = str(self.models.get(self.model.value, self.model.value))
        if not chosen:
            raise InputError("no model is chosen; train one with `bsm train demo`, or type the path of weights")
        if self._loaded is None or self._loaded[0] != chosen:
            self._loaded = chosen, load_model(chosen)
        return self._loaded[1]

    def excerpt(self) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Read the chosen part of the song: the mixture, the true vocals where they are known, and the rate.

        Raises:
            InputError: none is chosen, or it cannot be read.
        """
        if not self.song.value:
            raise InputError("no song is chosen; choose one, or type the path of an audio file")
        track = self.songs.get(self.song.value)
        rate = track.rate if track else audio.info(self.song.value).rate
        start = round(self.start.value * rate)
        stop = start + round(self.length.value * rate)
        if track:
            return track.mixture(start, stop), track.read("vocals", start, stop), rate
        return audio.read(self.song.value, start=start, stop=stop)[0], None, rate

    def separate(self) -> np.ndarray:
        """Separate the excerpt as the sliders say; keep mixture, estimate and time.

        Raises:
            InputError: a model or song that cannot be used.
            BackendUnavailable: a backend that cannot run here.
        """
        network = self.network()
        set_backend(network, self.backend.value)
        self.mixture, self.vocals, self.rate = self.excerpt()
        hop = self.window.value * (1 - self.overlap.value) if self.overlap.value else None
        started = time.perf_counter()
        found = separate(network, torch.from_numpy(self.mixture), self.rate, window=self.window.value, hop=hop)
        self.seconds, self.estimate = time.perf_counter() - started, found.numpy()
        return self.estimate

    def _clicked(self) -> None:
        self.button.disabled = True
        self.output.clear_output()
        try:
            with self.output:
                self.separate()
                self.show()
        except (InputError, BackendUnavailable) as error:
            self.output.append_stdout(f"{error}\n")
        finally:
            self.button.disabled = False

    def show(self) -> None:
        """Display what :meth:`separate` made: its time, its score where the truth is known, sounds and spectrograms."""
        length = self.mixture.shape[1] / self.rate
        lines = [f"{self.seconds:.1f} s of computing for {length:.1f} s of audio."]
        signals = {"mixture": self.mixture, "estimated vocals": self.estimate}
        if self.vocals is not None:
            lines.append(f"uSDR of the excerpt {usdr(self.vocals, self.estimate):.2f} dB.")
            signals["true vocals"] = self.vocals
        signals["what remains"] = self.mixture - self.estimate
        display(Markdown(" ".join(lines)))
        figures.players(signals, self.rate)
        with figures.style():
            figure, axes = plt.subplots(len(signals), 1, figsize=(7, 2 * len(signals)), sharex=True)
            peak = None  # the mixture's, for all
            for ax, (name, signal) in zip(axes, signals.items(), strict=True):
                image = figures.spectrogram(ax, signal, self.rate, peak=peak)
                peak = image.peak
                ax.set(title=name, xlabel="time (s)" if ax is axes[-1] else "")
            figure.colorbar(image, ax=axes, label="level re the mixture's loudest (dB)")
        display(figure)
        plt.close(figure)
