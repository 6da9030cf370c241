"""The study as a graph: a fresh copy can be planned, and its rules promise what the notebooks write."""

import ast
import importlib
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml

from bsm.config import TrainConfig
from bsm.study.claims.ledger import CLAIMS
from bsm.study.notebook import fit, study_notebooks
from copies import copy_of_checkout

ROOT = Path(__file__).parents[1]
STUDY = {notebook.name: notebook for notebook in study_notebooks()}
NOTEBOOKS = [*STUDY]
SMOKE = yaml.safe_load((ROOT / "notebooks/profiles/smoke.yaml").read_text())
PLANNED = [name for name, notebook in STUDY.items() if notebook.about.get("only_with", "profile") in SMOKE]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return the rules that snakemake would run in a fresh copy, in order, with their outputs and commands."""
    copy = copy_of_checkout(tmp_path_factory.mktemp("fresh"), "bsm", "data_manifest", "notebooks", "tests", "Snakefile")
    (copy / "reports").mkdir()
    command = [sys.executable, "-m", "snakemake", "-n", "-p", "--cores", "2", "--config", "profile=smoke"]
    environment = os.environ | {"XDG_CACHE_HOME": str(copy / ".cache")}
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    jobs = {}
    for block in re.split(r"\n(?=\[)", done.stdout):
        if rule := re.search(r"^(?:local)?rule (\w+):", block, re.MULTILINE):
            outputs = re.search(r"^ +output: (.+)$", block, re.MULTILINE)
            shell = re.search(r"^bsm .+$|(?<=Shell command: )bsm .+$", block, re.MULTILINE)
            jobs[rule[1]] = (set(outputs[1].split(", ")) if outputs else set(), shell[0] if shell else None)
    return jobs


def test_every_rule_is_planned_in_order(plan):
    order = list(plan)
    assert order[-1] == "all"
    for earlier, later in [
        ("songs", "model"),
        ("songs", "notebook_01_data"),
        ("model", "notebook_04_train"),
        ("variant", "notebook_09_ablation_size"),
    ]:
        assert order.index(earlier) < order.index(later)


def test_commands(plan):
    commands = {rule: shell for rule, (_, shell) in plan.items() if shell}
    assert commands["songs"] == "bsm data prepare smoke"
    assert commands["model"] == "bsm train smoke --backbone bsmamba2 --seed 0"
    assert re.fullmatch("bsm train smoke --variant [a-z0-9-]+ --seed 0", commands["variant"])
    # Each notebook is the command of one rule, and the report waits for all of them.
    studies = {shell.removesuffix(" -p seeds '[0]'") for shell in commands.values() if shell.startswith("bsm study ")}
    assert studies == {f"bsm study {name} --profile smoke" for name in PLANNED}
    assert list(plan).index("notebook_11_report") == len(plan) - 2


def test_outputs_are_where_the_package_writes(plan):
    from bsm.study.profiles import Profile

    settings = Profile.load("smoke")
    (weights,) = plan["model"][0]
    assert ROOT / weights == settings.run_folder(settings.seed) / "model.safetensors"
    assert plan["songs"][0] == {"data/smoke/complete"}
    assert "reports/smoke/report.md" in plan["notebook_11_report"][0]


def test_everything_but_what_is_for_people_is_in_the_study():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - {"explore"} == set(STUDY)


def calls(name):
    """The calls in a notebook's code."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_saves_what_it_declares(plan, name):
    """Before any of them runs for an hour and fails in its last call."""
    saved = {}
    for call in calls(name):
        if getattr(call.func, "id", "") == "save":
            kinds = {"values", "table", "figure"} & {keyword.arg for keyword in call.keywords}
            saved.setdefault(call.args[0].value, set()).update(kinds)
            assert "values" not in kinds or "measured" in {keyword.arg for keyword in call.keywords}
    declared = {key: set(kinds) for key, kinds in STUDY[name].saves.items() if key != "cost"}  # by write_report
    assert saved == declared
    assert (f"notebook_{name}" in plan) == (name in PLANNED)
    if name in PLANNED:
        assert set(STUDY[name].files("reports/smoke")) <= plan[f"notebook_{name}"][0]


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != "00_model"])  # which tests no claim
def test_a_notebook_asks_quotes_defines_says_and_asserts_in_this_order(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    first = cells[0].source
    assert first.index("**Question.**") < first.index("**Claim") < first.index("**What is measured") < first.index("$$")
    quotes = re.findall(r"^> - (.+) \(\*.+\*\)$", first, re.MULTILINE)
    assert set(quotes) <= {claim.text for claim in CLAIMS.values()}
    assert quotes or name == "07_cue_and_gap"  # which quotes the paper
    assert "assert " in cells[-1].source or name == "07_cue_and_gap"


@pytest.mark.parametrize("name", ["04_train", "05_input_length", "06_vocal_occurrence", "10_published_model"])
def test_a_notebook_that_separates_does_so_on_the_profiles_device(name):
    assert STUDY[name].parameters["device"] == "cpu"
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    loaded = re.findall(r"\b(?:load_model|subjects)\(.*", source)
    assert loaded and all(".to(device)" in line or "device=device" in line for line in loaded)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_takes_only_names_that_the_package_has(path):
    """A function that is renamed is found here, not after minutes of a notebook's work."""
    cells = nbformat.read(path, as_version=4).cells
    nodes = list(ast.walk(ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))))
    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bsm"):
            for name in node.names:
                home = importlib.import_module(node.module)
                if not hasattr(home, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")
                modules[name.asname or name.name] = getattr(home, name.name)
    lacking = [
        f"{node.value.id}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if isinstance(module := modules.get(node.value.id), types.ModuleType) and not hasattr(module, node.attr)
    ]
    assert not lacking


def test_defaults_are_the_demo_profiles():
    """Who runs the cells by hand meets the run that the workflow has made."""
    values = yaml.safe_load((ROOT / "notebooks/profiles/demo.yaml").read_text())
    for notebook in STUDY.values():
        for name, default in notebook.parameters.items():
            assert values.get(name, default) == default, f"{notebook.name}: {name}"


@pytest.mark.parametrize("target", ["reproduce", "resume"])
def test_seeds_are_the_profiles_unless_given(target):
    def recipe(*given: str) -> str:
        command = ["make", "-n", target, "PROFILE=smoke", *given]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout

    assert re.search(r"--rerun-incomplete --config profile=smoke seeds=3$", recipe("SEEDS=3"), re.MULTILINE)
    assert re.search(r"--rerun-incomplete --config profile=smoke$", recipe(), re.MULTILINE)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_run_by_plain_papermill(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.kernelspec.name == "bsm"  # which papermill asks for where none is named
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    (declared,) = (n for n, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
    if path.stem in ("00_model", "explore"):  # which save nothing
        return
    assert f'open_study("{path.stem}", globals())' in code[declared + 1].source
    if path.stem != "11_report":  # it can write elsewhere, and the profile's results stay
        assert 'out = ""' in code[declared].source


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_profiles_and_notebooks_agree(path):
    """A notebook, the training or the data knows each value of a profile; the profile has every name that it needs."""
    from bsm.study.profiles import Profile

    values = yaml.safe_load(path.read_text())
    assert values["profile"] == path.stem
    known = set(TrainConfig.__dataclass_fields__) | {"train_songs", "valid_songs", "test_songs", "song_seconds", "data"}
    known |= {"title", "fetch", "skip_bad", "backbones", "published_weights", "published_dataset"}
    known |= {f"ablation_{name}" for name in TrainConfig.__dataclass_fields__}
    for name, notebook in STUDY.items():
        for key in values.keys() & notebook.parameters.keys():
            fit(key, values[key], notebook.parameters[key], f"{path}, {name}")
        known |= set(notebook.parameters)
    assert set(values) <= known
    Profile.load(path.stem).train_config()
    Profile.load(path.stem).model_config()


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_notebook_and_the_command_train_the_same_run(path):
    """Every training value of a profile reaches 04_train; otherwise its run would differ from that of `bsm train`."""
    from bsm.study.profiles import Profile

    defaults = STUDY["04_train"].parameters
    profile = Profile.load(path.stem)
    assert set(profile.values) & set(TrainConfig.__dataclass_fields__) <= set(defaults)
    fitting = {name: value for name, value in defaults.items() if name in TrainConfig.__dataclass_fields__}
    passed = {name: profile.values.get(name, value) for name, value in fitting.items()}
    assert Profile.load(path.stem, **passed).train_config() == profile.train_config()
