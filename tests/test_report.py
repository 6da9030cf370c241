"""The report shows what the result files say, and nothing else."""

import json
import re
import shutil
from pathlib import Path

import pytest

from bsm.errors import InputError
from bsm.study import notebook, report
from bsm.study.claims.claim import Source
from bsm.study.claims.ledger import CLAIMS
from bsm.study.notebook import Notebook
from bsm.study.profiles import Profile
from bsm.study.records import ROOT
from bsm.study.report import cost_table, write_report


@pytest.fixture
def demo(tmp_path):
    """The demo profile with a copy of its reports."""
    for name in ("benchmarks", "figures", "results", "tables"):
        shutil.copytree(ROOT / "reports/demo" / name, tmp_path / name)
    return Profile.load("demo", out=str(tmp_path))


CELL = re.compile(r"(?<!\\)\|")


def tables(text):
    """The cells of a page's tables, row by row."""
    return [CELL.split(line.strip("|")) for line in text.splitlines() if line.startswith("|")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The demo profile's report from the committed results, whatever version of the notebooks wrote them."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("figures", "results", "tables"):
        shutil.copytree(ROOT / "reports/demo" / name, folder / name)
    return write_report(Profile.load("demo", out=str(folder)))


def test_report_has_the_fixed_sections_and_every_claim(whole):
    text = whole.read_text(encoding="utf-8")
    assert re.findall("^## (.+)$", text, re.MULTILINE) == [
        "In a minute",
        "What the paper claims, and what was found",
        "How it was done",
        "Results",
        "Claims",
        "Compute",
        "What was easy, what was difficult",
        "What could not be known",
        "Limits",
        "Where the numbers come from",
    ]
    assert not re.search(r"\bnan\b|\bNone\b(?!\.)|Undefined", text)
    for name in CLAIMS:
        assert f"`{name}`" in text
    found = text.split("what was found")[1].split("\n## ")[0]
    of_paper = [claim for claim in CLAIMS.values() if Source.PAPER in claim.source]
    assert {*re.findall(r"^- \*\*(.+)\.\*\*$", found, re.MULTILINE)} == {claim.text for claim in of_paper}
    assert found.count("\n  - ") == sum(len(claim.tests) for claim in of_paper)
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (whole.parent / link).is_file()
    for row in tables(text):
        assert len(row) <= report.COLUMNS and sum(len(cell.replace("\\", "")) for cell in row) <= report.WIDTH
        assert all(len(cell.split()) <= report.WORDS for cell in row), row


def test_own_tables_say_what_the_results_say(demo, whole):
    text = whole.read_text(encoding="utf-8")
    scores = json.loads(demo.result("scores").read_text())["values"]
    usdr = {name: [r["usdr"] for r in scores if r["separator"] == name] for name in ("BSMamba2", "BS-RoFormer")}
    means = {name: sum(values) / len(values) for name, values in usdr.items()}
    assert re.search(rf"^\| BSMamba2 \| {means['BSMamba2']:.2f} \[", text, re.MULTILINE)
    gain = f"{means['BSMamba2'] - means['BS-RoFormer']:.2f}"
    assert re.search(rf"^- BSMamba2 minus BS-RoFormer, paired by song: {gain} \[.+\] dB, better\.$", text, re.MULTILINE)
    lengths = json.loads(demo.result("input_length").read_text())["values"]
    assert text.count("| as trained |") == len(lengths["trained"])
    (row,) = (
        r for r in lengths["differences"] if r["model"] == "BSMamba2" and r["metric"] == "usdr" and r["window"] == 4
    )
    found = f"{row['estimate']:.2f} [{row['low']:.2f}, {row['high']:.2f}] | {row['verdict']} |"
    assert re.search(rf"^\| BSMamba2 \| 4 s \| [\d.]+ \| {re.escape(found)}", text, re.MULTILINE)
    whole = [r for r in lengths["scores"] if r["model"] == "BSMamba2" and r["window"] is None]
    mean = sum(r["usdr"] for r in whole) / len(whole)
    assert f"| BSMamba2 | whole song | {mean:.2f} |" in text


def test_figures_of_the_report_show_in_a_notebook(tmp_path, monkeypatch):
    (tmp_path / "reports/own/figures").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "reports/own/report.md"
    path.write_text("![a](figures/a.png) ![b](https://example.org/b.png)")
    monkeypatch.setattr(report, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)  # as the command runs a notebook, whose copy stands in reports/own/notebooks
    assert report.in_notebook(path) == "![a](../figures/a.png) ![b](https://example.org/b.png)"
    monkeypatch.chdir(tmp_path / "notebooks")  # as JupyterLab does
    assert report.in_notebook(path).startswith("![a](../reports/own/figures/a.png)")


@pytest.fixture
def short(committed, monkeypatch):
    """Reports without tables of their own, and with claims that were judged before: intervals take seconds."""
    monkeypatch.setattr(report, "FRAMES", {})
    monkeypatch.setattr(report.ledger, "lines", lambda profile: committed)


def test_report_follows_its_results(demo, short):
    before = write_report(demo).read_text()
    path = demo.result("training")
    record = json.loads(path.read_text())
    record["parameters"]["train"]["clip"] = 123.0
    path.write_text(json.dumps(record))
    after = write_report(demo).read_text()
    assert "gradient clip 123" in after and "gradient clip 123" not in before
    path.unlink()
    with pytest.raises(InputError, match="training.json"):
        write_report(demo)


def test_every_result_stands_by_its_revision(demo, short):
    names = sorted(path.stem for path in demo.reports.glob("results/*.json"))
    for name in names:
        record = json.loads(demo.result(name).read_text())
        record["provenance"]["git"] = {"revision": "abc", "dirty": name in ("ablation_size", "data_loading")}
        demo.result(name).write_text(json.dumps(record))
    text = write_report(demo).read_text()
    assert "- `abc` with uncommitted changes: ablation_size, data_loading\n" in text
    clean = ", ".join(name for name in names if name not in ("ablation_size", "data_loading"))
    assert f"- `abc`: {clean}\n" in text
    # Longer passes lie in another folder. They are shown, too.
    assert "speed/model_speed" in text.split("## Where the numbers come from")[1]


def test_what_was_not_measured_is_no_zero(demo, short):
    shutil.rmtree(demo.reports / "benchmarks")
    text = write_report(demo).read_text()
    assert "The workflow measured no time" in text and "hours" not in text.split("## Compute")[1].split("##")[0]
    assert re.search(r"^\| in all( \| –)+ \|$", (demo.reports / "tables/cost.md").read_text(), re.MULTILINE)


def test_added_up_hours_are_not_called_the_time_that_passed(demo, short):
    for path in demo.reports.glob("benchmarks/*.tsv"):
        header, values = (line.split("\t") for line in path.read_text().splitlines())
        changed = dict(zip(header, values, strict=True)) | {"s": "0", "cpu_time": "0"}
        if path.stem.startswith("model-bsmamba2-seed"):
            changed |= {"s": "3600", "cpu_time": "1800"}
        path.write_text("\t".join(header) + "\n" + "\t".join(changed.values()) + "\n")
    seeds = len(report.seeds_of(demo))
    text = write_report(demo).read_text().split("## Compute")[1]
    assert f"took {seeds:.2f} hours, added up" in text
    assert "Some ran at the same time" in text
    assert f"time: {seeds / 2:.2f} hours, as Snakemake samples it" in text


def retrained(demo, seeds, variants):
    """Let the results be of these seeds and variants, and have no others' benchmarks but those of three seeds."""
    for name in ("input_length", "vocal_occurrence", "ablation_stft", "ablation_size"):
        record = json.loads(demo.result(name).read_text())
        record["parameters"]["seeds"] = seeds
        if name.startswith("ablation"):
            record["parameters"]["weights"] = [{"variant": v, "seed": s} for v in variants for s in seeds]
        demo.result(name).write_text(json.dumps(record))
    first = demo.reports / "benchmarks" / "model-bsmamba2-seed0.tsv"
    for name in ("model-bsmamba2", "model-bs-roformer", "variant-base", "variant-mono"):
        for seed in (0, 1, 2):
            if (path := first.with_name(f"{name}-seed{seed}.tsv")) != first:
                shutil.copy(first, path)


def test_costs_are_those_of_the_present_results(demo):
    """What a run under more seeds, another list of variants or rules of other names left behind does not count."""
    command = r"`make reproduce PROFILE=demo{}`"
    retrained(demo, [0, 1, 2], ["base", "mono"])
    text = cost_table(demo)
    assert command.format(" SEEDS=3") in text and "networks of seed 0, 1, 2." in text
    assert "| train bsmamba2 | 3 |" in text and "| train variants | 6 |" in text
    retrained(demo, [0], ["base"])
    shutil.copy(demo.reports / "benchmarks/songs.tsv", demo.reports / "benchmarks/model.tsv")  # of an older workflow
    text = cost_table(demo)
    assert command.format("") in text and "networks of seed 0." in text
    assert "| train bsmamba2 | 1 |" in text and "| train bs-roformer | 1 |" in text and "| train variants | 1 |" in text
    assert "| model |" not in text
    del demo.values["bench_seconds"]  # a measurement that the profile no longer asks for
    assert "10_published_model" not in cost_table(demo)


def test_every_measured_rule_has_a_name_in_the_table_of_costs():
    rules = re.findall(r'benchmark: f"\{REPORTS\}/benchmarks/([a-z_]+)\.tsv"', (ROOT / "Snakefile").read_text())
    names = report.part_names(Profile.load("demo"))
    assert {"songs", "data_loading"} <= set(rules) and set(rules) <= set(names)
    assert {"04_train", "05_input_length"} <= set(names) and "11_report" not in names


def test_no_number_is_typed_into_the_report():
    """The template's prose has digits in names alone."""
    names = re.compile(r"BSMamba2|arXiv 2508\.14556|MUSDB18-HQ|L1")
    text = re.sub(
        r"\{\{.*?\}\}|\{%.*?%\}", "", Path(report.__file__).with_name("report.md.j2").read_text(), flags=re.DOTALL
    )
    assert len(text) > 2000 and not re.search(r"\d", names.sub("", text))


@pytest.mark.parametrize(
    ("rows", "fit"),
    [
        (["| a | b |"] * 22, True),
        (["| a | b |"] * 23, False),
        (["|" + " a |" * 7], True),
        (["|" + " a |" * 8], False),
        (["| " + "a " * 15 + "|"], True),
        (["| " + "a " * 16 + "|"], False),
        (["| " + "a" * 130 + " |"], True),
        (["| " + "a" * 131 + " |"], False),
        (["| a \\| b |" + " a |" * 6], True),
    ],
)
def test_what_fits_on_a_page(rows, fit):
    assert report.fits("\n".join([*rows, "", "*" + "caption " * 50 + "*"])) == fit


@pytest.fixture
def part(demo, short, monkeypatch, tmp_path):
    """What the report says of a notebook with a result, a narrow table, a wide one and a figure; it is made anew."""
    saves = {"extra": ["values"], "costs": ["table"], "wide": ["table"], "scores": ["figure"]}
    cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# More\n"]}]
    content = {"nbformat": 4, "metadata": {"bsm": {"needs": "songs", "saves": saves}}, "cells": cells}
    path = tmp_path / "12_more.ipynb"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(report, "study_notebooks", lambda: [Notebook(path)])
    shutil.copy(demo.result("training"), demo.result("extra"))
    (tmp_path / "tables/costs.md").write_text("| costs |\n")
    (tmp_path / "tables/wide.md").write_text("|" + " wide |" * 20 + "\n")
    return lambda: write_report(demo).read_text().split("## Results")[1].split("\n## Claims")[0]


def test_a_notebook_adds_its_part(demo, part):
    shown = part()
    assert "### More\n" in shown and "| costs |\n" in shown and "![scores](figures/scores.png)" in shown
    assert "Wider tables: `tables/wide.md`." in shown and "| wide |" not in shown and "Not made yet" not in shown
    demo.figure("scores").unlink()
    assert "Not made yet: scores." in part()
    demo.result("extra").unlink()
    assert "### More\n" not in part()


def test_longer_passes_in_another_folder_stand_beside(part, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "LONGER", Profile({"profile": "longer", "out": tmp_path / "longer"}))
    assert "#### Longer passes" not in part()
    for name in ("figures", "results"):
        shutil.copytree(tmp_path / name, tmp_path / "longer" / name)
    shown = part().split("#### Longer passes")[1]
    assert "![scores](longer/figures/scores.png)" in shown and "Not made yet: costs, wide." in shown


def test_every_result_and_table_of_the_report_is_one_that_a_notebook_saves():
    saved = {nb.name: nb for nb in notebook.study_notebooks()}
    for name, owns in report.FRAMES.items():
        for own in owns:
            assert own.result in saved[name].saved("values")
            assert set(own.instead) <= set(saved[name].saved("table"))
