"""The README shows what the demo's result files say, and nothing else."""

import re
from types import SimpleNamespace

import pytest

from bsm.errors import InputError
from bsm.study.records import ROOT
from bsm.study.report import refresh_readme

TABLES = re.compile(r"<!-- table:(\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def test_readme_tables_are_the_reports_tables():
    shown = dict(TABLES.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert set(shown) == {"scores", "real_clip", "cost"}
    for name, text in shown.items():
        assert text == (ROOT / "reports/demo/tables" / f"{name}.md").read_text(encoding="utf-8"), name


def test_refreshing_fills_every_table_once(tmp_path):
    (tmp_path / "tables").mkdir()
    for name in ("a", "b"):
        (tmp_path / "tables" / f"{name}.md").write_text(f"| {name} |\n")
    readme = tmp_path / "README.md"
    readme.write_text("x\n<!-- table:a -->\nold\n<!-- end -->\ny\n<!-- table:b -->\n<!-- end -->\nz\n")
    settings = SimpleNamespace(reports=tmp_path, profile="demo")
    assert refresh_readme(settings, readme)
    assert dict(TABLES.findall(readme.read_text())) == {"a": "| a |\n", "b": "| b |\n"}
    assert readme.read_text().startswith("x\n") and readme.read_text().endswith("z\n")
    assert not refresh_readme(settings, readme)


def test_missing_table_is_named(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:gone -->\n<!-- end -->\n")
    with pytest.raises(InputError, match="gone.md: missing; run `make reproduce PROFILE=demo`"):
        refresh_readme(SimpleNamespace(reports=tmp_path, profile="demo"), readme)
    assert readme.read_text() == "<!-- table:gone -->\n<!-- end -->\n"
