"""Profiles: one flat file of parameters under ``notebooks/profiles``, and what its values stand for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bsm.config import ModelConfig, TrainConfig
from bsm.data import demo
from bsm.data.tracks import Track, load_tracks
from bsm.errors import InputError
from bsm.files import write_text
from bsm.study.notebooks import load_profile
from bsm.study.records import ROOT

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Profile:
    """A profile's values, and the folders, data and configurations that follow from them.

    Notebooks make one from their own parameters (:meth:`of`), so that a value given on papermill's command line counts.
    """

    values: dict[str, Any]

    @classmethod
    def load(cls, name: str | Path) -> Self:
        """Read ``notebooks/profiles/<name>.yaml``, or the file at a path.

        Raises:
            InputError: no such profile.
        """
        return cls(load_profile(name))

    @classmethod
    def of(cls, profile: str, **parameters: Any) -> Self:
        """Read a profile and put a notebook's own parameters on top."""
        return cls(load_profile(profile) | parameters)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise InputError(f"the profile has no {name!r}; it has: {', '.join(self.values)}") from None

    @property
    def data_folder(self) -> Path:
        """Folder of the songs."""
        return ROOT / "data" / self.data

    @property
    def reports(self) -> Path:
        """Folder of this profile's results, figures and tables."""
        return ROOT / "reports" / self.profile

    @property
    def data_title(self) -> str:
        """Name of the data for tables and result files."""
        return f"{self.data} songs (synthesised)"

    def figure(self, name: str) -> Path:
        """Path of a figure."""
        return self.reports / "figures" / f"{name}.png"

    def result(self, name: str) -> Path:
        """Path of a result file."""
        return self.reports / "results" / f"{name}.json"

    def write_table(self, name: str, text: str) -> Path:
        """Write a table in Markdown."""
        return write_text(self.reports / "tables" / f"{name}.md", text)

    def run_folder(self, seed: int) -> Path:
        """Folder of one training run."""
        return ROOT / "runs" / self.profile / f"bsmamba2-{self.model}-seed{seed}"

    def model_config(self) -> ModelConfig:
        """Return the network's configuration."""
        return ModelConfig.preset(self.model)

    def train_config(self) -> TrainConfig:
        """Return the training configuration: every value that the profile names, the author's for the rest."""
        names = TrainConfig.__dataclass_fields__
        return TrainConfig.from_dict({k: v for k, v in self.values.items() if k in names})

    def prepare_data(self) -> None:
        """Make the songs, or check those that are there."""
        songs = {split: self.values[f"{split}_songs"] for split in SPLITS}
        demo.make_corpus(self.data_folder, songs=songs, seconds=self.song_seconds)

    def tracks(self) -> dict[str, list[Track]]:
        """Return the songs by split.

        Raises:
            InputError: they are not there.
        """
        if not self.data_folder.is_dir():
            raise InputError(f"{self.data_folder}: no songs yet; run `bsm data {self.profile}` first")
        return {split: load_tracks(self.data_folder, split) for split in SPLITS}
