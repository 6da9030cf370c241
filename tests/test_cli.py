"""The command line, as a user sees it: files, exit status, and what really reaches standard output and error."""

import dataclasses
import hashlib
import importlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import bsm.cli
import bsm.evaluate
import bsm.weights.registry
from bsm import audio
from bsm.bands import equal
from bsm.cli.models import _result_file
from bsm.config import ModelConfig, StftConfig
from bsm.errors import InputError
from bsm.model import BSMamba2
from bsm.study.stats import bootstrap_interval
from bsm.weights.files import save_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
RATE = 16000

# Importing PyTorch and papermill takes seconds: one process imports them once, and each command runs in a fork of that
# process, with standard output and error of its own.
SERVER = """
import json, os, sys, traceback
import torch
from bsm.cli import main
import bsm.weights.files, bsm.inference, bsm.study.notebooks, bsm.study.profiles
torch.set_num_threads(1)
with torch.device("meta"):  # whose first use imports a good deal, too
    torch.empty(1).uniform_(1, 2).log_()
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(order["cwd"])
        for number, name in ((1, order["out"]), (2, order["err"])):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(order["environment"])
        sys.argv = ["bsm", *order["arguments"]]
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # tearing PyTorch down takes longer than most commands
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclasses.dataclass
class Result:
    status: int
    out: list[str]
    err: list[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    command, said = [sys.executable, "-c", SERVER], tmp_path_factory.mktemp("server") / "err"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with said.open("w") as file, subprocess.Popen(command, stderr=file, **pipes) as process:
        yield process
        process.stdin.close()
    assert not said.read_text()  # the imports themselves warn of nothing


@pytest.fixture
def command(server, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")

    def run(*arguments, cwd=ROOT, **environment) -> Result:
        order = {"arguments": [str(a) for a in arguments], "cwd": str(cwd), "environment": environment}
        order |= {"out": str(logs / "out"), "err": str(logs / "err")}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return Result(status, *((logs / name).read_text().splitlines() for name in ("out", "err")))

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
def weights(tmp_path_factory):
    torch.manual_seed(0)
    config = ModelConfig(
        sample_rate=RATE,
        stft=StftConfig(n_fft=256, hop_length=128),
        bands=equal(129, 4),
        dim=8,
        depth=1,
        d_state=8,
        headdim=8,
        expand=2,
        mask_expansion=1,
    )
    return save_model(BSMamba2(config), tmp_path_factory.mktemp("weights") / "model.safetensors", {"data": "none"})


def noise(channels, samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- separate


@pytest.mark.parametrize(
    ("name", "channels", "rate", "options"),
    [
        ("song.wav", 2, 48000, []),
        ("song.wav", 1, 8000, ["--window", "0.3", "--hop", "0.1"]),
        ("song.flac", 2, 44100, ["--whole"]),
        ("song.ogg", 1, 22050, []),
        ("Ünïcode 歌 – live.v2.flac", 2, RATE, []),
    ],
)
def test_separate(command, weights, tmp_path, name, channels, rate, options):
    song = tmp_path / name
    soundfile.write(song, noise(channels, 9001).T, rate)
    result = command("separate", "--weights", weights, *options, song)
    assert result.status == 0, result.err
    vocals, rest = (tmp_path / f"{song.stem}.{kind}.wav" for kind in ("vocals", "accompaniment"))
    assert result.out == [str(vocals), str(rest)]
    assert tree(tmp_path) == sorted([name, vocals.name, rest.name])
    mixture, _ = audio.read(song)
    assert mixture.shape == (channels, 9001)
    for path in (vocals, rest):
        assert audio.info(path) == audio.AudioInfo(rate, channels, 9001)
        assert soundfile.info(path).subtype == "FLOAT"
    voice = audio.read(vocals)[0]
    np.testing.assert_allclose(voice + audio.read(rest)[0], mixture, rtol=0, atol=1e-6)
    assert np.abs(voice).max() > 1e-4


def test_separate_into_a_folder(command, weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / "in" / name, noise(2, 3000).T, RATE)
    result = command(
        "separate", "in/a.wav", "in/b.flac", "in/a.wav", "--weights", weights, "-o", "out/new", cwd=tmp_path
    )
    assert result.status == 0, result.err
    names = [f"{song}.{kind}.wav" for song in "ab" for kind in ("vocals", "accompaniment")]
    assert result.out == [f"out/new/{name}" for name in names]  # a song named twice is separated once
    assert tree(tmp_path / "out" / "new") == sorted(names)
    assert tree(tmp_path / "in") == ["a.wav", "b.flac"]


def test_separate_a_folder_twice(command, weights, tmp_path):
    """All audio files inside, other files and earlier results aside; PCM that would clip is turned down, and said."""
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / "in" / name, 1.9 * noise(2, 3000).T, RATE)
    (tmp_path / "in" / "notes.txt").touch()
    names = [f"{song}.{kind}.wav" for song in "ab" for kind in ("vocals", "accompaniment")]
    result = command("separate", "in", "--weights", weights, cwd=tmp_path)
    assert (result.status, result.out, result.err) == (0, [f"in/{name}" for name in names], [])
    before = (tmp_path / "in" / names[0]).read_bytes()
    options = ("--threads", "1", "--batch-size", "3", "--window", "0.05")
    refused = command("separate", "in", "--weights", weights, *options, cwd=tmp_path)
    assert refused.status == 2 and not refused.out
    assert "in/a.vocals.wav: is there already" in refused.err[-1] and "--overwrite" in refused.err[-1]
    everything = sorted(str(p) for p in (tmp_path / "in").glob("*.*") if p.suffix != ".txt")
    refused = command("separate", *everything, "--weights", weights, "--overwrite", cwd=tmp_path)  # *.wav *.flac
    assert_refused(refused, "is one of the songs")
    assert (tmp_path / "in" / names[0]).read_bytes() == before
    result = command("separate", "in", "--weights", weights, "--overwrite", *options, cwd=tmp_path)
    assert (result.status, result.out) == (0, [f"in/{name}" for name in names])
    (line,) = result.err
    assert "passed over" in line and all(name in line for name in names)
    assert (tmp_path / "in" / names[0]).read_bytes() != before
    assert tree(tmp_path / "in") == sorted([*names, "a.wav", "b.flac", "notes.txt"])
    soundfile.write(tmp_path / "loud.wav", 6 * noise(1, 3000).T, RATE, subtype="FLOAT")
    result = command("separate", "loud.wav", "--weights", weights, "--subtype", "PCM_16", cwd=tmp_path)
    assert result.status == 0
    (line,) = result.err
    assert "loud.wav: peak" in line and "both parts are turned down by" in line
    parts = [audio.read(tmp_path / f"loud.{kind}.wav")[0] for kind in ("vocals", "accompaniment")]
    assert 0.99 < max(np.abs(part).max() for part in parts) <= 1
    assert soundfile.info(tmp_path / "loud.vocals.wav").subtype == "PCM_16"


def bad_songs(folder):
    """Write unusable songs; return their names, each with a word of its complaint."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is no music")
    (folder / "notes.txt").write_text("this is no music")
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "no_samples.wav", np.zeros((0, 2)), RATE)
    soundfile.write(folder / "three.wav", noise(3, 1000).T, RATE)
    hurt = noise(2, 1000)
    hurt[0, 500] = np.nan
    soundfile.write(folder / "nan.wav", hurt.T, RATE, subtype="FLOAT")
    soundfile.write(folder / "cut.flac", noise(2, 50000).T, RATE)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:20000])
    return {
        "missing.wav": "no such file",
        "empty.wav": "not an audio file",
        "text.wav": "not an audio file",
        "notes.txt": "not an audio file",
        "folder.wav": "is a folder without audio files",
        "no_samples.wav": "without samples",
        "three.wav": "has 3 channels; the model takes 2, or mono",
        "nan.wav": "NaN or infinite samples",
        "cut.flac": "damaged audio file",
    }


def test_separate_refuses_bad_songs(command, weights, tmp_path):
    complaints = bad_songs(tmp_path)
    before = tree(tmp_path)
    for name, complaint in complaints.items():
        assert_refused(command("separate", "--weights", weights, name, cwd=tmp_path), name, complaint)
        assert tree(tmp_path) == before
    refused = command("separate", "--weights", weights, "-o", "made", "missing.wav", cwd=tmp_path)
    assert_refused(refused, "missing.wav")
    assert tree(tmp_path) == before  # not even the folder


def test_one_bad_song_among_good_ones(command, weights, tmp_path):
    """What a header tells ends the command at once; what its samples tell, in its turn, and the rest can follow."""
    for name in ("a.wav", "c.wav"):
        soundfile.write(tmp_path / name, noise(2, 1000).T, RATE)
    (tmp_path / "b.wav").write_text("no music")
    songs = ["separate", "--weights", weights, "a.wav", "b.wav", "c.wav"]
    assert_refused(command(*songs, cwd=tmp_path), "b.wav: not an audio file")
    assert tree(tmp_path) == ["a.wav", "b.wav", "c.wav"]
    hurt = noise(2, 1000)
    hurt[0, 500] = np.nan
    soundfile.write(tmp_path / "b.wav", hurt.T, RATE, subtype="FLOAT")
    result = command(*songs, cwd=tmp_path)
    assert result.status == 2
    assert result.out == ["a.vocals.wav", "a.accompaniment.wav"]
    assert len(result.err) == 1, result.err
    assert "b.wav: has NaN or infinite samples" in result.err[0]
    assert tree(tmp_path) == ["a.accompaniment.wav", "a.vocals.wav", "a.wav", "b.wav", "c.wav"]
    before = (tmp_path / "a.vocals.wav").stat().st_mtime_ns
    soundfile.write(tmp_path / "b.wav", noise(2, 1000).T, RATE)
    result = command(*songs, "--skip-existing", cwd=tmp_path)
    assert result.status == 0
    assert result.out == [f"{song}.{kind}.wav" for song in "bc" for kind in ("vocals", "accompaniment")]
    assert "1 of 3 song(s) are separated already" in result.err[0]
    assert (tmp_path / "a.vocals.wav").stat().st_mtime_ns == before


def test_two_songs_that_would_write_one_file(command, weights, tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, noise(2, 1000).T, RATE)
    result = command("separate", "--weights", weights, "a.wav", "a.flac", cwd=tmp_path)
    assert_refused(result, "a.wav and a.flac would both be written to a.vocals.wav")
    assert tree(tmp_path) == ["a.flac", "a.wav"]


def test_unusable_output_folders(command, weights, tmp_path):
    song, taken, closed = tmp_path / "a.wav", tmp_path / "taken", tmp_path / "closed"
    soundfile.write(song, noise(2, 1000).T, RATE)
    taken.touch()
    assert_refused(command("separate", "--weights", weights, "-o", taken, song), taken)
    assert_refused(command("separate", "--weights", weights, "-o", taken / "below", song), taken)
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    closed.mkdir(mode=0o500)
    assert_refused(command("separate", "--weights", weights, "-o", closed, song), closed)
    assert_refused(command("separate", "--weights", weights, "-o", closed / "below", song), closed)
    assert not list(closed.iterdir())


@pytest.mark.parametrize("old", [False, True])
def test_both_files_or_neither(weights, tmp_path, monkeypatch, capsys, old):
    song = tmp_path / "a.wav"
    soundfile.write(song, noise(2, 1000).T, RATE)
    for kind in ("vocals", "accompaniment") if old else ():
        (tmp_path / f"a.{kind}.wav").write_text(kind)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write, parts = audio.write, iter(["vocals", "accompaniment"])

    def full_disk(path, *arguments, **options):
        if next(parts) == "accompaniment":
            raise bsm.cli.InputError(f"{path}: cannot be written (no room)")
        write(path, *arguments, **options)

    monkeypatch.setattr(audio, "write", full_disk)
    assert in_process(monkeypatch, "separate", "--weights", weights, "--overwrite", song) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"{tmp_path / 'a.accompaniment.wav'}: cannot be written" in said.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_song_whose_name_is_not_utf8(weights, tmp_path, monkeypatch, capsysbinary):
    song = tmp_path / os.fsdecode(b"caf\xe9.wav")
    try:
        audio.write(song, noise(2, 1000), RATE)
    except InputError:
        pytest.skip("this file system takes UTF-8 alone")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bsm", "separate", "--weights", str(weights), song.name])
    bsm.cli.main()
    assert capsysbinary.readouterr().out.split() == [b"caf\xe9.vocals.wav", b"caf\xe9.accompaniment.wav"]


def test_separate_refuses_bad_weights(command, weights, tmp_path):
    song = tmp_path / "a.wav"
    soundfile.write(song, noise(2, 1000).T, RATE)
    cut, text, empty, flipped = (tmp_path / f"{name}.safetensors" for name in ("cut", "text", "empty", "flipped"))
    content = weights.read_bytes()
    cut.write_bytes(content[:-100])
    text.write_text("these are no weights")
    empty.touch()
    flipped.write_bytes(content[:20] + bytes(b ^ 0xFF for b in content[20:60]) + content[60:])
    before = tree(tmp_path)
    for path in (cut, text, empty, flipped, tmp_path / "missing.safetensors", tmp_path):
        assert_refused(command("separate", "--weights", path, song), path)
    assert tree(tmp_path) == before


def in_process(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bsm", *map(str, arguments)])
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)  # pytest's handlers stay
    with pytest.raises(SystemExit) as stopped:
        bsm.cli.main()
    return stopped.value.code


def test_separate_before_there_are_weights(tmp_path, monkeypatch, capsys):
    from bsm.study import profiles

    monkeypatch.setattr(profiles, "ROOT", tmp_path)  # where nothing was trained yet
    soundfile.write(tmp_path / "a.wav", noise(2, 1000).T, RATE)
    assert in_process(monkeypatch, "separate", tmp_path / "a.wav") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no such weights file" in line
    assert "make reproduce" in line


@pytest.mark.parametrize(
    "options",
    [
        ["--hop", "0"],
        ["--hop", "9"],
        ["--window", "0"],
        ["--window", "nan"],
        ["--device", "abacus"],
        ["--threads", "0"],
        ["--batch-size", "0"],
        ["--subtype", "PCM_8"],
    ],
    ids=" ".join,
)
def test_separate_refuses_bad_options(command, weights, tmp_path, options):
    soundfile.write(tmp_path / "a.wav", noise(2, 1000).T, RATE)
    assert_refused(command("separate", "--weights", weights, *options, "a.wav", cwd=tmp_path), options[0].strip("-"))
    assert tree(tmp_path) == ["a.wav"]


# ---- the other commands


def test_wrong_usage_is_one_line(command):
    assert_refused(command("separate"), "bsm separate: Missing argument 'SONGS...'")
    assert_refused(command("separate", "--nope", "a.wav"), "bsm separate: No such option", "--nope")
    assert_refused(command("sing"), "bsm: No such command 'sing'")
    assert_refused(command("bench"), "bsm bench: Missing argument", "scan")
    assert_refused(command("train", "smoke", "--steps", "many"), "bsm train: ", "'many' is not a valid integer")
    assert_refused(command("train", "smoke", "--seed", "-1"), "bsm train: ", "-1 is not in the range")


def test_help_and_version(command):
    for arguments in ((), ("--help",)):
        result = command(*arguments)
        assert "separate" in "\n".join(result.out + result.err)
    result = command("--version")
    assert (result.status, result.err) == (0, [])
    assert bsm.__version__ in result.out[0]


@pytest.mark.parametrize(
    "arguments", [("data", "prepare"), ("train",), ("readme",), ("study", "01_train", "--profile")], ids=" ".join
)
def test_a_wrong_profile(command, tmp_path, arguments):
    result = command(*arguments, "nope", cwd=tmp_path)
    assert_refused(result, "there is no profile 'nope'; choose one of: demo", "smoke")
    assert tree(tmp_path) == []


def test_study_refuses_what_it_does_not_know(command, tmp_path):
    output = ("-o", tmp_path / "out.ipynb")
    assert_refused(command("study", "99_none", *output), "no notebook '99_none'; choose one of: 00_data")
    assert_refused(command("study", "01_train", *output, "-p", "sead", "1"), "no parameter 'sead'; it has: profile")
    assert_refused(command("study", "01_train", *output, "-p", "seed", "one"), "'seed' must be of type int")
    assert_refused(command("study", "01_train", *output, "-p", "seed", "[1"), "not YAML")
    assert tree(tmp_path) == []


def test_an_executed_notebook_lies_beside_its_results(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr("bsm.study.notebooks.run_notebook", lambda name, output, **_: ran.append(output))
    monkeypatch.chdir(tmp_path)
    aside = ["-p", "weights", "m.pt"]  # other models' results are kept apart from the profile's
    for arguments in ([], ["-p", "out", "made"], ["-p", "out", "made", "-o", "other.ipynb"], aside):
        bsm.cli.cli(["study", "08_input_length", "--profile", "smoke", *arguments], standalone_mode=False)
    name = "notebooks/08_input_length.ipynb"
    runs = ROOT / "runs/08_input_length"
    assert ran == [ROOT / "reports/smoke" / name, tmp_path / "made" / name, Path("other.ipynb"), runs / name]


def test_the_notebooks_that_keep_other_models_apart_are_named():
    """The command says where the executed notebook goes, the notebook itself where its results go."""
    found = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if "results_folder(" in path.read_text("utf-8")}
    assert found == set(importlib.import_module("bsm.cli.study").BESIDE)


def test_paths_given_to_a_notebook_are_the_callers(tmp_path, monkeypatch, capsys):
    """The kernel runs in the repository, wherever the command was called."""
    ran = []
    monkeypatch.setattr("bsm.study.notebooks.run_notebook", lambda *_, parameters, **__: ran.append(parameters))
    monkeypatch.chdir(tmp_path)
    given = {
        "out": "../x",
        "run": "runs/a",
        "dataset": "./songs",
        "weights": "{ours: a.safetensors, theirs: author}",
        "example": "2",
    }
    arguments = [word for pair in given.items() for word in ("-p", *pair)]
    bsm.cli.cli(["study", "08_input_length", "--profile", "smoke", *arguments], standalone_mode=False)
    wanted = {"out": tmp_path / "../x", "run": tmp_path / "runs/a", "dataset": tmp_path / "songs"}
    ours = {"ours": str(tmp_path / "a.safetensors"), "theirs": "author"}
    assert ran == [{name: str(path) for name, path in wanted.items()} | {"weights": ours, "example": 2}]
    for text, value in (
        ("author", "author"),
        ("m.pt", str(tmp_path / "m.pt")),
        ("''", ""),
        ("null", None),
        ("[a]", ["a"]),
    ):
        bsm.cli.cli(["study", "08_input_length", "-p", "weights", text], standalone_mode=False)
        assert ran.pop() == {"weights": value}


def test_a_failed_notebook(command, tmp_path):
    from nbformat import write
    from nbformat.v4 import new_code_cell, new_notebook

    cells = [new_code_cell("seed = 0", metadata={"tags": ["parameters"]}), new_code_cell("x = 1 / 0")]
    write(new_notebook(cells=cells), tmp_path / "broken.ipynb")
    result = command("study", tmp_path / "broken.ipynb", "--profile", "smoke", "-o", tmp_path / "out.ipynb")
    assert result.status == 1
    assert not result.out
    assert "Traceback" not in "\n".join(result.err)
    complaints = [line for line in result.err if line.startswith("bsm: ")]
    assert complaints == result.err[-1:]
    assert "broken.ipynb failed in cell" in complaints[0]
    assert "ZeroDivisionError: division by zero" in complaints[0]
    assert tree(tmp_path) == ["broken.ipynb", "out.failed.ipynb"]


def write_corpus(root):
    time = np.arange(2 * 44100) / 44100
    for split in ("train", "valid", "test"):
        (root / split / "a").mkdir(parents=True)
        audio.write(root / split / "a" / "vocals.wav", np.tile(0.3 * np.sin(2000 * time), (2, 1)), 44100)
        audio.write(root / split / "a" / "other.wav", noise(2, len(time)), 44100)


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A study of its own, under `tmp_path`, with a profile of one song per split."""
    from bsm.study import profiles

    values = {"profile": "own", "data": "own", "model": "tiny", "seed": 0, "steps": 1, "batch_size": 1}
    values |= {"accumulate": 1, "segment_seconds": 0.25, "workers": 0, "precision": "32-true"}
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(values))
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    write_corpus(tmp_path / "data" / "own")
    return path


def test_train(profile, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bsm", "train", str(profile), "--seed", "3", "--device", "cpu"])
    bsm.cli.main()
    made = tmp_path / "runs" / "own" / "bsmamba2-tiny-seed3" / "model.safetensors"
    assert capsys.readouterr().out.splitlines() == [str(made)]
    assert json.loads(made.with_suffix(".json").read_text())["train"]["seed"] == 3
    # The same folder for another training.
    assert in_process(monkeypatch, "train", profile, "--run", made.parent) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("choose another folder or delete this one")


def test_train_without_songs_or_device(profile, tmp_path, monkeypatch, capsys):
    assert in_process(monkeypatch, "train", profile, "--device", "abacus") == 2
    assert "device 'abacus'" in capsys.readouterr().err
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert in_process(monkeypatch, "train", profile) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no songs yet; copy or link them to data/own" in line
    assert not (tmp_path / "runs").exists()


def test_train_when_the_loss_fails(profile, tmp_path, monkeypatch, capsys):
    import bsm.train.trainer

    monkeypatch.setattr(bsm.train.trainer, "bsmamba2_loss", lambda estimate, *_: estimate.sum() * float("nan"))
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"max_skipped": 1}))
    assert in_process(monkeypatch, "train", profile, "--device", "cpu") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    told = "loss or gradient was not finite in 1 updates in a row, steps 1 to 1; the checkpoint before them is kept"
    assert line == f"bsm: {told}"


def test_evaluate(command, weights, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "songs" / name).mkdir(parents=True)
        for seed, source in enumerate(("vocals", "other")):
            audio.write(tmp_path / "songs" / name / f"{source}.wav", noise(2, 2 * RATE, seed), RATE)
    result = command("evaluate", "--weights", weights, "--data", "songs", "-o", "scores.json", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "usdr" in "\n".join(result.out)
    table = "\n".join(result.out)
    assert all(name in table for name in ("usdr", "csdr", "si_sdr", "bleedless", "fullness"))
    assert all(name in table for name in ("mean", "median", "std", "low", "high", "median_low", "median_high"))
    assert "written to scores.json" in result.err[-1]
    record = json.loads((tmp_path / "scores.json").read_text())
    assert [v["track"] for v in record["values"]] == ["a", "b"]
    assert record["comparable_with_paper"] is False
    values = [v["usdr"] for v in record["values"]]
    assert record["summary"]["usdr"]["mean"] == pytest.approx(np.mean(values))
    of_median = bootstrap_interval(values, np.median)
    found = record["summary"]["usdr"]
    assert (found["median_low"], found["median_high"]) == pytest.approx((of_median.low, of_median.high))
    assert record["parameters"]["window"] == record["parameters"]["hop"] == 8
    assert record["parameters"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    # One track's scores lost: the same command scores that one alone.
    journal = tmp_path / "scores.tracks.jsonl"
    lines = journal.read_text().splitlines()
    assert len(lines) == 3
    kept = json.loads(lines[1]) | {"usdr": 12.5}
    journal.write_text(f"{lines[0]}\n{json.dumps(kept)}\n")
    arguments = ["evaluate", "--weights", weights, "--data", "songs", "-o", "scores.json"]
    result = command(*arguments, cwd=tmp_path)
    assert result.status == 0, result.err
    again = json.loads((tmp_path / "scores.json").read_text())["values"]
    assert sorted(v["usdr"] for v in again) == pytest.approx(
        sorted([12.5, *(v["usdr"] for v in record["values"] if v["track"] != kept["track"])])
    )
    refused = command(*arguments, "--hop", "4", cwd=tmp_path)
    assert_refused(refused, "scores.tracks.jsonl: holds the scores of another evaluation (hop was 8.0, is 4.0)")
    refused = command("evaluate", "--weights", weights, "--data", "nowhere", cwd=tmp_path)
    assert_refused(refused, "nowhere: no such folder", "MUSDB18-HQ")
    refused = command("evaluate", "--weights", weights, "--data", "songs", "-o", "songs", cwd=tmp_path)
    assert_refused(refused, "songs: is a folder; name a file")


def test_evaluate_keeps_its_scores_unasked(command, weights, tmp_path):
    """Without -o: a file under runs/ that weights, data and settings name, so that the same command goes on."""
    (tmp_path / "songs/a").mkdir(parents=True)
    for seed, source in enumerate(("vocals", "other")):
        audio.write(tmp_path / "songs/a" / f"{source}.wav", noise(2, RATE, seed), RATE)
    arguments = ["evaluate", "--weights", weights, "--data", "songs", "--processes", "1"]
    result = command(*arguments, cwd=tmp_path)
    assert result.status == 0, result.err
    (path,) = (tmp_path / "runs/evaluate").glob("*.json")
    assert path.name.startswith(f"{weights.stem}-songs-")
    assert f"written to runs/evaluate/{path.name}" in result.err
    journal = path.with_suffix(".tracks.jsonl")
    assert any(str(journal.relative_to(tmp_path)) in line for line in result.err)  # where, before hours of computing
    settings, kept = map(json.loads, journal.read_text().splitlines())
    journal.write_text(f"{json.dumps(settings)}\n{json.dumps(kept | {'usdr': 12.5})}\n")
    assert command(*arguments, cwd=tmp_path).status == 0
    assert json.loads(path.read_text())["values"][0]["usdr"] == 12.5  # not scored again
    name = _result_file(weights, tmp_path / "songs", settings)
    assert name == _result_file(weights, tmp_path / "songs", dict(settings)) == path.relative_to(tmp_path)
    assert _result_file(weights, tmp_path / "songs", settings | {"window": 0.5}) != name


def test_the_licence_of_named_weights_is_said(weights, tmp_path, monkeypatch, capsys):
    """Once by both commands, as by `bsm weights`; and a file in the cache that was altered is refused."""
    body = weights.read_bytes()
    file = {"file": "named.safetensors", "url": "http://127.0.0.1:9/", "size": len(body)}
    file |= {"checksum": f"sha256:{hashlib.sha256(body).hexdigest()}"}
    named = {"title": "a model", "licence": "none stated", "note": "a note", "files": [file]}
    (tmp_path / "weights.yaml").write_text(json.dumps({"named": named}))
    monkeypatch.setattr(bsm.weights.registry, "MANIFEST", tmp_path / "weights.yaml")
    monkeypatch.setenv("BSM_CACHE", str(tmp_path))
    (tmp_path / "named.safetensors").write_bytes(body)
    soundfile.write(tmp_path / "a.wav", noise(2, 1000).T, RATE)
    for source in ("vocals", "other"):
        (tmp_path / "songs/a").mkdir(parents=True, exist_ok=True)
        audio.write(tmp_path / "songs/a" / f"{source}.wav", noise(2, RATE), RATE)

    def stop(*_, **__):
        raise InputError("far enough")

    def run(*arguments):
        bsm.cli.cli(list(arguments), standalone_mode=False)
        return capsys.readouterr().err

    monkeypatch.setattr(bsm.evaluate, "evaluate", stop)
    monkeypatch.chdir(tmp_path)
    line = "licence of 'named': none stated\na note\n"
    assert run("separate", "--weights", "named", "a.wav").count(line) == 1
    assert "licence" not in run("separate", "--weights", "named.safetensors", "--overwrite", "a.wav")
    with pytest.raises(InputError, match="far enough"):
        run("evaluate", "--weights", "named", "--data", "songs")
    assert capsys.readouterr().err.count(line) == 1
    (tmp_path / "named.safetensors").write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    for arguments in (["separate", "a.wav", "-o", "out"], ["evaluate", "--data", "songs"]):
        with pytest.raises(InputError, match="SHA-256 .* fetch them again: bsm weights fetch named"):
            run(*arguments, "--weights", "named")


def test_evaluate_skips_bad_songs_only_when_asked(command, weights, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "songs" / name).mkdir(parents=True)
        for seed, source in enumerate(("vocals", "other")):
            audio.write(tmp_path / "songs" / name / f"{source}.wav", noise(2, 2 * RATE, seed), RATE)
    sound = noise(2, 2 * RATE)
    sound[0, 100] = np.nan
    soundfile.write(tmp_path / "songs/b/other.wav", sound.T, RATE, subtype="FLOAT")
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


def test_python_m_and_the_installed_command():
    """Two real processes, not forks: what they say about a missing file is one line, too."""
    installed = Path(sys.executable).with_name("bsm")
    commands = [[sys.executable, "-m", "bsm"], *([[str(installed)]] if installed.exists() else [])]
    arguments = ["study", "01_train", "--profile", "nope"]
    for process in [
        subprocess.Popen([*c, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands
    ]:
        out, err = process.communicate()
        assert (process.returncode, out) == (2, "")
        assert err == "bsm: there is no profile 'nope'; choose one of: " + err.partition("one of: ")[2]
        assert err.count("\n") == 1
