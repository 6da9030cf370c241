"""What a notebook studies: the profile's runs by default, any weights and songs where they are named."""

from types import SimpleNamespace

import pytest

from bsm.errors import InputError
from bsm.study import published, subjects
from bsm.study.profiles import Profile
from bsm.weights.files import save_model

CARD = {"train": {"segment_seconds": 4.0, "seed": 5}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_model):
    """The runs of two seeds, and weights without a card."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        save_model(small_model, folder / f"bsmamba2-{seed}/model.safetensors", {"train": {"segment_seconds": 2.0}})
    save_model(small_model, folder / "bare.safetensors", {})
    save_model(small_model, folder / "other.safetensors", CARD)
    return folder


@pytest.fixture
def settings(runs, monkeypatch):
    monkeypatch.setattr(Profile, "run_folder", lambda self, seed, backbone: runs / f"{backbone}-{seed}")
    return Profile({"profile": "smoke", "data": "smoke", "segment_seconds": 1.0})


def test_by_default_the_profiles_runs(settings, small_model):
    found = subjects.subjects(settings, backbones=["bsmamba2"], seeds=[0, 1])
    assert [(s.name, s.seed, s.trained_seconds) for s in found] == [("BSMamba2", 0, 2.0), ("BSMamba2", 1, 2.0)]
    assert not found[0].network.training
    text = subjects.described(found)
    count = sum(p.numel() for p in small_model.parameters())
    assert f"- BSMamba2, seed 1: {count:,} parameters, trained on segments of 2 s" in text
    assert "Only BSMamba2 is here" in text


@pytest.mark.parametrize(
    ("field", "value", "what"), [("recipe", 2, "recipe versions"), ("data", {"train": [["x", 2]]}, "songs")]
)
def test_runs_of_different_recipes_or_songs_are_not_combined(
    settings, tmp_path, monkeypatch, small_model, field, value, what
):
    monkeypatch.setattr(Profile, "run_folder", lambda self, seed, backbone: tmp_path / f"{backbone}-{seed}")
    card = {"train": {"segment_seconds": 2.0}, "recipe": 1, "data": {"train": [["x", 1]]}}
    for seed, own in enumerate((card, card, card | {field: value})):
        save_model(small_model, tmp_path / f"bsmamba2-{seed}/model.safetensors", own)
    assert len(subjects.subjects(settings, seeds=[0, 1])) == 2
    with pytest.raises(InputError) as error:
        subjects.subjects(settings, seeds=[0, 1, 2])
    message = str(error.value)
    assert f"trained by different {what}, not to be combined" in message
    assert "bsmamba2-0/model.safetensors and " in message and "bsmamba2-2/model.safetensors: " in message
    assert "`make reproduce PROFILE=smoke SEEDS=3`" in message
    chosen = {str(seed): str(tmp_path / f"bsmamba2-{seed}/model.safetensors") for seed in range(3)}
    assert len(subjects.subjects(settings, chosen)) == 3  # named by hand: to compare them is the question


def test_a_path_is_one_model(settings, runs):
    (found,) = subjects.subjects(settings, str(runs / "other.safetensors"))
    assert (found.name, found.seed, found.trained_seconds) == ("BSMamba2", 5, 4.0)
    (bare,) = subjects.subjects(settings, str(runs / "bare.safetensors"))
    assert (bare.seed, bare.trained_seconds) == (None, 1.0)  # the profile's


def test_a_mapping_names_its_models(settings, runs):
    chosen = {"bsmamba2": str(runs / "bare.safetensors"), "longer": str(runs / "other.safetensors")}
    found = subjects.subjects(settings, chosen)
    assert [s.name for s in found] == ["BSMamba2", "longer"]
    assert "Only" not in subjects.described(found)


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [
        ("nowhere.safetensors", {}, "no such weights file"),
        (["a"], {}, "weights must be a path, a name, or a mapping"),
        ([], {}, r"weights must be .*, not \[\]"),
        ({}, {}, r"weights must be .*, not \{\}"),
        (0, {}, "weights must be .*, not 0"),
        (False, {}, "weights must be .*, not False"),
        ({"a": 5}, {}, "weights must be .*, not {'a': 5}"),
        (None, {"backbones": ["gru"]}, "backbones: there is no 'gru'"),
        (None, {"seeds": []}, "name at least one of each"),
        (
            None,
            {"seeds": [7]},
            "bsmamba2-7/model.safetensors: not trained yet; run `bsm train smoke --backbone bsmamba2 --seed 7`",
        ),
    ],
)
def test_what_is_not_there_is_told(settings, chosen, options, message):
    with pytest.raises(InputError, match=message):
        subjects.subjects(settings, chosen, **options)


def test_coverage_is_of_the_seeds_and_songs_that_are_there(settings, runs):
    two = subjects.subjects(settings, seeds=[0, 1])
    many = [SimpleNamespace(name=f"song {n}") for n in range(20)]
    assert (
        subjects.coverage(two, many) == "95 % intervals over songs and 2 training seeds, the wider of bootstrap and t"
    )
    clips = [SimpleNamespace(name=f"abjones_{n}_{part:02d}") for n in range(1, 6) for part in range(1, 5)]
    named = subjects.subjects(settings, {n: str(runs / f"bsmamba2-{n}/model.safetensors") for n in (0, 1)})
    text = subjects.coverage(named, clips)  # two models of one training each
    assert "one training seed" in text and "1 song cannot give any" in text  # one singer


def test_songs_of_any_folder(settings, tmp_path, monkeypatch, write_song):
    write_song(tmp_path / "mine/test/song", 0.01)
    title, tracks, comparable = subjects.songs(settings, str(tmp_path / "mine"))
    assert (title, [t.name for t in tracks], comparable) == ("songs: mine", ["song"], False)
    # A few songs named like MUSDB18-HQ's are not its test set.
    monkeypatch.setattr(published, "open_tracks", lambda root, split: ("MUSDB18-HQ", tracks))
    assert subjects.songs(settings, "hq") == ("excerpts of MUSDB18-HQ: hq", tracks, False)
    monkeypatch.setattr(published, "TEST_HOURS", 1e-9)
    assert subjects.songs(settings, "hq") == ("MUSDB18-HQ", tracks, True)
