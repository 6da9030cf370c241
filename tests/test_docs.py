"""The documentation: links lead somewhere, commands exist, code runs, diffs apply and do what they say."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import nbformat
import pytest
from nbclient import NotebookClient

from bsm.cli import cli
from bsm.study.rehearse import copy_of_checkout

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "notebooks" / "README.md", ROOT / "reports" / "CLAIMS.md"]
)
sys.path.insert(0, str(ROOT / "docs"))
from site_check import faults  # noqa: E402


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The places of a page, by the names that GitHub and MyST give to headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The calls of bsm and make that a page shows, in lines of their own or within the text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4,}(.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    lines = [part for line in lines for part in line.split(" && ")]
    calls = [re.sub(r"^(\w+=\S+ )*(\.venv/bin/)?", "", line) for line in lines]
    return [shlex.split(call, comments=True) for call in calls if re.match(r"(bsm|make) [a-z]", call)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        path, _, place = target.partition("#")
        if "://" in path:
            continue
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (place and place not in anchors(found)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_tests_exist(page):
    for file, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text()):
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in commands(page):
        if program == "make":
            assert words[0] in targets, words
            continue
        command: click.Command = cli
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, f"bsm {' '.join(words)}"
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if re.match(r"-[-a-z]", word)} <= known | {"--help"}, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_of_snakemake_are_given_once(page):
    """Of two `--set-resources`, say, it takes the last."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for call in re.findall(r"^ {4,}(?:\.venv/bin/)?snakemake (.+)$", text, re.MULTILINE):
        options = re.findall(r"(?<!\S)--[a-z-]+", call)
        assert len(options) == len(set(options)), call


def test_commands_are_found():
    assert ["make", "resume", "PROFILE=demo"] in commands(ROOT / "docs" / "cluster.md")
    assert ["bsm", "claims", "check"] in commands(ROOT / "docs" / "tutorial.md")


def model_notebook() -> nbformat.NotebookNode:
    """The notebook that teaches the model, on a shorter excerpt."""
    notebook = nbformat.read(ROOT / "notebooks" / "00_model.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source, found = re.subn(r"^seconds = \S+", "seconds = 0.2", cell.source, flags=re.MULTILINE)
    assert found == 1
    return notebook


def test_every_step_of_the_model_has_an_equation_and_an_assertion():
    steps = "".join(f"{cell.cell_type}: {cell.source}\n" for cell in model_notebook().cells).split("markdown: ## ")[1:]
    assert [step.split(".")[0] for step in steps[:11]] == [str(number) for number in range(1, 12)]
    for step in steps[:11]:
        assert "$$" in step and re.search(r"^ *assert ", step, re.MULTILINE), step


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the clip is decoded by ffmpeg")
def test_the_code_of_the_model_notebook_equals_the_packages():
    """Its own assertions say so."""
    place = {"metadata": {"path": ROOT / "notebooks"}}  # where JupyterLab runs it
    NotebookClient(model_notebook(), kernel_name="python3", resources=place).execute()


USES = """
import torch
from bsm.config import ModelConfig, TrainConfig
from bsm.data import registry
from bsm.scan import EXACT, scan
from bsm.study import variants

assert "accurate" in EXACT
g = torch.Generator().manual_seed(0)
x, dt = torch.randn(1, 70, 2, 3, generator=g), torch.rand(1, 70, 2, generator=g)
B, C = torch.randn(2, 1, 70, 1, 4, generator=g)
A, D, first = -torch.rand(2, generator=g), torch.randn(2, generator=g), torch.randn(1, 2, 3, 4, generator=g)
for reverse in (False, True):
    got, want = (
        scan(x, dt, A, B, C, D, initial_state=first, reverse=reverse, backend=backend)
        for backend in ("accurate", "sequential")
    )
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other)
choir = registry.load("choir")
assert {name: split.songs for name, split in choir.splits.items()} == {"train": 2, "valid": 1, "test": 1}
model, train = variants.changed("one-layer", ModelConfig.preset("tiny"), TrainConfig())
assert (model.depth, ModelConfig.preset("tiny").depth) == (1, 2)
print("used")
"""


def test_diffs_apply_and_do_what_they_say(tmp_path):
    copy_of_checkout(tmp_path, "bsm", "data_manifest", "tests/test_manifest.py")
    diffs = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), re.DOTALL)
    assert len(diffs) == 3
    for diff in diffs:  # a file and a line at most
        assert diff.count("\n--- /dev/null") <= 1
        done = subprocess.run(["git", "apply", "-"], input=diff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert '"choir", ' in (tmp_path / "tests" / "test_manifest.py").read_text()
    done = subprocess.run([sys.executable, "-c", USES], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "used\n", done.stderr


def test_a_site_with_faults_is_refused(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">good</a><a href="#top">good</a><a href="https://x.example">good</a>'
        '<audio src="data:audio/wav;base64,AA=="></audio>'
    )
    (tmp_path / "b.html").write_text('<p id="there">B</p><a href="a.html">good</a>')
    assert faults(tmp_path) == []
    (tmp_path / "c.html").write_text(
        '<a href="a.html#nowhere">bad</a><a href="none.html">bad</a><img src="none.png">'
        '<script src="https://x.example/y.js"></script><link href="//x.example/z.css">'
    )
    found = faults(tmp_path)
    assert len(found) == 5
    assert all(line.startswith("c.html: ") for line in found)
    assert sum("not part of the site" in line for line in found) == 2


def test_links_of_the_site_lead_to_executed_notebooks(tmp_path):
    pytest.importorskip("latex2mathml", reason="the site's tools are installed by `make site`")
    from site_pages import _lead_to_executed

    (tmp_path / "reports/demo/notebooks").mkdir(parents=True)
    (tmp_path / "reports/demo/notebooks/00_model.ipynb").touch()
    app = SimpleNamespace(config=SimpleNamespace(profile="demo"), srcdir=tmp_path)
    text = "[a](00_model.ipynb) [b](01_data.ipynb) [c](../docs/scan.md) ![d](figures/d.png)"
    cells = [{"source": text, "metadata": {"tags": [tag]}} for tag in ("parameters", "injected-parameters")]
    executed, contents = [json.dumps({"cells": cells})], [text]
    _lead_to_executed(app, "reports/demo/notebooks/00_model", executed)
    _lead_to_executed(app, "notebooks/README", contents)
    first, second = json.loads(executed[0])["cells"]
    assert first["source"] == "[a](/reports/demo/notebooks/00_model.ipynb) b [c](/docs/scan.md) ![d](../figures/d.png)"
    assert "hide-input" in first["metadata"]["tags"] and "hide-input" not in second["metadata"]["tags"]
    assert contents == ["[a](/reports/demo/notebooks/00_model.ipynb) b [c](../docs/scan.md) ![d](figures/d.png)"]


def test_the_contents_page_leads_to_every_notebook():
    linked = set(re.findall(r"\]\((\w+\.ipynb)\)", (ROOT / "notebooks" / "README.md").read_text()))
    assert linked == {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_every_module_is_documented():
    listed = set(re.findall(r"^   bsm\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "bsm").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "bsm").glob("*.py") if not path.stem.startswith("_")}
    assert listed == (packages | modules) - {"cli"}  # the command line documents itself: bsm --help


def test_a_site_without_executed_notebooks_is_refused_in_one_line(tmp_path):
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "mine.yaml").write_text("profile: mine\n")
    command = ["make", "-f", str(ROOT / "Makefile"), "executed", "PROFILE=mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "first run: make reproduce PROFILE=mine" in done.stderr
    (tmp_path / "reports" / "mine" / "notebooks").mkdir(parents=True)
    (tmp_path / "reports" / "mine" / "notebooks" / "01_data.ipynb").touch()
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
