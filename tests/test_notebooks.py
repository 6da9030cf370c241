"""The notebooks' runner, with a tiny notebook of its own."""

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bsm import cli
from bsm.errors import InputError
from bsm.study import notebook, profiles, run, saving

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


def make(path: Path, *code: str, parameters: str = PARAMETERS) -> Path:
    cells = [new_markdown_cell("# Tiny"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    nbformat.write(new_notebook(cells=cells + [new_code_cell(x) for x in code]), path)
    return path


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
    assert profiles.profiles() == ["demo", "smoke"]
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
    source = make(study / "broken.ipynb", "before = 1\nprint(before)", "x = 1 / 0", "print('never')")
    output = tmp_path / "out.ipynb"
    with pytest.raises(run.NotebookFailed) as failure:
        run.run_notebook(source, output, profile="smoke")
    message = str(failure.value)
    assert "broken.ipynb failed in cell [4], 'x = 1 / 0': ZeroDivisionError: division by zero" in message
    assert "\n" not in message
    assert not output.exists()
    partial = nbformat.read(tmp_path / "out.failed.ipynb", as_version=4)
    assert partial.metadata.papermill.input_path == "broken.ipynb"
    assert any(x.get("text") == "1\n" for cell in partial.cells for x in cell.get("outputs", []))

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


def test_a_value_out_of_range_is_refused_by_name():
    saving.in_range(0, most_songs=0, cost_repeats=2)
    saving.in_range(0, 3, example=3)
    with pytest.raises(InputError, match="parameter 'most_songs' must be at least 0, not -3"):
        saving.in_range(0, most_songs=-3)
    with pytest.raises(InputError, match="parameter 'example' must be at least 0 and at most 3, not 4"):
        saving.in_range(0, 3, example=4)


def test_a_mistake_is_one_line_in_the_notebook(study, tmp_path):
    make(study / "wrong.ipynb", "from bsm.errors import InputError\nraise InputError('no such song')")
    with pytest.raises(run.NotebookFailed, match="InputError: no such song"):
        run.run_notebook("wrong", tmp_path / "out.ipynb", profile="smoke")
    partial = nbformat.read(tmp_path / "out.failed.ipynb", as_version=4)
    (shown,) = [x for cell in partial.cells for x in cell.get("outputs", []) if x.output_type == "error"]
    assert shown.traceback == ["InputError: no such song"]


def test_a_log_gets_a_line_of_a_progress_bar_each_half_minute(monkeypatch):
    monkeypatch.setenv("TQDM_MININTERVAL", "1")
    monkeypatch.delenv("TQDM_MININTERVAL")
    monkeypatch.setattr(cli, "cli", lambda **_: None)
    cli.main()  # a test's standard error is no terminal
    assert os.environ["TQDM_MININTERVAL"] == "30"
