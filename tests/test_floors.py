"""The floors of the package: which room may import which, read from the source without importing it."""

import ast
import re
from graphlib import TopologicalSorter

import pytest

from bsm.study.records import ROOT

FILES = {path.relative_to(ROOT): path for path in sorted((ROOT / "bsm").rglob("*.py"))}
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
ABOVE_DATA = {"model", "mamba2", "time_blocks", "fast", "baseline", "networks", "weights", "inference", "evaluate"}
"""Rooms that know the network: data and scan know nothing of them."""
TOP = {"study", "cli", "__main__"}


def imports(path, *, top_level=False):
    """The modules of the package that a file imports: everywhere, or only while it is itself imported."""
    found, waiting = set(), list(ast.parse(FILES[path].read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [(node.module, f"{node.module}.{alias.name}") for alias in node.names]
        else:
            inert = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            waiting += node.orelse if typing else [] if inert and top_level else ast.iter_child_nodes(node)
            continue
        found |= {attribute if attribute in MODULES else module for module, attribute in names}
    return found & MODULES.keys()


def room(module):
    return (module.split(".") + [""])[1]


def arrows(*, top_level=False):
    return {module: imports(path, top_level=top_level) - {module} for module, path in MODULES.items()}


def upward(lower, upper):
    """The imports that lead from one set of rooms up to another."""
    return [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        if lower(room(module))
        for target in sorted(targets)
        if room(target) in upper
    ]


def test_the_reader_finds_every_kind_of_import():
    found = arrows()
    assert "bsm.study.claims.exact" in found["bsm.study.claims.ledger"]  # an attribute that is a module
    assert "bsm.study.speed.model" in found["bsm.cli.bench"]  # inside a function
    assert "bsm.study.speed.model" not in arrows(top_level=True)["bsm.cli.bench"]


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        pytest.param(lambda room: room not in TOP, TOP, id="nothing imports the study or the commands"),
        pytest.param({"data", "scan", "conv"}.__contains__, ABOVE_DATA | {"train"}, id="data and scan know no model"),
        pytest.param(lambda room: room not in TOP | {"train"}, {"train"}, id="the model knows no training"),
    ],
)
def test_no_arrow_leads_upward(lower, upper):
    assert not upward(lower, upper)


def test_no_modules_import_each_other():
    TopologicalSorter(arrows(top_level=True)).prepare()  # names the modules of a cycle


def test_audio_and_files_have_one_door_each():
    """Only bsm.audio uses libsndfile; files are written to the temporary paths of bsm.files.replacing."""
    for path in FILES.values():
        text = path.read_text()
        assert path.name == "audio.py" or not re.search(r"^\s*(import|from) soundfile", text, re.MULTILINE), path
        written = set(re.findall(r"(\w+)\.(?:write_text\(|write_bytes\(|open\(\"[wx])", text))
        assert written <= {"temporary", "_CLEAR"}, path  # _CLEAR: a file of /proc


def test_nothing_that_ships_patches():
    for path in FILES.values():
        text = path.read_text()
        assert "unittest" not in text and "monkeypatch" not in text, path
