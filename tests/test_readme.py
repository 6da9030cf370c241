"""The README: short, and its figures are what the result files and the ledger say."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bsm.errors import InputError
from bsm.study import commands, readme
from bsm.study.claims import ledger
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, mark, write_result

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def judged_once(committed, monkeypatch):
    monkeypatch.setattr(ledger, "lines", lambda: committed)


def test_its_figures_are_those_of_the_results(tmp_path):
    copy = Path(shutil.copy(ROOT / "README.md", tmp_path))
    assert not readme.refresh_readme(Profile.load("demo"), copy), "run `bsm readme`"
    assert re.findall("<!-- (claims|tally|commands)", TEXT) == ["claims", "commands", "tally", "claims"]


def test_it_is_read_in_a_few_minutes():
    lines = TEXT.splitlines()
    assert len(lines) <= 110
    cells = [cell for line in lines if line.startswith("|") for cell in line.strip("|").split("|")]
    assert cells and max(len(cell.split()) for cell in cells) <= readme.WORDS + 1  # and the dots where one is cut


def test_what_we_found_has_five_rows_and_one_of_them_is_blocked(committed):
    (found,) = re.findall(r"## What we found\n\n<!-- claims: (.+) -->", TEXT)
    judged = {line.claim.id: line.finding.verdict for line in committed}
    verdicts = [judged[name] for name in found.split()]
    assert len(verdicts) == 5 and "blocked" in verdicts


def test_every_part_is_made_anew_once(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("x\n<!-- tally -->\nold\n<!-- end -->\ny\n<!-- claims: params-48 -->\n<!-- end -->\nz\n")
    settings = SimpleNamespace(reports=tmp_path, profile="demo")
    assert readme.refresh_readme(settings, page)
    text = page.read_text()
    assert re.search("<!-- tally -->\n\\d+ claims in .*\n<!-- end -->\ny\n", text) and text.endswith(
        "<!-- end -->\nz\n"
    )
    assert text.count("The paper's model has about 48.1 million parameters") == 1
    assert not readme.refresh_readme(settings, page)


def test_an_unknown_claim_is_named(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(before := "<!-- claims: gone -->\n<!-- end -->\n")
    with pytest.raises(InputError, match="unknown claim 'gone'; choose one of "):
        readme.refresh_readme(SimpleNamespace(reports=tmp_path, profile="demo"), page)
    assert page.read_text() == before


def test_cells_are_cut_between_clauses():
    words = "one two three four five six seven eight nine ten eleven twelve"
    assert readme.shorten(words) == words
    assert readme.shorten(f"{words}; a b c d e") == words
    assert readme.shorten(f"{words}, a (1; 2), b c d") == f"{words}, a (1; 2)"
    assert readme.shorten(" ".join(["word"] * 16)) == " ".join(["word"] * 15) + " ..."


def test_the_two_commands_are_measured(tmp_path):
    (tmp_path / "file").write_bytes(bytes(1000))
    code = "import time; x = bytearray(200 * 2**20); x[::4096] = bytes([1]) * len(x[::4096]); time.sleep(0.3)"
    taken = commands.measure([sys.executable, "-c", code], tmp_path)
    assert taken["status"] == 0 and taken["disk_bytes"] == 1000
    assert taken["seconds"] >= 0.3 and taken["peak_bytes"] > 200 * 2**20


def test_the_commands_table_shows_what_was_measured_or_dashes(tmp_path):
    settings = Profile.load("demo", out=str(tmp_path))
    assert "| `make test` | – | – | – |" in commands.table(settings) and "not measured yet" in commands.table(settings)
    taken = {"seconds": 90.0, "peak_bytes": 2**31, "disk_bytes": 2**30, "status": 0}
    given = {"measured": "s", "parameters": {"cores": 2}, "values": {"test": taken}, "started": mark(), "data": "songs"}
    write_result(settings.result("commands"), **given, inputs=[])
    assert "| `make test` | 1.5 | 2.0 | 1.0 |" in commands.table(settings)
    assert "2 cores of " in commands.table(settings)
