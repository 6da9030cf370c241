"""The command line as a user sees it: files, exit status, standard output and standard error."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

import bsm.cli
import bsm.study.evaluation
import bsm.train.trainer
import bsm.weights.registry
from bsm import audio
from bsm.errors import InputError
from bsm.evaluate import METRICS, digest
from bsm.stats import bootstrap_interval
from bsm.study import profiles
from bsm.study.records import ROOT
from bsm.study.run import NotebookFailed
from bsm.weights.files import save_model
from calls import before_call, failing

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 16000
KINDS = ("vocals", "accompaniment")
STATISTICS = ["n", "dropped", "mean", "median", "std", "low", "high", "median_low", "median_high"]


class Result(NamedTuple):
    status: int
    out: list[str]
    err: list[str]


@pytest.fixture
def command(monkeypatch, capfd):
    """Return the function that calls the command line in this process, and gives its status and what it printed."""

    def run(*arguments, cwd=ROOT):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["bsm", *map(str, arguments)])
            patch.setattr(logging.root, "handlers", [])  # without pytest's, it logs to standard error
            patch.setenv("TQDM_MININTERVAL", "30")
            status = 0
            try:
                bsm.cli.main()
            except SystemExit as stop:
                status = stop.code
        return Result(status, *(text.splitlines() for text in capfd.readouterr()))

    return run


def assert_refused(result, *parts, status=2):
    """One line on standard error, nothing on standard output."""
    assert result.status == status, result.err
    assert len(result.err) == 1, result.err
    assert not result.out
    assert result.err[0].startswith("bsm")
    for part in parts:
        assert str(part) in result.err[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, small_model):
    return save_model(small_model, tmp_path_factory.mktemp("weights") / "model.safetensors", {"data": "none"})


@pytest.fixture
def separate(command, weights, tmp_path):
    """Return the function that calls `bsm separate` in `tmp_path`."""
    return lambda *arguments: command("separate", "--weights", weights, *arguments, cwd=tmp_path)


def write_noise(path, samples=1000, *, channels=2, rate=RATE, gain=1.0, nan=False, **options):
    sound = gain * np.random.default_rng(0).uniform(-0.5, 0.5, (samples, channels))
    if nan:
        sound[500, 0] = np.nan
    soundfile.write(path, sound, rate, **options)


def outputs(*songs, folder=""):
    return [f"{folder}{song}.{kind}.wav" for song in songs for kind in KINDS]


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- separate


@pytest.mark.parametrize(
    ("name", "channels", "rate", "options"),
    [
        ("song.wav", 2, 48000, []),
        ("song.wav", 1, 8000, ["--window", "0.3", "--hop", "0.1"]),
        ("song.flac", 2, 44100, ["--whole"]),
        ("song.ogg", 1, 22050, ["--subtype", "PCM_16"]),
        ("Ünïcode 歌 – live.v2.flac", 2, RATE, []),
    ],
)
def test_separate(separate, tmp_path, name, channels, rate, options):
    song = tmp_path / name
    write_noise(song, 9001, channels=channels, rate=rate)
    result = separate(*options, song)
    assert result.status == 0, result.err
    vocals, rest = (tmp_path / name for name in outputs(song.stem))
    assert result.out == [str(vocals), str(rest)]
    assert tree(tmp_path) == sorted([name, vocals.name, rest.name])
    mixture, _ = audio.read(song)
    assert mixture.shape == (channels, 9001)
    for path in (vocals, rest):
        assert audio.info(path) == audio.AudioInfo(rate, channels, 9001)
        assert soundfile.info(path).subtype == ("PCM_16" if "PCM_16" in options else "FLOAT")
    voice = audio.read(vocals)[0]
    step = 2**-14 if "PCM_16" in options else 0
    np.testing.assert_allclose(voice + audio.read(rest)[0], mixture, rtol=0, atol=1e-6 + step)
    assert np.abs(voice).max() > 1e-4


@pytest.fixture
def two_songs(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.flac"):
        write_noise(tmp_path / "in" / name, 3000, gain=1.9)
    return tmp_path


def test_separate_into_a_folder(separate, two_songs):
    songs = "in/a.wav", "in/b.flac", "in/a.wav"
    result = separate(*songs, "-o", "out/new")
    assert result.status == 0, result.err
    assert result.out == outputs("a", "b", folder="out/new/")  # a song named twice is separated once
    assert tree(two_songs / "out" / "new") == sorted(outputs("a", "b"))
    assert tree(two_songs / "in") == ["a.wav", "b.flac"]


def test_separate_a_folder_twice(separate, two_songs):
    """A folder's audio files are separated, earlier outputs are skipped and replaced with --overwrite only."""
    folder, names = two_songs / "in", outputs("a", "b")
    (folder / "notes.txt").touch()
    result = separate("in")
    assert (result.status, result.out, result.err) == (0, outputs("a", "b", folder="in/"), [])
    before = (folder / names[0]).read_bytes()
    options = ("--threads", "1", "--batch-size", "3", "--window", "0.05")
    refused = separate("in", *options)
    assert refused.status == 2 and not refused.out
    assert "in/a.vocals.wav: exists" in refused.err[-1] and "--overwrite" in refused.err[-1]
    everything = sorted(str(p) for p in folder.glob("*.*") if p.suffix != ".txt")  # as a shell expands *.wav *.flac
    assert_refused(separate(*everything, "--overwrite"), "is one of the songs")
    assert (folder / names[0]).read_bytes() == before
    result = separate("in", "--overwrite", *options)
    assert (result.status, result.out) == (0, outputs("a", "b", folder="in/"))
    (line,) = result.err
    assert "skipped earlier outputs" in line and all(name in line for name in names)
    assert (folder / names[0]).read_bytes() != before
    assert tree(folder) == sorted([*names, "a.wav", "b.flac", "notes.txt"])


@pytest.fixture
def refused(separate, tmp_path):
    """A folder of what cannot be used; the function that calls `bsm separate` in it, and finds it as it was."""
    for name, channels in {"a.wav": 2, "six.wav": 6, "piped.wav": 2}.items():
        write_noise(tmp_path / name, channels=channels)
    for name in ("notes.txt", "text.safetensors"):
        (tmp_path / name).write_text("neither music nor weights")
    os.mkfifo(tmp_path / "piped.vocals.wav")
    (tmp_path / "closed").mkdir(mode=0o500)
    before = tree(tmp_path)

    def run(arguments):
        result = separate(*arguments.split())
        assert tree(tmp_path) == before and (tmp_path / "piped.vocals.wav").is_fifo()
        return result

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("missing.wav -o made", "missing.wav: no such file"),
        ("notes.txt -o made", "notes.txt: not an audio file"),
        ("piped.wav --overwrite", "piped.vocals.wav: is a pipe or a device; name a file to write to"),
        ("a.wav six.wav", "six.wav has 6 channels; the model takes 2, or mono"),
        ("a.wav -o six.wav/below", "six.wav"),
        ("a.wav -o closed/below", "closed"),
        ("a.wav --weights text.safetensors", "text.safetensors"),
        ("a.wav --weights closed", "closed"),
        *((f"a.wav --threads {number}", "threads") for number in (0, 99999999999)),
        ("a.wav --batch-size 0", "batch"),
        ("a.wav --device abacus", "device"),
        ("a.wav --window nan", "window"),
        ("a.wav --hop 9", "hop"),
        ("a.wav --subtype PCM_8", "subtype"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_line_and_a_status(refused, arguments, said):
    """Before anything is written. What else is refused lies in the tests of the package."""
    if "-o closed" in arguments and os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    assert_refused(refused(arguments), said)


def test_one_bad_song_among_good_ones(separate, tmp_path):
    """A bad header stops the command before any song, bad samples when it reaches them; then it can continue."""
    for name in ("a.wav", "c.wav"):
        write_noise(tmp_path / name)
    (tmp_path / "b.wav").write_text("no music")
    songs = "a.wav", "b.wav", "c.wav"
    assert_refused(separate(*songs), "b.wav: not an audio file")
    assert tree(tmp_path) == ["a.wav", "b.wav", "c.wav"]
    write_noise(tmp_path / "b.wav", nan=True, subtype="FLOAT")
    result = separate(*songs)
    assert result.status == 2
    assert result.out == outputs("a")
    assert len(result.err) == 1, result.err
    assert "b.wav: has NaN or infinite samples" in result.err[0]
    assert tree(tmp_path) == ["a.accompaniment.wav", "a.vocals.wav", "a.wav", "b.wav", "c.wav"]
    before = (tmp_path / "a.vocals.wav").stat().st_mtime_ns
    write_noise(tmp_path / "b.wav")
    result = separate(*songs, "--skip-existing")
    assert result.status == 0
    assert result.out == outputs("b", "c")
    assert "1 of 3 song(s)" in result.err[0]
    assert (tmp_path / "a.vocals.wav").stat().st_mtime_ns == before


def test_what_a_folder_holds_but_cannot_be_read_is_told_by_line_and_status(separate, tmp_path):
    for name in ("a.wav", "e.WAVE"):
        write_noise(tmp_path / name, format="WAV")
    for name in ("b.m4a", "c.mp4", "h.wma"):
        (tmp_path / name).touch()
    result = separate(".")
    assert (result.status, result.out) == (2, outputs("a", "e"))
    (line,) = result.err
    assert "left out 3 file(s) that cannot be read: b.m4a, c.mp4, h.wma; convert it first" in line


def test_a_console_that_cannot_print_a_name(tmp_path):
    run = [sys.executable, "-m", "bsm", "provenance", "歌.json"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert b"\\u6b4c.json" in line


@pytest.mark.parametrize("old", [False, True])
def test_both_files_or_neither(separate, tmp_path, monkeypatch, old):
    song = tmp_path / "a.wav"
    write_noise(song)
    for kind in KINDS if old else ():
        (tmp_path / f"a.{kind}.wav").write_text(kind)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(soundfile, "write", before_call(soundfile.write, 2, failing(OSError("no room"))))
    assert_refused(separate("--overwrite", song), f"{tmp_path / 'a.accompaniment.wav'}: cannot be written")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_song_whose_name_is_not_utf8(weights, tmp_path, monkeypatch, capfdbinary):
    song = tmp_path / os.fsdecode(b"caf\xe9.wav")
    try:
        audio.write(song, np.full((2, 1000), 0.1), RATE)
    except InputError:
        pytest.skip("this file system accepts only UTF-8 names")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bsm", "separate", "--weights", str(weights), song.name])
    bsm.cli.main()
    assert capfdbinary.readouterr().out.split() == [b"caf\xe9.vocals.wav", b"caf\xe9.accompaniment.wav"]


def test_separate_without_weights_takes_the_small_model_of_the_package_and_says_so(tmp_path, command):
    write_noise(tmp_path / "a.wav")
    done = command("separate", tmp_path / "a.wav")
    assert done.status == 0 and "--weights" in next(line for line in done.err if "synthesised songs" in line)
    assert (tmp_path / "a.vocals.wav").is_file()


# ---- the other commands


def test_wrong_usage_is_one_line(command):
    assert_refused(command("separate"), "bsm separate: Missing argument 'SONGS...'")
    assert_refused(command("separate", "--nope", "a.wav"), "bsm separate: No such option", "--nope")
    assert_refused(command("sing"), "bsm: No such command 'sing'")
    assert_refused(command("bench", "sing"), "bsm bench: No such command 'sing'")
    assert_refused(command("bench", "scan", "--batch", "2"), "bsm bench scan: No such option", "--batch")
    assert_refused(command("train", "smoke", "--steps", "many"), "bsm train: ", "'many' is not a valid integer")
    for seed in (-1, 2**63):
        assert_refused(command("train", "smoke", "--seed", seed), "bsm train: ", f"{seed} is not in the range")


def test_help_and_version(command):
    for arguments, word in (((), "separate"), (("--help",), "separate"), (("bench",), "scan")):
        result = command(*arguments)
        assert word in "\n".join(result.out + result.err)
    result = command("--version")
    assert (result.status, result.err) == (0, [])
    assert bsm.__version__ in result.out[0]


@pytest.mark.parametrize("arguments", [("data", "prepare"), ("study", "04_train", "--profile")], ids=" ".join)
def test_a_wrong_profile(command, tmp_path, arguments):
    result = command(*arguments, "nope", cwd=tmp_path)
    assert_refused(result, "there is no profile 'nope'; choose one of: demo", "smoke")
    assert tree(tmp_path) == []


def test_study_refuses_what_it_does_not_know(command, tmp_path):
    output = ("-o", tmp_path / "out.ipynb")
    assert_refused(
        command("study", "04_train", *output, "-p", "sead", "1"),
        "unknown parameter of 04_train.ipynb: 'sead'; choose one of profile",
    )
    assert_refused(command("study", "04_train", *output, "-p", "seed", "[1"), "not YAML")
    assert tree(tmp_path) == []


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return the function that calls `bsm study 05_input_length`, and gives the copy's path and the parameters."""
    ran = []
    monkeypatch.setattr("bsm.study.run.run_notebook", lambda _, output, **given: ran.append((output, given)))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        bsm.cli.cli(["study", "05_input_length", "--profile", "smoke", *arguments], standalone_mode=False)
        output, given = ran.pop()
        return output, given["parameters"]

    return run


def test_an_executed_notebook_lies_beside_its_results(study, tmp_path):
    name = "notebooks/05_input_length.ipynb"
    assert study()[0] == ROOT / "reports/smoke" / name
    assert study("-p", "out", "made")[0] == tmp_path / "made" / name
    assert study("-p", "out", "made", "-o", "other.ipynb")[0] == Path("other.ipynb")
    assert study("-p", "weights", "m.pt")[0] == ROOT / "runs/05_input_length" / name  # apart from the profile's


def test_paths_given_to_a_notebook_are_the_callers(study, tmp_path):
    """The kernel runs in the repository, wherever the command was called."""
    for text, value in (
        ("author", "author"),
        ("m.pt", str(tmp_path / "m.pt")),
        ("{ours: a.safetensors, theirs: author}", {"ours": str(tmp_path / "a.safetensors"), "theirs": "author"}),
        ("''", ""),
        ("null", None),
        ("[a]", ["a"]),
    ):
        assert study("-p", "weights", text)[1] == {"weights": value}
    given = ("-p", "out", "../x", "-p", "run", "runs/a", "-p", "dataset", "./songs", "-p", "example", "2")
    wanted = {"out": str(tmp_path / "../x"), "run": str(tmp_path / "runs/a"), "dataset": str(tmp_path / "songs")}
    assert study(*given)[1] == wanted | {"example": 2}


def test_a_failed_notebook(monkeypatch, command):
    failed = failing(NotebookFailed("04_train.ipynb failed in cell [2]"))
    monkeypatch.setattr("bsm.study.run.run_notebook", failed)
    assert_refused(command("study", "04_train"), "bsm: 04_train.ipynb failed in cell [2]", status=1)


@pytest.fixture
def profile(tmp_path, monkeypatch, write_song):
    """The file of a profile with one song per split; its study lies under `tmp_path`."""
    values = {"profile": "own", "data": "own", "model": "tiny", "seed": 0, "steps": 1, "batch_size": 1}
    values |= {"accumulate": 1, "segment_seconds": 0.25, "workers": 0, "precision": "32-true"}
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(values))
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    for split in ("train", "valid", "test"):
        write_song(tmp_path / "data" / "own" / split / "a", 2.0)
    return path


def test_train(profile, tmp_path, command):
    made = tmp_path / "runs" / "own" / "bsmamba2-tiny-seed3" / "model.safetensors"
    assert command("train", profile, "--seed", "3", "--device", "cpu").out == [str(made)]
    assert json.loads(made.with_suffix(".json").read_text())["train"]["seed"] == 3
    # The same folder for another training.
    assert_refused(command("train", profile, "--run", made.parent), "holds another run: seed was 3, is 0")


def test_train_without_songs_or_device(profile, tmp_path, command):
    assert_refused(command("train", profile, "--device", "abacus"), "device 'abacus'")
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert_refused(command("train", profile), "no songs yet; copy or link them to data/own")
    assert not (tmp_path / "runs").exists()


def test_train_when_the_loss_fails(profile, monkeypatch, command):
    monkeypatch.setattr(bsm.train.trainer, "bsmamba2_loss", lambda estimate, *_: estimate.sum() * float("nan"))
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"max_skipped": 1}))
    result = command("train", profile, "--device", "cpu")
    told = "loss or gradient was not finite in 1 updates in a row, steps 1 to 1; the checkpoint before them is kept"
    assert (result.status, result.err[-1]) == (1, f"bsm: {told}")


@pytest.fixture
def songs(tmp_path, write_song):
    for seed, name in enumerate(("a", "b")):
        write_song(tmp_path / "songs" / name, 2.0, rate=RATE, seed=seed)
    return tmp_path / "songs"


def test_evaluate(command, weights, songs, tmp_path):
    arguments = ["evaluate", "--weights", weights, "--data", "songs", "--processes", "1", "-o", "scores.json"]
    result = command(*arguments, cwd=tmp_path)
    assert result.status == 0, result.err
    assert {line.split()[0] for line in result.out[1:]} == set(METRICS)
    assert result.out[0].split() == STATISTICS
    assert "written to scores.json" in result.err[-1]
    record = json.loads((tmp_path / "scores.json").read_text())
    assert [v["track"] for v in record["values"]] == ["a", "b"]
    assert record["comparable_with_paper"] is False
    values, found = [v["usdr"] for v in record["values"]], record["summary"]["usdr"]
    assert found["mean"] == pytest.approx(np.mean(values))
    of_median = bootstrap_interval(values, np.median)
    assert (found["median_low"], found["median_high"]) == pytest.approx((of_median.low, of_median.high))
    assert record["parameters"]["window"] == record["parameters"]["hop"] == 8
    assert record["parameters"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    refused = command(*arguments, "--hop", "4", cwd=tmp_path)
    assert_refused(refused, "scores.tracks.jsonl: holds the scores of another evaluation (hop was 8.0, is 4.0)")


def test_evaluate_refuses_bad_paths_and_songs_of_other_channels(command, weights, songs, tmp_path):
    arguments = ["evaluate", "--weights", weights, "--data"]
    assert_refused(command(*arguments, "nowhere", cwd=tmp_path), "nowhere: no such folder", "MUSDB18-HQ")
    assert_refused(command(*arguments, "songs", "-o", "songs", cwd=tmp_path), "songs: is a folder; name a file")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(command(*arguments, "songs", "-o", "pipe", cwd=tmp_path), "pipe: is a pipe or a device")
    for name in ("vocals", "other"):
        write_noise(songs / "b" / f"{name}.wav", 2 * RATE, channels=6)
    refused = command(*arguments, "songs", "-o", "scores.json", cwd=tmp_path)
    assert_refused(refused, "b has 6 channels; the model takes 2, or mono")
    assert (tmp_path / "pipe").is_fifo() and tree(tmp_path) == ["pipe", "songs", *(f"songs/{p}" for p in tree(songs))]


def test_evaluate_keeps_its_scores_unasked(command, weights, songs, tmp_path):
    """Without -o, weights, data and settings name a file under runs/, so that the same command resumes."""
    shutil.rmtree(songs / "b")
    arguments = ["evaluate", "--weights", weights, "--data", "songs", "--processes", "1"]
    result = command(*arguments, cwd=tmp_path)
    assert result.status == 0, result.err
    (path,) = (tmp_path / "runs/evaluate").glob("*.json")
    assert f"written to runs/evaluate/{path.name}" in result.err
    journal = path.with_suffix(".tracks.jsonl")
    assert any(str(journal.relative_to(tmp_path)) in line for line in result.err)  # told before hours of computing
    settings, kept = map(json.loads, journal.read_text().splitlines())
    assert path.name == f"{weights.stem}-songs-{digest(settings)}.json"
    assert digest(settings | {"window": 0.5}) != digest(settings)
    written = path.read_bytes()
    assert command(*arguments, cwd=tmp_path).status == 0
    assert path.read_bytes() == written  # nothing was computed, so the result's origin stays
    journal.write_text(f"{json.dumps(settings)}\n{json.dumps(kept | {'usdr': 12.5})}\n")
    assert command(*arguments, cwd=tmp_path).status == 0
    assert json.loads(path.read_text())["values"][0]["usdr"] == 12.5  # not scored again


def test_evaluate_skips_bad_songs_only_when_asked(command, weights, songs, tmp_path):
    write_noise(songs / "b" / "other.wav", 2 * RATE, nan=True, subtype="FLOAT")
    arguments = ["evaluate", "--weights", weights, "--data", "songs", "--processes", "1", "-o", "scores.json"]
    stopped = command(*arguments, cwd=tmp_path)
    assert stopped.status == 2
    assert "songs/b/other.wav: has NaN or infinite samples" in stopped.err[-1]
    assert not (tmp_path / "scores.json").exists()
    (tmp_path / "scores.tracks.jsonl").unlink(missing_ok=True)
    result = command(*arguments, "--skip-bad", cwd=tmp_path)
    assert result.status == 0, result.err
    assert result.err[-1] == "skipped, not scored: b"
    record = json.loads((tmp_path / "scores.json").read_text())
    assert [v["track"] for v in record["values"]] == ["a"]
    assert list(record["parameters"]["skipped"]) == ["b"]


def test_the_licence_of_named_weights_is_said(weights, songs, tmp_path, monkeypatch, capsys):
    """Both commands print it once, as `bsm weights` does, and refuse a file in the cache that was altered."""
    body, cached = weights.read_bytes(), tmp_path / "named.safetensors"
    file = {"file": cached.name, "url": "http://127.0.0.1:9/", "size": len(body)}
    file |= {"checksum": f"sha256:{hashlib.sha256(body).hexdigest()}"}
    named = {"title": "a model", "licence": "none stated", "note": "a note", "files": [file]}
    (tmp_path / "weights.yaml").write_text(json.dumps({"named": named}))
    monkeypatch.setattr(bsm.weights.registry, "MANIFEST", tmp_path / "weights.yaml")
    monkeypatch.setenv("BSM_CACHE", str(tmp_path))
    cached.write_bytes(body)
    write_noise(tmp_path / "a.wav")

    def run(*arguments):
        bsm.cli.cli(list(arguments), standalone_mode=False)
        return capsys.readouterr().err

    monkeypatch.setattr(bsm.study.evaluation, "evaluate", failing(InputError("far enough")))
    monkeypatch.chdir(tmp_path)
    line = "licence of 'named': none stated\na note\n"
    assert run("separate", "--weights", "named", "a.wav").count(line) == 1
    assert "licence" not in run("separate", "--weights", cached.name, "--overwrite", "a.wav")
    with pytest.raises(InputError, match="far enough"):
        run("evaluate", "--weights", "named", "--data", "songs")
    assert capsys.readouterr().err.count(line) == 1
    cached.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    for arguments in (["separate", "a.wav", "-o", "out"], ["evaluate", "--data", "songs"]):
        with pytest.raises(InputError, match="SHA-256 .* fetch them again: bsm weights fetch named"):
            run(*arguments, "--weights", "named")


def test_python_m_and_the_installed_command():
    """Real processes, not forks, also report a missing file in one line."""
    installed = Path(sys.executable).with_name("bsm")
    commands = [[sys.executable, "-m", "bsm"], *([[str(installed)]] if installed.exists() else [])]
    arguments = ["study", "04_train", "--profile", "nope"]
    for process in [
        subprocess.Popen([*c, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands
    ]:
        out, err = process.communicate()
        assert (process.returncode, out) == (2, "")
        assert err == "bsm: there is no profile 'nope'; choose one of: " + err.partition("one of: ")[2]
        assert err.count("\n") == 1
