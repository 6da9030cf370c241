"""What `bsm data verify` names: one fault after another put into a good data set, and nothing in the good one."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bsm import audio
from bsm.data import check, registry
from bsm.data.check import verify
from bsm.errors import InputError

RATE, SAMPLES = 8000, 12_000
SOURCES = ("bass", "drums", "vocals")
SONGS = {"train/Ünö - Süng": 0, "train/Two": 1, "train/Held Out": 2, "test/Three": 3}
REAL = Path(__file__).parents[2] / "shared" / "audio"


def write_song(folder, seed, suffix=".wav", subtype="PCM_16", samples=SAMPLES, rate=RATE):
    folder.mkdir(parents=True, exist_ok=True)
    sounds = np.random.default_rng(seed).integers(-7000, 7000, (len(SOURCES), 2, samples)).astype(np.float64) / 2**15
    for name, sound in zip((*SOURCES, "mixture"), (*sounds, sounds.sum(0)), strict=True):
        soundfile.write(folder / f"{name}{suffix}", sound.T, rate, subtype=subtype)


@pytest.fixture
def root(write_set, monkeypatch):
    """A good data set called `set`, with a manifest."""
    archive = {"file": "set.zip", "url": "https://a.org/set.zip", "size": None, "checksum": None, "verified": False}
    splits = {
        "train": {"songs": 2, "names": ["Ünö - Süng", "Two"]},
        "valid": {"songs": 1, "names": ["Held Out"], "folder": "train"},
        "test": {"songs": 1, "names": ["Three"]},
    }
    home = write_set(archive, channels=2, sources=list(SOURCES), mixture="sum", splits=splits)
    monkeypatch.setattr(check, "_BLOCK", 0.4)  # seconds: four blocks a song, the last one short
    for name, seed in SONGS.items():
        write_song(home / "data" / "set" / name, seed)
    return home / "data" / "set"


def faults(target):
    return [str(finding) for finding in verify(target) if finding.fault]


def rewrite(path, change, **options):
    sound, rate = soundfile.read(path, always_2d=True)
    info = soundfile.info(path)
    soundfile.write(path, change(sound), options.get("rate", rate), subtype=options.get("subtype", info.subtype))


def test_a_good_one_has_no_fault(root):
    assert faults("set") == faults(root) == faults(str(root)) == []
    (note,) = verify("set")
    assert (note.fault, note.what) == (False, "not unpacked by `bsm data fetch`, so its checksum is not known")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_formats(suffix, subtype, tmp_path):
    write_song(tmp_path / "a", 0, suffix, subtype)
    assert faults(tmp_path) == []
    rewrite(tmp_path / "a" / f"drums{suffix}", lambda x: x + 5 * 2.0 ** (1 - int(subtype[-2:])))
    (fault,) = faults(tmp_path)
    assert f"5 steps of {subtype[-2:]} bits at most where 4 are allowed" in fault


def test_float_files(tmp_path):
    write_song(tmp_path / "a", 0, subtype="FLOAT")
    assert faults(tmp_path) == []
    rewrite(tmp_path / "a" / "drums.wav", lambda x: x * 1.0001)
    (fault,) = faults(tmp_path)
    assert fault.startswith(f"{tmp_path}/a/mixture.wav: not the sum of bass, drums, vocals: it is ")


def cut(path):
    path.write_bytes(path.read_bytes()[:-4000])


def truncate_declared(path):
    """Shorter, and the header knows it."""
    rewrite(path, lambda x: x[:-1000])


TWO = "train/Two"
SPOILT = {
    "missing source": (lambda r: (r / TWO / "bass.wav").unlink(), ["Two/bass.wav: missing: bass"]),
    "missing vocals": (lambda r: (r / TWO / "vocals.wav").unlink(), ["Two/vocals.wav: missing: a song without vocals"]),
    "missing mixture": (lambda r: (r / TWO / "mixture.wav").unlink(), ["Two/mixture.wav: missing: mixture"]),
    "missing song": (lambda r: shutil.rmtree(r / TWO), ["train/Two: missing (train)"]),
    "missing validation song": (lambda r: shutil.rmtree(r / "train/Held Out"), ["train/Held Out: missing (valid)"]),
    "unknown song": (
        lambda r: write_song(r / "test/More", 9),
        ["test/More: not a song of set, or in the wrong folder"],
    ),
    "wrong folder": (
        lambda r: (r / TWO).rename(r / "test/Two"),
        ["train/Two: missing (train)", "test/Two: not a song of set"],
    ),
    "truncated": (
        lambda r: cut(r / TWO / "bass.wav"),
        ["bass.wav: unreadable: damaged audio file: ends after 1.375 of 1.5 s"],
    ),
    "unequal": (
        lambda r: truncate_declared(r / TWO / "mixture.wav"),
        ["mixture.wav: 11000 samples where the song's other files have 12000"],
    ),
    "wrong rate": (
        lambda r: rewrite(r / TWO / "bass.wav", lambda x: x, rate=16000),
        ["bass.wav: 16000 Hz where the data set has 8000"],
    ),
    "mono": (
        lambda r: rewrite(r / TWO / "bass.wav", lambda x: x[:, :1]),
        ["bass.wav: 1 channel(s) where the data set has 2"],
    ),
    "silent vocals": (
        lambda r: rewrite(r / TWO / "vocals.wav", lambda x: x * 0),
        ["vocals.wav: silent throughout", "mixture.wav: not the sum of bass, drums, vocals"],
    ),
    "not the sum, at the very end": (
        lambda r: rewrite(r / TWO / "drums.wav", lambda x: np.concatenate([x[:-1], x[-1:] + 0.01])),
        ["mixture.wav: not the sum of bass, drums, vocals"],
    ),
    "NaN": (
        lambda r: rewrite(
            r / TWO / "bass.wav", lambda x: np.where(np.arange(len(x))[:, None] == 9999, np.nan, x), subtype="FLOAT"
        ),
        ["bass.wav: unreadable: has NaN or infinite samples"],
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_every_fault_is_named(spoilt, root):
    spoil, expected = SPOILT[spoilt]
    spoil(root)
    found = faults("set")
    assert len(found) == len(expected)
    for part in expected:
        assert any(part in fault for fault in found)
    assert all(fault.startswith(str(root)) for fault in found)


def test_all_faults_of_a_song_are_named_at_once(root):
    folder = root / "test" / "Three"
    (folder / "bass.wav").write_bytes(b"RIFF")
    rewrite(folder / "drums.wav", lambda x: x, rate=16000)
    (folder / "mixture.wav").unlink()
    rewrite(folder / "vocals.wav", lambda x: x * 0)
    found = "\n".join(faults("set"))
    for part in ("bass.wav: unreadable", "drums.wav: 16000 Hz", "mixture.wav: missing", "vocals.wav: silent"):
        assert part in found
    assert len(faults("set")) == 4


@pytest.mark.parametrize("dither", [0, 2.0**-15])
def test_a_silent_source_is_a_note(dither, root):
    song = root / "test" / "Three"
    rewrite(song / "bass.wav", lambda x: dither * (-1.0) ** np.arange(x.size).reshape(x.shape))
    rewrite(song / "mixture.wav", lambda _: sum(soundfile.read(song / f"{name}.wav")[0] for name in SOURCES))
    assert faults("set") == []
    assert f"{song / 'bass.wav'}: silent throughout" in [str(finding) for finding in verify("set")]
    rewrite(song / "bass.wav", lambda x: x + 2.0**-14)
    assert not any("silent" in finding.what for finding in verify("set"))


def test_a_clipped_mixture_is_the_clipped_sum(root):
    song = root / "test" / "Three"
    sounds = [soundfile.read(song / f"{name}.wav")[0] * 3 for name in SOURCES]
    for name, sound in zip((*SOURCES, "mixture"), (*sounds, np.clip(sum(sounds), -1, 1)), strict=True):
        soundfile.write(song / f"{name}.wav", sound, RATE, subtype="PCM_16")
    assert np.abs(sum(sounds)).max() > 1.2
    assert faults("set") == []


def test_a_folder_by_its_path(root, tmp_path):
    """Without a manifest songs are held against each other."""
    flat = tmp_path / "flat"
    for seed, name in enumerate("abc"):
        write_song(flat / name, seed)
    assert faults(flat) == []
    write_song(flat / "d", 4, rate=16000)
    (flat / "b" / "vocals.wav").unlink()
    (flat / "e").mkdir()
    found = faults(flat)
    assert sum("16000 Hz where the data set has 8000" in fault for fault in found) == 4
    assert f"{flat}/b/vocals.wav: missing: a song without vocals" in found
    assert f"{flat}/e/vocals.wav: missing: a song without vocals" in found
    assert len(found) == 6
    assert faults(flat / "a") == []  # a single song
    rewrite(flat / "a" / "bass.wav", lambda x: x[:, :1])
    assert faults(flat / "a") == [f"{flat}/a/bass.wav: 1 channel(s) where the song's other files have 2"]


def test_clips(tmp_path):
    """MIR-1K: a source per channel."""
    (tmp_path / "Wavfile").mkdir()
    for name in ("Ani_1_01", "khair_2_03", "bug_1_01"):
        sound = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 4000))
        audio.write(tmp_path / "Wavfile" / f"{name}.wav", sound, 16000, subtype="PCM_16")
    assert faults(tmp_path) == []
    rewrite(tmp_path / "Wavfile" / "Ani_1_01.wav", lambda x: x * [1, 0])
    rewrite(tmp_path / "Wavfile" / "bug_1_01.wav", lambda x: x[:, :1])
    cut(tmp_path / "Wavfile" / "khair_2_03.wav")
    assert [fault.removeprefix(f"{tmp_path}/Wavfile/").partition(",")[0] for fault in faults(tmp_path)] == [
        "Ani_1_01.wav: vocals: silent throughout",
        "bug_1_01.wav: unreadable: has 1 channel(s)",
        "khair_2_03.wav: unreadable: damaged audio file: ends after 0.1875 of 0.25 s; copy or make it again",
    ]


def test_clips_of_a_known_set_are_held_against_their_singers(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    clips = tmp_path / "data" / "mir1k" / "Wavfile"
    clips.mkdir(parents=True)
    known = registry.load("mir1k")
    singers = [singer for split in known.splits.values() for singer in split.singers]
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 400))
    for singer in singers:
        audio.write(clips / f"{singer}_1_01.wav", sound, 16000, subtype="PCM_16")
    assert faults("mir1k") == []
    (clips / "khair_1_01.wav").unlink()
    assert faults("mir1k") == [f"{clips}: no clip by khair (valid)"]


def test_stem_files(stems):
    (note,) = verify(stems)
    assert not note.fault
    assert "15.4 dB above the difference, as it was coded apart" in note.what
    (song,) = (stems / "test").iterdir()
    whole = song.read_bytes()
    song.write_bytes(whole[: len(whole) // 2])
    assert all(str(song) in fault for fault in faults(stems))
    assert "unreadable" in faults(stems)[0]
    song.write_bytes(b"")
    (fault,) = faults(stems)
    assert fault.startswith(f"{song}: unreadable: cannot be read (")


def test_stem_files_without_ffmpeg(tmp_path, monkeypatch):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.stem.mp4").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="stem files need ffmpeg and ffprobe on PATH"):
        verify(tmp_path)


def test_a_stream_header_tells_no_length(tmp_path):
    write_song(tmp_path / "a", 0)
    path = tmp_path / "a" / "bass.wav"
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    assert faults(tmp_path) == []


def test_memory_is_bounded_by_a_block(root, monkeypatch):
    longest = []
    real = audio.read

    def read(path, **part):
        sound, rate = real(path, **part)
        longest.append(sound.shape[1])
        return sound, rate

    monkeypatch.setattr(audio, "read", read)
    verify("set")
    assert max(longest) == 0.4 * RATE
    assert sum(longest) == len(SONGS) * 4 * SAMPLES  # and all of it is read


def record(root, size, checksum):
    (root / "fetched.json").write_text(json.dumps({"files": {"set.zip": {"size": size, "checksum": checksum}}}))


def test_what_was_measured_on_the_download(root):
    digest = "md5:" + "0" * 32
    record(root, 123, digest)
    (note,) = verify("set")
    assert note.what == f"123 bytes, {digest}: not verified in the manifest; --fill enters it"
    assert registry.load("set").files[0].checksum is None
    (note,) = verify("set", fill=True)
    assert "now in the manifest, as verified" in note.what
    (archive,) = registry.load("set").files
    assert (archive.size, archive.checksum, archive.verified) == (123, digest, True)
    assert verify("set") == []
    record(root, 124, digest)
    (fault,) = faults("set")
    assert fault.startswith(f"{root}/set.zip: unpacked from 124 bytes, {digest}, where 123 and {digest} are recorded")


def test_what_cannot_be_verified(root, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; give a folder of songs"):
        verify(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no songs in it"):
        verify(tmp_path / "empty")
    with pytest.raises(InputError, match="has no manifest to fill in; these have: set"):
        verify(root, fill=True)
    shutil.rmtree(root)
    with pytest.raises(InputError, match="set: no such folder; run `bsm data fetch set`"):
        verify("set")


def test_command_line(root, invoke):
    good = invoke("data", "verify", "set")
    assert good.exit_code == 0
    assert "note: " in good.output
    assert "set: no fault found" in good.output
    rewrite(root / TWO / "vocals.wav", lambda x: x * 0)
    bad = invoke("data", "verify", "set")
    assert bad.exit_code == 1
    assert f"{root / TWO / 'vocals.wav'}: silent throughout" in bad.output
    assert "set: 2 fault(s)" in bad.output
    assert isinstance(invoke("data", "verify", "nowhere").exception, InputError)


def test_describe(root, invoke):
    table = invoke("data", "describe", root).output
    assert all(text in table for text in ("track", "seconds", "vocal_share", "regions", "Ünö - Süng", "Held Out"))
    assert table.count(" train ") == 3
    one = invoke("data", "describe", root / "test" / "Three").output
    assert "Three " in one
    assert "1.50" in one


@pytest.mark.skipif(not REAL.is_dir(), reason="the real excerpts are not here")
def test_real_recordings():
    assert faults(REAL / "dsd100_excerpts") == []
    (fault,) = faults(REAL / "musdb_excerpt")  # its mixture was coded apart
    assert "it is 31.6 dB above the difference" in fault
