"""The study as a graph: a fresh copy can be planned, and its rules promise what the notebooks write."""

import ast
import importlib
import re
import subprocess
import types
from pathlib import Path

import nbformat
import pytest
import yaml

from bsm.config import TrainConfig
from bsm.study.claims.ledger import CLAIMS
from bsm.study.notebook import fit, study_notebooks
from bsm.study.profiles import Profile
from test_workflow_changes import Study

ROOT = Path(__file__).parents[1]
STUDY = {notebook.name: notebook for notebook in study_notebooks()}
NOTEBOOKS = [*STUDY]
SMOKE = yaml.safe_load((ROOT / "notebooks/profiles/smoke.yaml").read_text())
PLANNED = [name for name, notebook in STUDY.items() if notebook.about.get("only_with", "profile") in SMOKE]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return the outputs of all commands that snakemake would run in a fresh copy, by command, in order."""
    return Study(tmp_path_factory.mktemp("fresh")).outputs


def test_commands(plan):
    """Each notebook is the command of one rule, and the report waits for all of them."""
    order, training = [*plan], "bsm train smoke --"
    studies = {command.split()[2]: command for command in plan if command.startswith("bsm study ")}
    wanted = {f"bsm study {name} --profile smoke" for name in PLANNED}
    assert {command.removesuffix(" -p seeds [0]") for command in studies.values()} == wanted
    assert order[-1] == studies["11_report"]
    (model,) = (command for command in plan if command.startswith(f"{training}backbone"))
    assert model == f"{training}backbone bsmamba2 --seed 0"
    assert order.index("bsm data prepare smoke") < order.index(model) < order.index(studies["04_train"])
    variants = [command for command in plan if re.fullmatch(f"{training}variant [a-z0-9-]+ --seed 0", command)]
    assert variants and max(map(order.index, variants)) < order.index(studies["09_ablation_size"])


def test_outputs_are_where_the_package_writes(plan):
    settings = Profile.load("smoke")
    (weights,) = plan["bsm train smoke --backbone bsmamba2 --seed 0"]
    assert ROOT / weights == settings.run_folder(settings.seed) / "model.safetensors"
    assert plan["bsm data prepare smoke"] == ["data/smoke/complete"]
    assert "reports/smoke/report.md" in plan["bsm study 11_report --profile smoke"]


def test_everything_but_what_is_for_people_is_in_the_study():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} - {"explore"} == set(STUDY)


def cells(name, kind="code"):
    """The sources of a notebook's cells."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def nodes(name):
    """The nodes of the syntax tree of a notebook's code."""
    return [*ast.walk(ast.parse("\n".join(cells(name))))]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_saves_what_it_declares(plan, name):
    """Before any of them runs for an hour and fails in its last call."""
    saved = {}
    for call in nodes(name):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "save":
            kinds = {"values", "table", "figure"} & {keyword.arg for keyword in call.keywords}
            saved.setdefault(call.args[0].value, set()).update(kinds)
            assert "values" not in kinds or "measured" in {keyword.arg for keyword in call.keywords}
    declared = {key: set(kinds) for key, kinds in STUDY[name].saves.items() if key != "cost"}  # by write_report
    assert saved == declared
    if name in PLANNED:
        (made,) = (outputs for command, outputs in plan.items() if command.startswith(f"bsm study {name} "))
        assert set(STUDY[name].files("reports/smoke")) <= set(made)


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != "00_model"])  # which tests no claim
def test_a_notebook_asks_quotes_defines_says_and_asserts_in_this_order(name):
    first = cells(name, "markdown")[0]
    assert first.index("**Question.**") < first.index("**Claim") < first.index("**What is measured") < first.index("$$")
    quotes = re.findall(r"^> - (.+) \(\*.+\*\)$", first, re.MULTILINE)
    assert set(quotes) <= {claim.text for claim in CLAIMS.values()}
    assert quotes or name == "07_cue_and_gap"  # which quotes the paper
    assert "assert " in cells(name)[-1] or name == "07_cue_and_gap"


@pytest.mark.parametrize("name", ["04_train", "05_input_length", "06_vocal_occurrence", "10_published_model"])
def test_a_notebook_that_separates_does_so_on_the_profiles_device(name):
    assert STUDY[name].parameters["device"] == "cpu"
    loaded = re.findall(r"\b(?:load_model|subjects)\(.*", "\n".join(cells(name)))
    assert loaded and all(".to(device)" in line or "device=device" in line for line in loaded)


@pytest.mark.parametrize("name", [*NOTEBOOKS, "explore"])
def test_a_notebook_takes_only_names_that_the_package_has(name):
    """A function that is renamed is found here, not after minutes of a notebook's work."""
    modules = {}
    for node in nodes(name):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bsm"):
            for taken in node.names:
                home = importlib.import_module(node.module)
                if not hasattr(home, taken.name):
                    importlib.import_module(f"{node.module}.{taken.name}")
                modules[taken.asname or taken.name] = getattr(home, taken.name)
    lacking = [
        f"{node.value.id}.{node.attr}"
        for node in nodes(name)
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
    defaults = STUDY["04_train"].parameters
    profile = Profile.load(path.stem)
    assert set(profile.values) & set(TrainConfig.__dataclass_fields__) <= set(defaults)
    fitting = {name: value for name, value in defaults.items() if name in TrainConfig.__dataclass_fields__}
    passed = {name: profile.values.get(name, value) for name, value in fitting.items()}
    assert Profile.load(path.stem, **passed).train_config() == profile.train_config()
