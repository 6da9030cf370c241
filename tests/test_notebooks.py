"""The notebooks' runner, with a tiny notebook of its own."""

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bsm import cli
from bsm.errors import InputError
from bsm.study import notebook, profiles, run, saving
from bsm.study.notebook import Notebook

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
    ("parameters", "message"),
    [
        ({"sead": 1}, "unknown parameter of tiny.ipynb: 'sead'; choose one of seed, rate, name, steps, folder, fast"),
        ({"seed": "one"}, "'seed' must be of type int, like its default 0, not str 'one'"),
        ({"seed": True}, "'seed' must be of type int"),
        ({"seed": 1.0}, "'seed' must be of type int"),
        ({"fast": 1}, "'fast' must be of type bool"),
        ({"steps": 1}, "'steps' must be of type list"),
        ({"steps": [1, "2"]}, "elements of parameter 'steps' must be of type int, .*, not str '2'"),
        ({"steps": [1, 2.5]}, "elements of parameter 'steps' must be of type int, .*, not float 2.5"),
    ],
)
def test_parameters_must_fit(study, tmp_path, parameters, message):
    with pytest.raises(InputError, match=message):
        run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo", parameters=parameters)


@pytest.mark.parametrize(
    ("default", "fits", "refused", "kinds"),
    [
        ("[0.5, 1.0]", [2, 4.0], [True], "float"),
        ('[0.5, "whole"]', ["whole", 1, 2.0], [None], "float or str"),
        ('[["tiny", 1.0]]', [["small", 2, 3]], ["small"], "list"),
        ('["a"]', [], [1], "str"),
        ("[]", ["anything", 1], None, ""),
    ],
)
def test_elements_must_be_like_those_of_the_default(study, default, fits, refused, kinds):
    make(study / "lists.ipynb", parameters=f"values = {default}")
    assert Notebook.find("lists").fitting({"values": fits}, "lists.ipynb") == {"values": fits}
    if refused:
        with pytest.raises(InputError, match=f"lists.ipynb: elements of parameter 'values' must be of type {kinds}, "):
            Notebook.find("lists").fitting({"values": refused}, "lists.ipynb")


def test_a_profile_must_fit_too(study, tmp_path):
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
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata.tags = []
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match="one cell must be tagged 'parameters', 0 are"):
        run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo")
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(InputError, match="not a notebook"):
            run.run_notebook("tiny", tmp_path / "out.ipynb", profile="demo")


def test_a_notebook_takes_what_plain_papermill_passed(study):
    """papermill's command line passes a list as text."""
    given = {"steps": "[3, 4]", "rate": 2, "name": "[5]", "folder": "runs/a"}
    found = Notebook.find("tiny").fitting(given, "tiny.ipynb")
    assert found == {"steps": [3, 4], "rate": 2.0, "name": "[5]", "folder": "runs/a"}
    assert Notebook.find("tiny").fitting({"folder": {"a": "b"}}, "tiny.ipynb") == {"folder": {"a": "b"}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "3, 4"}, "tiny.ipynb: parameter 'steps' must be of type list"),
        ({"steps": "[3"}, "parameter 'steps' must be of type list"),
        ({"steps": "[3, x]"}, "elements of parameter 'steps' must be of type int, .*'x'"),
    ],
)
def test_a_notebook_refuses_text_that_is_no_list(study, given, message):
    with pytest.raises(InputError, match=message):
        Notebook.find("tiny").fitting(given, "tiny.ipynb")


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
