"""Result files and the figures and tables that are made from them."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from bsm.errors import InputError
from bsm.stats import crossed_interval
from bsm.study import compare, figures, provenance, records, repeat
from bsm.study.speed import scan

mpl.use("Agg")


def write(path: Path, **changes) -> Path:
    given = {"measured": "uSDR, dB", "parameters": {"steps": 2}, "values": {"song": 1.0}, "data": "demo"}
    return records.write_result(path, **given | {"started": records.mark(), "inputs": ()} | changes)


def ago(seconds: float) -> records.Mark:
    """A mark that lies so long back, before which the process did nothing."""
    return records.Mark(time.time() - seconds, 0.0)


def test_round_trip(tmp_path):
    path = write(tmp_path / "new/result.json", seed=3, started=ago(2), note="a remark")
    result = records.read_result(path)
    assert (result["schema"], result["measured"], result["data"], result["seed"]) == (1, "uSDR, dB", "demo", 3)
    assert (result["values"], result["parameters"], result["note"]) == ({"song": 1.0}, {"steps": 2}, "a remark")
    assert result["comparable_with_paper"] is False
    assert 2 <= result["provenance"]["wall_seconds"] < 60
    assert [x.name for x in path.parent.iterdir()] == ["result.json"]


def test_everything_becomes_strict_json(tmp_path):
    @dataclasses.dataclass
    class Config:
        windows: tuple[int, ...] = (1, 2)

    values = {
        "numpy": np.array([1.5, np.nan, np.inf]),
        "scalars": [np.float32(0.5), np.float64("-inf"), np.int64(2), np.bool_(True), torch.tensor(3)],
        "tensor": torch.tensor([[1.0, float("nan")]]),
        "config": Config(),
        "frame": pd.DataFrame({"track": ["a"], "score": [float("nan")]}),
        "path": records.ROOT / "data/x.wav",
        5: {"b", "a"},
    }
    text = write(tmp_path / "r.json", values=values).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["values"] == {
        "numpy": [1.5, None, None],
        "scalars": [0.5, None, 2, True, 3],
        "tensor": [[1.0, None]],
        "config": {"windows": [1, 2]},
        "frame": [{"track": "a", "score": None}],
        "path": "data/x.wav",
        "5": ["a", "b"],
    }
    assert str(records.ROOT) not in text


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "r.json")
    before = path.read_text()
    with pytest.raises(TypeError, match="no JSON form"):
        write(path, values=[object()])
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": None}, "field 'values' is a NoneType"),
        ({"measured": 3}, "field 'measured' is a int"),
        ({"schema": 99}, "field 'schema' is 99"),
        ({"data": ...}, "field 'data' is missing"),
    ],
)
def test_reading_names_file_and_field(tmp_path, change, message):
    path = write(tmp_path / "r.json")
    record = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))
    with pytest.raises(InputError, match=f"r.json: {message}"):
        records.read_result(path)


@pytest.mark.parametrize("text", ["", "{", '{"values": NaN}', "[]"])
def test_reading_what_is_no_result(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r\.json: "):
        records.read_result(tmp_path / "r.json")
    with pytest.raises(InputError, match="no such result"):
        records.read_result(tmp_path / "absent.json")


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = records.provenance(records.mark())
    assert found["git"] == {"revision": "unknown", "dirty": None}
    assert found["packages"]["torch"] == torch.__version__
    assert found["device"]
    assert str(Path.home()) not in found["command"]


def test_the_device_is_that_of_the_measurement(tmp_path, monkeypatch):
    """On a machine with a GPU, too: what does not say that it measured there did not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"GPU of {device}")

    def device(**parameters) -> str:
        path = write(tmp_path / "r.json", parameters=parameters)
        return records.read_result(path)["provenance"]["device"]

    cpu = records.provenance(records.mark())["cpu"]
    assert [device(), device(device="cpu"), device(device=None)] == [cpu] * 3
    assert device(device="cuda") == "GPU of cuda" and device(device="cuda:1") == "GPU of cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device(device="cuda") not in (cpu, "GPU of cuda")  # trained elsewhere, written here


def test_a_trainings_device_is_told_by_its_checkpoint(tmp_path):
    assert records.trained_on(tmp_path) is None
    torch.save({"random": torch.get_rng_state()}, tmp_path / "state.ckpt")
    assert records.trained_on(tmp_path) == "cpu"
    torch.save({"random_cuda": torch.get_rng_state()}, tmp_path / "state.ckpt")
    assert records.trained_on(tmp_path) == "cuda"
    (tmp_path / "state.ckpt").write_bytes(b"1")
    assert records.trained_on(tmp_path) is None


def test_the_short_trainings_use_the_scans_of_the_device_they_run_on(monkeypatch):
    asked = []
    lacking = dict.fromkeys(scan.EXACT, "needs a GPU") | {"chunked": None}
    monkeypatch.setattr(scan, "available", lambda device: asked.append(device) or lacking)
    assert scan.exact_backends() == ["chunked"] and asked == ["cpu"]


def test_git_revision_and_dirty_flag(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records.provenance(records.mark())["git"]["revision"] == "unknown"
    (tmp_path / "pyproject.toml").write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    found = records.provenance(records.mark())["git"]
    assert len(found["revision"]) == 40
    assert found["dirty"] is False
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/new.json").write_text("{}")
    assert records.provenance(records.mark())["git"]["dirty"] is False
    (tmp_path / "code.py").write_text("")
    assert records.provenance(records.mark())["git"]["dirty"] is True


def test_inputs_are_known_by_their_content(tmp_path):
    weights, songs = tmp_path / "w.bin", tmp_path / "songs"
    (songs / "a").mkdir(parents=True)
    weights.write_bytes(b"1")
    (songs / "a/vocals.wav").write_bytes(b"12")

    def inputs():
        given = {"weights": str(weights), "steps": 2, "text": ""}
        path = write(tmp_path / "r.json", inputs=[songs, records.ROOT / "pyproject.toml"], parameters=given)
        return records.read_result(path)["inputs"]

    first = inputs()
    assert set(first) == {str(songs), str(weights), "pyproject.toml"}  # without the repository's folder
    assert first[str(weights)] == hashlib.sha256(b"1").hexdigest()
    weights.write_bytes(b"2")
    (songs / "a/vocals.wav").write_bytes(b"123")
    assert {name for name, digest in inputs().items() if first[name] != digest} == {str(songs), str(weights)}
    # A corpus that records its songs' checksums is known by that record.
    (songs / "corpus.json").write_text("{}")
    assert records.checksum(songs) == hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(InputError, match="there is no such input"):
        write(tmp_path / "r.json", inputs=[tmp_path / "gone"])


def test_wall_and_processor_time_are_of_the_same_stretch(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.5: pass"

    def spent() -> float:
        return records.read_result(write(tmp_path / "r.json", started=started))["provenance"]["cpu_seconds"]

    started = records.mark()
    idle = spent()
    assert idle < started.cpu  # what the process did before does not count
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert spent() >= idle + 0.45  # what a child did since does


def test_a_result_says_when_it_began_and_what_it_was_made_from(tmp_path):
    given = {"measured": "s", "parameters": {}, "values": {}, "data": "noise", "started": records.mark(), "inputs": ()}
    for name in ("started", "inputs"):
        with pytest.raises(TypeError, match=name):
            records.write_result(tmp_path / "r.json", **{k: v for k, v in given.items() if k != name})
    assert not list(tmp_path.iterdir())


def test_a_kernels_command_is_its_parents(monkeypatch):
    import psutil

    monkeypatch.setattr("sys.argv", ["/somewhere/ipykernel_launcher.py", "-f", "/run/kernel-1.json"])
    parent = [str(records.ROOT / ".venv/bin/python3"), str(records.ROOT / ".venv/bin/bsm"), "study", "01_data"]
    monkeypatch.setattr(psutil.Process, "parent", lambda self: SimpleNamespace(cmdline=lambda: parent))
    assert records.provenance(records.mark())["command"] == "bsm study 01_data"


def report_of(tmp_path, **changes):
    """A profile's reports: one result, and a figure that was drawn after it."""
    import matplotlib.pyplot as plt

    weights = tmp_path / "w.bin"
    weights.write_bytes(b"1")
    result = write(tmp_path / "results/scores.json", inputs=[weights], seed=7, started=records.mark(), **changes)
    figure = figures.save(plt.figure(), tmp_path / "figures/scores.png")
    return result, figure, weights


def test_provenance_from_figure_to_input(tmp_path, invoke):
    result, figure, weights = report_of(tmp_path)
    text = invoke("provenance", figure).output
    lines = text.splitlines()
    assert lines[0].startswith(str(figure))
    assert lines[1].strip().startswith(str(result)) and lines[1].endswith("(unchanged since)")
    made = records.read_result(result)["provenance"]
    for part in (made["git"]["revision"], f"torch {torch.__version__}", "seed: 7", made["command"], made["device"]):
        assert part in text
    assert re.search(r"input: \S+w\.bin sha256 6b86b273ff34 \(unchanged since\)", text)
    weights.write_bytes(b"2")
    assert "w.bin sha256 6b86b273ff34 (CHANGED since)" in provenance.chain(result)
    write(result, values={"song": 2.0})
    assert provenance.chain(figure).splitlines()[1].endswith("(CHANGED since)")
    result.unlink()
    assert "missing" in provenance.chain(figure)


def test_provenance_names_every_seed(tmp_path):
    assert "seeds: [0, 5]" in provenance.chain(write(tmp_path / "r.json", parameters={"seeds": [0, 5]}))


def test_provenance_of_tables_by_their_notebook():
    text = provenance.chain(records.ROOT / "reports/demo/tables/song_arms.md")  # of the long study, not the notebook's
    assert "results/songs-1s-mamba2-seed0.json sha256" in text and "demo songs" not in text and "-regions-" not in text
    text = provenance.chain(records.ROOT / "reports/demo/tables/direct_term.md")
    assert "notebooks/02_scan_backends.ipynb" in text and "reports/demo/results/direct_term.json" in text


def test_provenance_of_what_has_none(tmp_path, invoke):
    for name in ("x.md", "x.wav"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match="no notebook writes"):
        provenance.chain(tmp_path / "x.md")
    with pytest.raises(InputError, match="neither a result"):
        provenance.chain(tmp_path / "x.wav")
    with pytest.raises(InputError, match="no such file"):
        provenance.chain(tmp_path / "y.png")
    assert invoke("provenance", tmp_path / "y.png").exit_code == 2


def tabled(values, songs=None):
    """A table of scores of one model, a song each."""
    tracks = [f"{song}_{n}" for n, song in enumerate(songs or [""] * len(values))]
    frame = pd.DataFrame({"track": tracks, "song": songs or tracks, "model": "m", "usdr": values})
    return compare.tables(frame.to_dict("records"), "usdr")["m"]


def test_figures_are_reproducible_files(tmp_path):
    import matplotlib.pyplot as plt

    audio = 0.1 * np.random.default_rng(0).standard_normal((2, 16000))
    files = []
    for name in ("a.png", "b.png"):
        with figures.style():
            figure, axes = plt.subplots(2)
            image = figures.spectrogram(axes[0], torch.from_numpy(audio), 16000)
            figures.mark_regions(axes[0], [(0.1, 0.2), (0.5, 0.6)])
            figures.dots(axes[1], {"one": tabled([1.0]), "none": tabled([None]), "many": tabled([1.0, 2.0, 4.0, None])})
            files.append(figures.save(figure, tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert files[0].startswith(b"\x89PNG")
    assert image.get_clim() == (-80, 0)
    assert len(axes[0].patches) == 2
    assert [x.get_text() for x in axes[1].get_yticklabels()] == ["one", "none", "many"]
    assert [x.get_text() for x in axes[1].texts] == ["n = 1", "n = 0", "n = 3"]
    with figures.style():
        figures.spectrogram(plt.figure().gca(), np.zeros(10), 44100)


def test_clips_of_a_song_are_drawn_together():
    import matplotlib.pyplot as plt

    songs = [song for song in "abcdef" for _ in range(8)]
    values = [float("abcdef".index(song)) for song in songs]
    figure, ax = plt.subplots()
    figures.dots(ax, {"alone": tabled(values, songs), "few": tabled(values[:32], songs[:32])})
    wanted = crossed_interval(np.array(values)[:, None], songs)
    (ends,) = ax.containers[0].lines[2][0].get_segments()
    assert ends[:, 0] == pytest.approx([wanted.low, wanted.high])
    assert [text.get_text() for text in ax.texts] == ["n = 48 of 6 songs", "n = 32 of 4 songs"]
    drawn = [(bars.has_xerr, bars.lines[0].get_markerfacecolor() == "white") for bars in ax.containers]
    assert drawn == [(True, False), (False, True)]  # however many clips four songs have
    assert figure.get_supxlabel() == figures.HOLLOW
    figure, ax = plt.subplots()
    figures.dots(ax, {"alone": tabled(values, songs)})
    assert figure.get_supxlabel() == ""


def test_every_model_has_one_colour():
    both = figures.model_colours(["BSMamba2", "BS-RoFormer"])
    assert figures.model_colours(["mixture", "bs-roformer", "mine"])["bs-roformer"] == both["BS-RoFormer"]
    mine = figures.model_colours(["BSMamba2", "mine", "yours"])
    assert mine["BSMamba2"] == both["BSMamba2"] and len(set(mine.values())) == 3


def test_names_stand_beside_the_ends_of_lines_and_do_not_overlap():
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    ax.plot([1, 2], [1.0, 2.0], label="a")
    ax.plot([1, 2], [2.0, 2.001], label="b")
    ax.plot([1, 2], [1.0, np.nan], label="c")
    figures.name_lines(ax)
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert heights["c"] < heights["a"] < heights["b"] and heights["b"] - heights["a"] > 0.05


def test_table_markdown():
    frame = pd.DataFrame({"track": ["a|b", "c"], "uSDR (dB)": [1.234, float("nan")], "n": [3, 4]})
    text = figures.table_markdown(frame, caption="Scores", data="demo", not_comparable=True)
    assert text.splitlines() == [
        "| track | uSDR (dB) | n |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1.23 | 3 |",
        "| c | – | 4 |",
        "",
        "*Scores. Data: demo. These numbers are not comparable with the paper's numbers.*",
    ]
    assert "| c | – |" in figures.table_markdown(frame.set_index("track")[["uSDR (dB)"]], caption="Scores.")


def test_two_runs_are_compared_value_by_value(tmp_path):
    values = {"scores": [{"usdr": 1.0, "name": "a"}, {"usdr": 2.0, "name": "b"}], "seconds": [1.0, 2.0], "extra": [1]}
    again = {"scores": [{"usdr": 2.5, "name": "b"}, {"usdr": 1.0, "name": "a"}], "seconds": [2.0, 2.0], "extra": [1, 2]}
    for name, found in (("first", values), ("second", again)):
        write(tmp_path / name / "results" / "made.json", values=found)
    rows = {r["field"]: r for r in repeat.compare(tmp_path / "first", tmp_path / "second")}
    assert (rows["scores.usdr"]["equal"], rows["scores.usdr"]["largest"]) == (1, 0.2)
    assert (rows["scores.name"]["equal"], rows["scores.name"]["largest"]) == (2, 0)
    assert (rows["seconds"]["equal"], rows["seconds"]["median"]) == (1, 0.25)
    assert rows["extra"]["shape"] and not rows["scores.usdr"]["shape"]
    text = repeat.table(list(rows.values()), data="songs", comparable=False)
    assert "| made | 7 | 4 | 18 % | 50 % |" in text  # one row a result
    assert "- made differs in `extra` (other values), `scores.usdr`, `seconds`." in text


def test_a_comparison_names_the_files_it_read(tmp_path, monkeypatch):
    for name in ("ours", "theirs"):
        for result in ("both", "repeat", name):
            write(tmp_path / name / "results" / f"{result}.json")
    own = repeat.Profile.load("demo", out=str(tmp_path / "ours"))
    monkeypatch.setattr(repeat.Profile, "load", lambda name: own)
    found = records.read_result(repeat.write("demo", tmp_path / "theirs"))["inputs"]
    assert {name.rsplit("/", 3)[1] + name.rsplit("/", 1)[1] for name in found} == {"oursboth.json", "theirsboth.json"}
