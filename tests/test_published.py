"""The comparison with the published scores: made only of what they were made of, and otherwise told what to fetch."""

import hashlib

import numpy as np
import pytest

from bsm.data.tracks import load_tracks
from bsm.evaluate import METRICS
from bsm.stats import bootstrap_interval, crossed_interval
from bsm.study import figures, published
from bsm.study.compare import words
from bsm.study.profiles import Profile
from bsm.weights import registry as weights
from bsm.weights.files import save_model


@pytest.fixture
def settings(tmp_path, monkeypatch, small_model, write_song):
    """A profile with a model and a test song of its own, and a manifest whose author's weights are not here."""
    run, data = tmp_path / "run", tmp_path / "data"
    save_model(small_model, run / "model.safetensors", {})
    write_song(data / "test" / "own")
    monkeypatch.setenv("BSM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Profile, "run_folder", lambda self, seed: run)
    monkeypatch.setattr(Profile, "tracks", lambda self: {"test": load_tracks(data, "test")})
    monkeypatch.setattr(published, "ROOT", tmp_path)
    return Profile.load("smoke")


@pytest.fixture
def author(settings, tmp_path, monkeypatch):
    """A file that the manifest takes for the author's."""
    path = tmp_path / "author.safetensors"
    path.write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    text = weights.MANIFEST.read_text().replace(
        weights.entry("author").sha256, hashlib.sha256(path.read_bytes()).hexdigest()
    )
    manifest = tmp_path / "weights.yaml"
    manifest.write_text(text)
    monkeypatch.setattr(weights, "MANIFEST", manifest)
    return path


@pytest.fixture
def musdb(monkeypatch, tmp_path, write_song):
    """What stands for MUSDB18-HQ: one song that says it lasts for hours."""
    write_song(tmp_path / "hq" / "test" / "long")
    tracks = load_tracks(tmp_path / "hq", "test")
    folders = {str(tmp_path / "hq"): ("MUSDB18-HQ", tracks)}
    monkeypatch.setattr(published, "open_tracks", lambda root, split: folders[str(root)])
    monkeypatch.setattr(published, "TEST_HOURS", 0.5 / 3600)
    return tmp_path / "hq"


def test_the_profiles_own_model_is_blocked_and_says_what_to_fetch(settings):
    found = published.case(settings)
    assert found.status == "blocked"
    assert not found.paper_data
    assert [track.name for track in found.tracks] == ["own"]
    text = " ".join(found.missing)
    assert "bsm weights fetch author" in text
    assert "none stated" in text  # the licence
    assert "MUSDB18-HQ" in text
    assert "zenodo" in text
    assert found.journal is None


def test_weights_and_songs_that_are_not_here_are_named_and_replaced(settings, tmp_path):
    found = published.case(settings, "author", str(tmp_path / "nowhere"))
    assert found.weights == settings.run_folder(0) / "model.safetensors"
    assert [track.name for track in found.tracks] == ["own"]
    text = " ".join(found.missing)
    assert "not fetched" in text
    assert "nowhere: no such folder" in text


def test_weights_without_a_model_of_the_profile(settings):
    (settings.run_folder(0) / "model.safetensors").unlink()
    with pytest.raises(published.InputError, match="no such weights file"):
        published.case(settings)


def test_the_authors_weights_on_musdb_are_measured(settings, author, musdb):
    found = published.case(settings, str(author), str(musdb))
    assert found.status == "measured"
    assert found.missing == ()
    assert found.paper_data
    assert found.journal.settings["weights_sha256"] == weights.entry("author").sha256
    assert "none stated" in found.terms  # the licence, of a file that is known by its checksum


@pytest.mark.parametrize(("window", "hop"), [(4.0, 4.0), (8.0, 4.0)])
def test_other_windows_are_not_the_published_evaluation(settings, author, musdb, window, hop):
    found = published.case(settings, str(author), str(musdb), window=window, hop=hop)
    assert found.status == "blocked"
    assert not found.paper_data


def test_other_weights_on_musdb_are_not_the_published_model(settings, musdb):
    own = settings.run_folder(0) / "model.safetensors"
    found = published.case(settings, str(own), str(musdb))
    assert found.status == "blocked"
    assert found.paper_data  # data and windows are, all the same


def test_a_profile_names_weights_and_songs(settings, author, musdb, tmp_path):
    """The first weights of its list that are here, on the songs that it names; a name given by hand comes first."""
    own = str(settings.run_folder(0) / "model.safetensors")
    named = {"published_weights": ["author", str(author), own], "published_dataset": str(musdb)}
    paper = Profile(settings.values | named)
    found = published.case(paper)
    assert (found.status, found.weights, found.name, found.data) == ("measured", author, author.name, "MUSDB18-HQ")
    assert published.case(paper, own).weights == settings.run_folder(0) / "model.safetensors"
    rooted = published.case(Profile(settings.values | {"published_weights": [author.name], "published_dataset": "hq"}))
    assert (rooted.status, rooted.weights) == ("measured", author)  # under the repository, wherever the kernel runs
    none_here = published.case(Profile(settings.values | named | {"published_weights": ["author"]}))
    assert none_here.name == "BSMamba2 of this profile"
    assert none_here.status == "blocked" and none_here.paper_data
    assert "not fetched" in " ".join(none_here.missing)


def test_the_paper_profile_names_what_there_is():
    paper = Profile.load("paper")
    assert paper.published_weights[0] == published.AUTHOR
    assert set(paper.published_weights) <= weights.entries().keys()
    assert published.ROOT / paper.published_dataset == paper.data_folder
    assert not {"weights", "dataset"} & paper.values.keys()  # of all notebooks: they compare the trained models


def test_excerpts_in_the_layout_of_musdb_are_not_musdb(settings, author, musdb, monkeypatch):
    monkeypatch.setattr(published, "TEST_HOURS", 3.0)
    found = published.case(settings, str(author), str(musdb))
    assert found.status == "blocked"
    assert "excerpts" in found.data
    titles = [published.songs_title(layout, found.tracks) for layout in ("MUSDB18-HQ", "MIR-1K")]
    assert titles == ["excerpts of MUSDB18-HQ", "MIR-1K"]
    monkeypatch.setattr(published, "TEST_HOURS", 0.5 / 3600)
    assert published.songs_title("MUSDB18-HQ", found.tracks) == "MUSDB18-HQ"


def test_scores_that_are_kept_are_of_one_evaluation(settings, tmp_path):
    tracks = settings.tracks()["test"]
    first, same, other = (published.journal(settings, "scores", tracks, window=window) for window in (8.0, 8.0, 4.0))
    assert first.path == same.path != other.path
    assert first.path.parent == tmp_path / "runs/smoke" and first.path.name.startswith("scores-")
    assert first.settings["window"] == 8.0 and {"data", "scoring"} <= first.settings.keys()


def test_any_folder_of_songs(settings, tmp_path, write_song):
    write_song(tmp_path / "mine" / "one")
    found = published.case(settings, dataset=str(tmp_path / "mine"))
    assert found.status == "blocked"
    assert [track.name for track in found.tracks] == ["one"]
    assert found.data == "songs: mine"
    assert found.journal is not None


def test_the_published_scores_stand_beside_those_of_the_same_songs():
    records = [{"track": str(i), "separator": "model"} | dict.fromkeys(METRICS, float(i)) for i in range(6)]
    records[5]["csdr"] = None  # as of a song without vocals
    blocked, measured = (published.score_table(records, published=flag) for flag in (False, True))
    assert not any("RoFormer" in name for name in blocked)
    row = measured.set_index("metric").loc["cSDR (dB)"]
    assert row["BSMamba2"] == 11.03
    assert row["BS-RoFormer, same training code"] == 10.47
    assert measured.set_index("metric").loc["SI-SDR (dB)", "BSMamba2"] != 11.03
    songs = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert row["n"] == "n = 5"
    assert row["mean"] == words(crossed_interval([[v] for v in songs]))
    assert row["median"] == words(bootstrap_interval(songs, np.median))
    figure = figures.figure_of_scores(records, "songs", published.PUBLISHED)
    assert [ax.get_title() for ax in figure.axes] == ["uSDR, songs", "cSDR, songs"]


def test_scores_of_clips_are_drawn_by_singer():
    singers = dict(
        zip(("abjones", "amy", "annar", "bug", "davidson", "fdps"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], strict=True)
    )
    records = [
        {"track": f"{singer}_{song}_{clip:02d}", "separator": "model"} | dict.fromkeys(METRICS, value)
        for singer, value in singers.items()
        for song in (1, 2)
        for clip in range(1, 5)
    ]
    row = published.score_table(records, published=False).set_index("metric").loc["uSDR (dB)"]
    assert row["n"] == "n = 48 of 6 singers"
    whole = crossed_interval([[v] for v in singers.values()])  # eight clips of a singer are worth no more than one
    assert row["mean"] == words(whole)
    assert "[" not in row["median"]
