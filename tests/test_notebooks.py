"""Notebooks as the study runs them: what they say of themselves, their parameters, and what they save."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bsm import cli
from bsm.errors import InputError
from bsm.study import notebook, profiles, run, saving
from bsm.study.notebook import Notebook
from bsm.study.records import read_result

PARAMETERS = """seed = 0  # of the random numbers
rate: float = 1.0
name = "a = b"
steps = [1, 2]
folder = None
fast = True
"""


@pytest.fixture
def study(tmp_path, monkeypatch) -> Path:
    """A folder of notebooks with one notebook, `tiny`, and the profiles `demo` and `smoke`."""
    folder = tmp_path / "notebooks"
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles/demo.yaml").write_text("seed: 7\nrate: 2\nanother_notebooks: 1\n")
    (folder / "profiles/smoke.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(notebook, "NOTEBOOKS", folder)
    make(folder / "tiny.ipynb", "import os\nprint(seed, rate, steps, os.path.exists('pyproject.toml'))")
    return folder


def make(path: Path, *code: str, parameters: str = PARAMETERS, **metadata) -> Path:
    cells = [new_markdown_cell("# Tiny\nMore."), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=cells + [new_code_cell(x) for x in code], metadata=metadata), path)
    return path


# ---- run with parameters


def test_profile_then_explicit_parameters(study, tmp_path):
    output = run.run_notebook(
        "tiny", tmp_path / "out/{tiny}.ipynb", profile="demo", parameters={"steps": [3], "name": "c"}
    )
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].text == "7 2.0 [3] True\n"
    assert executed.metadata.papermill.parameters == {"seed": 7, "rate": 2.0, "steps": [3], "name": "c"}
    assert executed.metadata.papermill.input_path == "tiny.ipynb"
    assert [x.name for x in output.parent.iterdir()] == ["{tiny}.ipynb"]


@pytest.mark.parametrize(
    ("default", "value", "fitting"),
    [
        (1.0, 2, 2.0),
        ("a = b", "[5]", "[5]"),
        (None, "runs/a", "runs/a"),
        (None, {"a": "b"}, {"a": "b"}),
        ([1, 2], "[3, 4]", [3, 4]),  # papermill's command line passes a list as text
        ([0.5, 1.0], [2, 4.0], [2, 4.0]),
        ([0.5, "whole"], ["whole", 1, 2.0], ["whole", 1, 2.0]),
        ([["tiny", 1.0]], [["small", 2, 3]], [["small", 2, 3]]),
        (["a"], [], []),
        ([], ["anything", 1], ["anything", 1]),
    ],
)
def test_values_that_fit_a_default(default, value, fitting):
    assert notebook.fit("x", value, default, "tiny.ipynb") == fitting


@pytest.mark.parametrize(
    ("default", "value", "message"),
    [
        (0, "one", "parameter 'x' must be of type int, like its default 0, not str 'one'"),
        (0, True, "parameter 'x' must be of type int"),
        (0, 1.0, "parameter 'x' must be of type int"),
        (True, 1, "parameter 'x' must be of type bool"),
        ([1, 2], 1, "parameter 'x' must be of type list"),
        ([1, 2], "3, 4", "parameter 'x' must be of type list"),
        ([1, 2], "[3", "parameter 'x' must be of type list"),
        ([1, 2], "[3, x]", "elements of parameter 'x' must be of type int, .*, not str 'x'"),
        ([1, 2], [1, 2.5], "elements of parameter 'x' must be of type int, .*, not float 2.5"),
        ([0.5, 1.0], [True], "elements of parameter 'x' must be of type float, "),
        ([0.5, "whole"], [None], "elements of parameter 'x' must be of type float or str, "),
        ([["tiny", 1.0]], ["small"], "elements of parameter 'x' must be of type list, "),
    ],
)
def test_values_that_do_not_fit_are_refused(default, value, message):
    with pytest.raises(InputError, match=f"tiny.ipynb: {message}"):
        notebook.fit("x", value, default, "tiny.ipynb")


def test_what_is_given_and_a_profile_must_fit(study, tmp_path):
    known = "choose one of seed, rate, name, steps, folder, fast"
    for given, message in (
        ({"sead": 1}, f"unknown parameter of tiny.ipynb: 'sead'; {known}"),
        ({"seed": "one"}, "tiny.ipynb: parameter 'seed' must be of type int"),
    ):
        with pytest.raises(InputError, match=message):
            run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo", parameters=given)
    (study / "profiles/demo.yaml").write_text("seed: soon\n")
    with pytest.raises(InputError, match="profile demo: parameter 'seed' must be of type int"):
        run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo")


def test_profiles_and_names_are_known(study, tmp_path):
    assert profiles.load_profile(study / "profiles/smoke.yaml") == {"seed": 1}
    with pytest.raises(InputError, match="no profile 'huge'; choose one of: demo, smoke"):
        profiles.load_profile("huge")
    with pytest.raises(InputError, match="no notebook 'other'; choose one of: tiny"):
        run.run_notebook("other", tmp_path / "out.ipynb", profile="demo")


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "flat mapping"), ("a: {b: 1}\n", "flat mapping"), ("a: [", "YAML")]
)
def test_bad_profiles(study, text, message):
    (study / "profiles/bad.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        profiles.load_profile("bad")


def test_failure_names_the_cell_and_keeps_the_partial_copy(study, tmp_path):
    mistake = "from bsm.errors import InputError\nraise InputError('no such song')"
    source = make(study / "broken.ipynb", "before = 1\nprint(before)", mistake, "print('never')")
    output = tmp_path / "out.ipynb"
    with pytest.raises(run.NotebookFailed) as failure:
        run.run_notebook(source, output, profile="smoke")
    where = "broken.ipynb failed in cell [4], 'from bsm.errors import InputError'"
    assert str(failure.value).startswith(f"{where}: InputError: no such song; its partial copy is ")
    assert not output.exists()
    partial = nbformat.read(tmp_path / "out.failed.ipynb", as_version=4)
    assert partial.metadata.papermill.input_path == "broken.ipynb"
    shown = [x for cell in partial.cells for x in cell.get("outputs", [])]
    assert [x.get("text") for x in shown if x.output_type == "stream"] == ["1\n"]
    # What a user can mend is one line in the notebook.
    assert [x.traceback for x in shown if x.output_type == "error"] == [["InputError: no such song"]]

    make(study / "broken.ipynb", "x = 1")
    run.run_notebook(source, output, profile="smoke")
    assert output.exists()
    assert not (tmp_path / "out.failed.ipynb").exists()


def test_a_dead_kernel_is_a_failed_notebook(study, tmp_path):
    make(study / "dead.ipynb", "import os\nos._exit(1)")
    with pytest.raises(run.NotebookFailed, match=r"dead.ipynb failed .*[Kk]ernel died"):
        run.run_notebook("dead", tmp_path / "out.ipynb", profile="smoke")
    assert (tmp_path / "out.failed.ipynb").exists()


def test_unusable_notebooks(study, tmp_path):
    path = study / "tiny.ipynb"
    content = nbformat.read(path, as_version=4)
    content.cells[1].metadata.tags = []
    nbformat.write(content, path)
    with pytest.raises(InputError, match="one cell must be tagged 'parameters', 0 are"):
        run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo")
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a notebook"):
            run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo")


def test_a_log_gets_a_line_of_a_progress_bar_each_half_minute(monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "1")
    monkeypatch.delenv("TQDM_MININTERVAL")
    monkeypatch.setattr(cli, "cli", lambda **_: None)
    cli.main()  # a test's standard error is no terminal
    assert os.environ["TQDM_MININTERVAL"] == "30"


# ---- what a notebook calls: parameters checked in place, and one call that saves values, table and figure

OWN = {"profile": "own", "data": "songs", "seed": 3, "window": 8.0, "weights": None, "out": ""}
SAVES = {"needs": "songs", "saves": {"found": ["values", "table", "figure"]}, "apart_with": ["weights"]}


@pytest.fixture
def opened(study, tmp_path, monkeypatch):
    """Return the function that opens the notebook `found`, of a profile of its own, with given globals."""
    (study / "profiles/own.yaml").write_text("profile: own\ndata: songs\ntitle: own songs\nmodel: tiny\n")
    (tmp_path / "data/songs").mkdir(parents=True)
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    parameters = "\n".join(f"{name} = {value!r}" for name, value in OWN.items())

    def open_it(about=SAVES, **given):
        imports = "from bsm.study import ablation\nimport bsm.study.plan"
        make(study / "found.ipynb", imports, parameters=parameters, bsm=about)
        names = OWN | given
        return *saving.open_study("found", names), names

    return open_it


def test_values_table_and_figure_are_saved_in_one_call(opened, tmp_path):
    settings, save, names = opened(window="4")
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


def test_times_count_from_the_result_before(opened, tmp_path):
    _, save, _ = opened()
    save.started = save.started._replace(wall=save.started.wall - 100)
    for least in (100, 0):
        save("found", values=[1], measured="x")
        took = read_result(tmp_path / "reports/own/results/found.json")["provenance"]["wall_seconds"]
        assert least <= took < least + 50


@pytest.mark.parametrize(("name", "kind"), [("other", "table"), ("found", "figure")])
def test_what_the_notebook_does_not_declare_is_refused(opened, tmp_path, name, kind):
    _, save, _ = opened(about={"needs": "songs", "saves": {"found": ["table"]}})
    with pytest.raises(ValueError, match=f"does not declare in its metadata that it saves {kind} '{name}'"):
        save(name, **{kind: "text"})
    assert not (tmp_path / "reports").exists()


def test_what_is_measured_of_others_stands_apart(opened, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(saving, "ROOT", tmp_path)
    assert opened()[0].reports == tmp_path / "reports/own" and opened(out="there")[0].reports == Path("there")
    assert opened(weights="author", out="there")[0].reports == Path("there") and not caplog.records
    settings, _, names = opened(weights="author")
    assert settings.reports == tmp_path / "runs/found" and names["out"] == str(tmp_path / "runs/found")
    assert "results go to runs/found; name another folder as `out`" in caplog.text


def test_what_a_notebook_says_about_itself(opened):
    opened()
    found = Notebook.find("found")
    assert found.title == "Tiny"
    assert found.modules() == ["study/ablation", "study/plan"]
    kinds = ("notebooks/found.ipynb", "results/found.json", "tables/found.md", "figures/found.png")
    assert found.files("r") == [f"r/{path}" for path in kinds]
    assert notebook.study_notebooks() == [found]
    opened(about={"needs": "songs", "saves": {"found": ["table"], "more": ["figure"]}, "optional": ["more"]})
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
    make(study / "found.ipynb", bsm=about)
    with pytest.raises(InputError, match=message):
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
    with pytest.raises(InputError, match=message):
        saving.check_usable(values)


def test_a_value_out_of_range_is_refused_by_name():
    saving.in_range(0, most_songs=0, cost_repeats=2)
    saving.in_range(0, 3, example=3)
    with pytest.raises(InputError, match="parameter 'most_songs' must be at least 0, not -3"):
        saving.in_range(0, most_songs=-3)
    with pytest.raises(InputError, match="parameter 'example' must be at least 0 and at most 3, not 4"):
        saving.in_range(0, 3, example=4)


def test_every_profile_can_be_used():
    for path in (profiles.ROOT / "notebooks/profiles").glob("*.yaml"):
        saving.check_usable({k: v for k, v in profiles.Profile.load(path.stem).values.items() if k != "device"})
