"""What the manifests say of each data set, and what is said of a manifest that is not of the schema."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from bsm.data import mir1k, registry
from bsm.errors import InputError

NAMES = ["demo", "falcon69", "mir1k", "musdb18", "musdb18-hq", "musdb18-sample"]
OURS = registry.MANIFESTS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the manifests, to be spoilt."""
    shutil.copytree(OURS, tmp_path / "data_manifest")
    monkeypatch.setattr(registry, "MANIFESTS", tmp_path / "data_manifest")
    return tmp_path / "data_manifest"


def test_every_manifest_is_of_the_schema():
    assert registry.names() == NAMES
    for name in NAMES:
        known = registry.load(name)
        assert known.name == name
        assert known.title and known.licence and known.citation
        assert known.place == registry.ROOT / "data" / name
        assert bool(known.files) != bool(known.made_by)
        for archive in known.files:
            assert not archive.verified  # nobody has measured one yet: `bsm data verify NAME --fill` does


@pytest.mark.parametrize("name", ["musdb18", "musdb18-hq", "musdb18-sample"])
def test_musdb_is_split_as_the_package_does(name):
    splits = registry.load(name).splits
    spec = find_spec("musdb")  # without importing it, which needs ffmpeg
    setup = yaml.safe_load((Path(spec.origin).parent / "configs" / "mus.yaml").read_text(encoding="utf-8"))
    assert {split: len(found.names) for split, found in splits.items()} == {"train": 86, "valid": 14, "test": 50}
    assert set(splits["valid"].names) == set(setup["validation_tracks"])
    assert [splits[split].folder for split in ("train", "valid", "test")] == ["train", "train", "test"]
    if name != "musdb18-sample":  # of 144 songs
        assert all(found.songs == len(found.names) for found in splits.values())


def test_musdb_sample_is_what_musdb_fetches():
    musdb = pytest.importorskip("musdb", exc_type=ImportError)
    setup = yaml.safe_load((Path(musdb.__path__[0]) / "configs" / "mus.yaml").read_text(encoding="utf-8"))
    (archive,) = registry.load("musdb18-sample").files
    assert archive.url == setup["sample-url"]


def test_mir1k_is_split_by_singer():
    known = registry.load("mir1k")
    assert known.rate == mir1k.RATE
    assert len({singer for found in known.splits.values() for singer in found.singers}) == 19
    assert (mir1k.song_of("khair_1_01"), mir1k.song_of("khair_1"), mir1k.song_of("nobody_1_01")) == (
        "khair_1",
        None,
        None,
    )
    assert known.splits["valid"].holds("khair_1_01")
    assert not known.splits["valid"].holds("tammy_1_01")


def test_demo_songs_are_those_that_are_made():
    from bsm.data.demo import _seeds
    from bsm.study.profiles import Profile

    profile = Profile.load("demo")
    made = _seeds({split: profile.values[f"{split}_songs"] for split in ("train", "valid", "test")})
    splits = registry.load("demo").splits
    assert {f"{split}/{name}" for split, found in splits.items() for name in found.names} == set(made)


def change(folder, name, **values):
    path = folder / f"{name}.yaml"
    known = yaml.safe_load(path.read_text(encoding="utf-8")) | values
    path.write_text(yaml.safe_dump({key: value for key, value in known.items() if value is not None}))


ARCHIVE = {"file": "a.zip", "url": "https://a.org/a.zip", "size": 1, "checksum": None, "verified": False}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rate": "fast"}, "rate: Input should be a valid integer"),
        ({"title": None}, "title: Field required"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"sources": ["drums", "bass"]}, "sources: needs vocals and others, each once, not drums, bass"),
        ({"layout": "heap"}, "layout: Input should be 'folders', 'stems' or 'clips'"),
        ({"files": [ARCHIVE | {"checksum": "1234"}]}, "files.0.checksum: String should match"),
        ({"files": [ARCHIVE | {"file": "../a.zip"}]}, "files.0.file: String should match"),
        ({"files": [ARCHIVE | {"file": "a.rar"}]}, "files: a.rar: needs .zip"),
        ({"files": [ARCHIVE | {"size": -1}]}, "files.0.size: Input should be greater than 0"),
        ({"rate": 0, "channels": "two"}, "rate: .*; channels: "),
        ({"files": [ARCHIVE], "made_by": "hand"}, "needs exactly one of files and made_by"),
        ({"files": None}, "needs exactly one of files and made_by"),
        ({"splits": {"train": {"songs": 1}}}, "splits.train: needs exactly one of names, names_of and singers"),
        (
            {"splits": {"dev": {"songs": 1, "names": ["a"]}}},
            r"splits.dev.*: Input should be 'train', 'valid' or 'test'",
        ),
        ({"splits": {"test": {"songs": 3, "names": ["a"]}}}, "splits.test: 3 songs, but 1 names"),
        (
            {"splits": {split: {"songs": 1, "names": ["twice"]} for split in ("train", "test")}},
            "splits: listed twice: twice",
        ),
    ],
)
def test_what_is_not_of_the_schema_is_named(values, match, folder):
    change(folder, "musdb18-hq", **values)
    with pytest.raises(InputError, match=match) as caught:
        registry.load("musdb18-hq")
    assert str(caught.value).startswith(f"{folder / 'musdb18-hq.yaml'}: ")
    assert "\n" not in str(caught.value)


def test_not_yaml_and_not_there(folder):
    change(folder, "musdb18", splits={"test": {"songs": 1, "names_of": "nope"}})
    with pytest.raises(InputError, match="unknown data set 'nope'"):
        registry.load("musdb18")
    (folder / "demo.yaml").write_text("title: [\n")
    with pytest.raises(InputError, match="not YAML"):
        registry.load("demo")
    with pytest.raises(InputError, match="unknown data set 'nope'; choose one of demo, falcon69"):
        registry.load("nope")


def test_fill_changes_three_lines_and_nothing_else(folder):
    before = (folder / "mir1k.yaml").read_text(encoding="utf-8").splitlines()
    digest = "sha256:" + "ab" * 32
    registry.fill("mir1k", "MIR-1K.zip", 12345, digest)
    after = (folder / "mir1k.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in after if line not in before] == [
        "    size: 12345",
        f"    checksum: {digest}",
        "    verified: true",
    ]
    assert len(after) == len(before)
    (archive,) = registry.load("mir1k").files
    assert (archive.size, archive.checksum, archive.verified) == (12345, digest, True)
    with pytest.raises(InputError, match="has no entry"):
        registry.fill("mir1k", "other.zip", 1, digest)
