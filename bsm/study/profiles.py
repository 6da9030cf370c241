"""Profiles: flat files of parameters under ``notebooks/profiles``, and the folders and settings that they imply."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from bsm.config import LossConfig, ModelConfig, TrainConfig
from bsm.data import demo
from bsm.data.layouts import SPLITS, open_tracks
from bsm.data.tracks import Track
from bsm.errors import InputError
from bsm.files import write_text
from bsm.study import notebook, variants
from bsm.study.records import ROOT

if TYPE_CHECKING:
    from bsm.baseline import RoformerConfig

DEFAULT = "demo"
"""The profile whose songs and model are the default of commands."""

log = logging.getLogger(__name__)


def load_profile(profile: str | Path) -> dict[str, Any]:
    """Read the parameters of a profile, given by its name or by the path of a ``.yaml`` file.

    Raises:
        InputError: there is no such profile, or it is not a flat mapping.
    """
    path = notebook.find_file("profile", profile, notebook.NOTEBOOKS / "profiles", ".yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or any(isinstance(value, dict) for value in values.values()):
        raise InputError(f"{path}: a profile is a flat mapping, one 'name: value' per line")
    return values


@dataclass(frozen=True)
class Profile:
    """A profile's values, and the folders, data and configurations that follow from them.

    A notebook makes one with its own parameters (:meth:`load`), so that values from papermill's command line count.
    """

    values: dict[str, Any]

    @classmethod
    def load(cls, profile: str | Path, **parameters: Any) -> Self:
        """Read a profile (:func:`load_profile`); parameters override its values."""
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
        """Folder of results, figures and tables: ``reports/<profile>``, or a notebook's parameter ``out``."""
        return Path(self.values["out"]) if self.values.get("out") else ROOT / "reports" / self.profile

    @property
    def makes_songs(self) -> bool:
        """Whether the songs are synthesised; all other songs must be provided."""
        return "train_songs" in self.values

    @property
    def data_title(self) -> str:
        """Name of the data for tables and result files."""
        return f"{self.data} songs (synthesised)" if self.makes_songs else self.title

    @property
    def comparable(self) -> bool:
        """Whether scores can be compared with the paper's: its data, its model, and no song is left out."""
        return (self.data, self.model, self.values.get("skip_bad", False)) == ("musdb18-hq", "paper", False)

    def figure(self, name: str) -> Path:
        """Path of a figure."""
        return self.reports / "figures" / f"{name}.png"

    def result(self, name: str) -> Path:
        """Path of a result file."""
        return self.reports / "results" / f"{name}.json"

    def write_table(self, name: str, text: str) -> Path:
        """Write a table in Markdown."""
        return write_text(self.reports / "tables" / f"{name}.md", text)

    @property
    def backbones(self) -> list[str]:
        """Names of the networks that this profile trains."""
        return self.values.get("backbones", ["bsmamba2"])

    def run_folder(self, seed: int, name: str = "bsmamba2") -> Path:
        """Folder of a training run of a network or of a variant (:data:`bsm.study.variants.VARIANTS`)."""
        return ROOT / "runs" / self.profile / f"{name}-{self.model}-seed{seed}"

    def model_config(self, backbone: str = "bsmamba2") -> ModelConfig | RoformerConfig:
        """Return the configuration of a network, or of BSMamba2 with another time block, at the profile's size.

        Raises:
            InputError: the network or the size is unknown.
            BackendUnavailable: the network is bs-roformer, and that package is not installed.
        """
        from bsm.networks import network_config  # slow to import; other mistakes are told at once

        return network_config(backbone, ModelConfig.preset(self.model))

    def train_config(self) -> TrainConfig:
        """Return the training configuration: the profile's values, and the author's for those that it does not name.

        The loss is the paper's at the model's sample rate.
        """
        names = TrainConfig.__dataclass_fields__
        loss = LossConfig.at_rate(ModelConfig.preset(self.model).sample_rate)
        return TrainConfig.from_dict({"loss": loss} | {k: v for k, v in self.values.items() if k in names})

    def variant_config(self, name: str) -> tuple[ModelConfig, TrainConfig]:
        """Return the configurations of a variant of BSMamba2.

        The profile's values with the prefix ``ablation_`` override those of its training; ``ablation_steps`` overrides
        ``steps``, for example.

        Raises:
            InputError: the variant is unknown, or training has no setting of that name.
        """
        prefix = "ablation_"
        own = {k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)}
        train = TrainConfig.from_dict(self.train_config().to_dict() | own)
        return variants.changed(name, ModelConfig.preset(self.model), train)

    def prepare_data(self) -> None:
        """Synthesise the profile's songs, or check songs of other profiles.

        Raises:
            InputError: the songs cannot be made, are missing or cannot be used; the message says what to do.
        """
        if self.makes_songs:
            songs, model = {split: self.values[f"{split}_songs"] for split in SPLITS}, ModelConfig.preset(self.model)
            sound = {"seconds": self.song_seconds, "rate": model.sample_rate, "channels": model.channels}
            demo.make_corpus(self.data_folder, songs=songs, **sound)
            return
        for split, tracks in self.tracks().items():
            minutes = sum(track.seconds for track in tracks) / 60
            log.info("%s: %d songs for %s, %.1f minutes", self.data_folder, len(tracks), split, minutes)

    def find_data(self) -> None:
        """Check that the songs are there.

        Raises:
            InputError: they are not; the message says how to get them.
        """
        if self.data_folder.is_dir():
            return
        if self.makes_songs:
            raise InputError(f"{self.data_folder}: no songs yet; run `bsm data prepare {self.profile}` first")
        fetch = f"run `bsm data fetch {self.fetch}`, or " if "fetch" in self.values else ""
        raise InputError(f"{self.data_folder}: no songs yet; {fetch}copy or link them to data/{self.data}")

    def tracks(self, skipped: dict[str, str] | None = None) -> dict[str, list[Track]]:
        """Return the songs by split.

        A profile with ``skip_bad`` leaves out songs that cannot be read whole or do not fit the model. Their names and
        faults are entered in ``skipped``.

        Raises:
            InputError: the songs are missing, or one is bad and must not be skipped.
        """
        self.find_data()
        skipped = ({} if skipped is None else skipped) if self.values.get("skip_bad") else None
        found = {split: open_tracks(self.data_folder, split, skipped=skipped)[1] for split in SPLITS}
        return {split: [t for t in tracks if self._fits(t, skipped)] for split, tracks in found.items()}

    def _fits(self, track: Track, skipped: dict[str, str] | None) -> bool:
        """Tell whether a song has the model's rate and number of channels; raise unless others may be skipped."""
        model = ModelConfig.preset(self.model)
        if (track.rate, track.channels) == (model.sample_rate, model.channels):
            return True
        why = (
            f"{track.files[0].parent}: song {track.name!r} has {track.rate} Hz, {track.channels} channel(s); model "
            f"{self.model} takes {model.sample_rate} Hz, {model.channels}; convert it or choose another model"
        )
        if skipped is None:
            raise InputError(why)
        skipped[track.name] = why
        log.warning("skipping song %r: %s", track.name, why)
        return False


def default_songs() -> Path:
    """Return the folder of the default profile's songs."""
    return Profile.load(DEFAULT).data_folder
