"""What a notebook calls: parameters checked in place, and one call that saves values, table and figure."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from bsm.study import notebook, profiles, saving
from bsm.study.notebook import Notebook
from bsm.study.records import read_result


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Return the function that opens a notebook of its own with given globals."""
    (tmp_path / "notebooks/profiles").mkdir(parents=True)
    (tmp_path / "notebooks/profiles/own.yaml").write_text("profile: own\ndata: songs\ntitle: own songs\nmodel: tiny\n")
    (tmp_path / "data/songs").mkdir(parents=True)
    for module, name, value in ((notebook, "NOTEBOOKS", tmp_path / "notebooks"), (profiles, "ROOT", tmp_path)):
        monkeypatch.setattr(module, name, value)
    cell = 'profile = "own"\ndata = "songs"\nseed = 3\nwindow = 8.0\nweights = None\nout = ""'
    about = {"needs": "songs", "saves": {"found": ["values", "table", "figure"]}, "apart_with": ["weights"]}

    def open_it(about=about, **given):
        cells = [
            {"cell_type": "markdown", "metadata": {}, "source": ["# What was found\n", "More."]},
            {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [cell]},
            {"cell_type": "code", "metadata": {}, "source": ["from bsm.study import ablation\nimport bsm.study.plan"]},
        ]
        content = {"nbformat": 4, "metadata": {"bsm": about}, "cells": cells}
        (tmp_path / "notebooks/found.ipynb").write_text(json.dumps(content))
        names = {"profile": "own", "data": "songs", "seed": 3, "window": 8.0, "weights": None, "out": ""} | given
        return *saving.open_study("found", names), names

    return open_it


def test_values_table_and_figure_are_saved_in_one_call(study, tmp_path):
    settings, save, names = study(window="4")
    assert names["window"] == 4  # what papermill passed as text
    figure, _ = plt.subplots()
    (tmp_path / "extra.txt").write_text("1")
    save(
        "found",
        measured="numbers",
        values=[{"track": "a", "x": 1.0}],
        table=pd.DataFrame({"x": [1.0]}),
        caption="Numbers",
        figure=figure,
        inputs=[tmp_path / "extra.txt"],
        repeats=2,
    )
    record = read_result(tmp_path / "reports/own/results/found.json")
    assert record["parameters"] == {"data": "songs", "seed": 3, "window": 4.0, "weights": None, "repeats": 2}
    assert (record["seed"], record["data"], record["comparable_with_paper"]) == (3, "own songs", False)
    assert [Path(name).name for name in record["inputs"]] == ["songs", "extra.txt"]
    text = (tmp_path / "reports/own/tables/found.md").read_text()
    assert "| 1.00 |" in text and "Numbers. Data: own songs. These numbers are not comparable" in text
    assert (tmp_path / "reports/own/figures/found.png").read_bytes().startswith(b"\x89PNG")
    assert not plt.get_fignums()
    save("found", values=[1], measured="noise", data="noise")  # of no songs
    assert read_result(tmp_path / "reports/own/results/found.json")["inputs"] == {}


def test_times_count_from_the_result_before(study, tmp_path):
    _, save, _ = study()
    save.started = save.started._replace(wall=save.started.wall - 100)
    for least in (100, 0):
        save("found", values=[1], measured="x")
        took = read_result(tmp_path / "reports/own/results/found.json")["provenance"]["wall_seconds"]
        assert least <= took < least + 50


@pytest.mark.parametrize(("name", "kind"), [("other", "table"), ("found", "figure")])
def test_what_the_notebook_does_not_declare_is_refused(study, tmp_path, name, kind):
    _, save, _ = study(about={"needs": "songs", "saves": {"found": ["table"]}})
    with pytest.raises(ValueError, match=f"does not declare in its metadata that it saves {kind} '{name}'"):
        save(name, **{kind: "text"})
    assert not (tmp_path / "reports").exists()


def test_what_is_measured_of_others_stands_apart(study, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(saving, "ROOT", tmp_path)
    assert study()[0].reports == tmp_path / "reports/own" and study(out="there")[0].reports == Path("there")
    assert study(weights="author", out="there")[0].reports == Path("there") and not caplog.records
    settings, _, names = study(weights="author")
    assert settings.reports == tmp_path / "runs/found" and names["out"] == str(tmp_path / "runs/found")
    assert "not the profile's own models and songs: results go to runs/found, or to `out`" in caplog.text


def test_what_a_notebook_says_about_itself(study):
    study()
    found = Notebook.find("found")
    assert found.title == "What was found"
    assert found.modules() == ["study/ablation", "study/plan"]
    kinds = ("notebooks/found.ipynb", "results/found.json", "tables/found.md", "figures/found.png")
    assert found.files("r") == [f"r/{path}" for path in kinds]
    assert notebook.study_notebooks() == [found]
    study(about={"needs": "songs", "saves": {"found": ["table"], "more": ["figure"]}, "optional": ["more"]})
    found = Notebook.find("found")
    assert found.files("r") == ["r/notebooks/found.ipynb", "r/tables/found.md"] and found.saved("figure") == ["more"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"needs": "songs", "save": {}}, "unknown metadata in .*: 'save'; choose one of needs"),
        ({"needs": "song"}, "unknown 'needs' in .*: 'song'; choose one of nothing, songs"),
        ({"needs": "songs", "saves": {"x": ["picture"]}}, "'x' must be saved as some of values, table, figure"),
        ({"needs": "songs", "saves": {"x": []}}, "'x' must be saved as some of"),
    ],
)
def test_bad_metadata_are_refused(study, about, message):
    study()
    path = notebook.NOTEBOOKS / "found.ipynb"
    content = json.loads(path.read_text())
    content["metadata"]["bsm"] = about
    path.write_text(json.dumps(content))
    with pytest.raises(saving.InputError, match=message):
        notebook.study_notebooks()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
        ({"window": 0.0}, "window must be at least"),
        ({"window": 8.0, "hop": 9.0}, "hop must be"),
        ({"windows": [1.0, "whole", float("inf")]}, "window must be at least"),
        ({"overlap_windows": [-1.0]}, "window must be at least"),
        ({"bench_seconds": [1.0, 0.0]}, "parameter 'bench_seconds' must be at least"),
        ({"cost_repeats": 0}, "parameter 'cost_repeats' must be at least 1"),
        ({"example": -1}, "parameter 'example' must be at least 0"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused_before_anything_is_computed(values, message):
    with pytest.raises(saving.InputError, match=message):
        saving.check_usable(values)


def test_every_profile_can_be_used():
    for path in (profiles.ROOT / "notebooks/profiles").glob("*.yaml"):
        saving.check_usable({k: v for k, v in profiles.Profile.load(path.stem).values.items() if k != "device"})
