"""Stand-ins for fetched data sets: the package opens them as what they stand for."""

import shutil

import numpy as np
import pytest

from bsm.data import registry
from bsm.data.layouts import SPLITS, open_tracks
from bsm.study import stand_ins
from bsm.study.records import ROOT

SETS = {
    "musdb18-hq": ("MUSDB18-HQ", 44100, 2, {"train": 86, "valid": 14, "test": 50}),
    "musdb18-sample": ("MUSDB18", 44100, 2, {"train": 80, "valid": 14, "test": 50}),
    "mir1k": ("MIR-1K", 16000, 1, {"train": 684, "valid": 105, "test": 211}),
}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data_manifest", tmp_path / "data_manifest")
    monkeypatch.setattr(registry, "MANIFESTS", tmp_path / "data_manifest")
    return tmp_path


@pytest.mark.parametrize("name", SETS)
def test_songs_open_as_the_data_set(checkout, name):
    if name == "musdb18-sample" and shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not here")
    layout, rate, channels, _ = SETS[name]
    assert stand_ins.make_songs(checkout, name, 1) == 3
    opened = {split: open_tracks(checkout / "data" / name, split) for split in SPLITS}
    known = registry.load(name).splits
    for split, (found, (track,)) in opened.items():
        assert found == layout and known[split].holds(track.name)
        assert (track.rate, track.channels) == (rate, channels)
        assert track.seconds == pytest.approx(stand_ins.SECONDS, abs=0.05)
        mixture, vocals = track.mixture(), track.read("vocals")
        assert 0 < np.square(vocals).mean() < 0.5 * np.square(mixture).mean()
        assert np.corrcoef(mixture[0], (vocals + track.accompaniment())[0])[0, 1] > 0.9  # a stem file has losses


@pytest.mark.parametrize("name", SETS)
def test_by_default_there_are_as_many_songs_as_the_data_set_has(checkout, name, monkeypatch):
    written = []
    monkeypatch.setattr(stand_ins, "make_sounds", lambda *_: {})
    for layout in stand_ins._WRITERS:
        monkeypatch.setitem(stand_ins._WRITERS, layout, lambda path, *_: written.append(path))
    counts, known = SETS[name][3], registry.load(name).splits
    assert stand_ins.make_songs(checkout, name) == len(set(written)) == sum(counts.values())
    assert {split: sum(known[split].holds(path.name) for path in written) for split in SPLITS} == counts
    assert {path.parent for path in written} == {checkout / "data" / name / part.folder for part in known.values()}
    for manifest in ("musdb18-hq", name):
        kept, ours = (folder / f"data_manifest/{manifest}.yaml" for folder in (ROOT, checkout))
        assert kept.read_text() == ours.read_text()
