"""Result files and the figures and tables that are made from them."""

import dataclasses
import json
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from bsm.errors import InputError
from bsm.study import figures, records

mpl.use("Agg")


def write(path: Path, **changes) -> Path:
    given = {"measured": "uSDR, dB", "parameters": {"steps": 2}, "values": {"song": 1.0}, "data": "demo"} | changes
    return records.write_result(path, **given)


def test_round_trip(tmp_path):
    path = write(tmp_path / "new/result.json", seed=3, started=time.time() - 2, note="a remark")
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
    with pytest.raises(ValueError, match="mapping or a list"):
        write(path, values=1.0)
    with pytest.raises(ValueError, match="provenance: a field of every"):
        write(path, provenance={})
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
    found = records.provenance()
    assert found["git"] == {"revision": "unknown", "dirty": None}
    assert found["packages"]["torch"] == torch.__version__
    assert found["device"]
    assert found["started"] is None
    assert str(Path.home()) not in found["command"]


def test_git_revision_and_dirty_flag(tmp_path, monkeypatch):
    import subprocess

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records.provenance()["git"]["revision"] == "unknown"
    (tmp_path / "pyproject.toml").write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    found = records.provenance()["git"]
    assert len(found["revision"]) == 40
    assert found["dirty"] is False
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/new.json").write_text("{}")
    assert records.provenance()["git"]["dirty"] is False
    (tmp_path / "code.py").write_text("")
    assert records.provenance()["git"]["dirty"] is True


def test_figures_are_reproducible_files(tmp_path):
    import matplotlib.pyplot as plt

    audio = 0.1 * np.random.default_rng(0).standard_normal((2, 16000))
    files = []
    for name in ("a.png", "b.png"):
        with figures.style():
            figure, axes = plt.subplots(2)
            image = figures.spectrogram(axes[0], torch.from_numpy(audio), 16000)
            figures.mark_regions(axes[0], [(0.1, 0.2), (0.5, 0.6)], label="vocals")
            figures.score_plot(axes[1], ["one", "none", "many"], [[1.0], [None], [1.0, 2.0, 4.0, np.nan]])
            files.append(figures.save(figure, tmp_path / name).read_bytes())
            plt.close(figure)
    assert files[0] == files[1]
    assert files[0].startswith(b"\x89PNG")
    assert image.get_clim() == (-80, 0)
    assert len(axes[0].get_legend_handles_labels()[1]) == 1
    assert [x.get_text() for x in axes[1].get_xticklabels()] == ["one\nn = 1", "none\nn = 0", "many\nn = 3"]
    with figures.style():
        figures.spectrogram(plt.figure().gca(), np.zeros(10), 44100)
    plt.close("all")


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
