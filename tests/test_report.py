"""The report shows what the result files say, and nothing else."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from bsm.errors import InputError
from bsm.study import cost, ledger, report, report_results
from bsm.study.cost import cost_table
from bsm.study.profiles import Profile
from bsm.study.records import ROOT
from bsm.study.report import write_report


@pytest.fixture
def demo(tmp_path):
    """The demo profile with a copy of its reports."""
    for name in ("benchmarks", "figures", "results", "tables"):
        shutil.copytree(ROOT / "reports/demo" / name, tmp_path / name)
    return Profile.of("demo", out=str(tmp_path))


def test_report_has_the_fixed_sections_and_every_claim(demo):
    text = write_report(demo).read_text(encoding="utf-8")
    assert re.findall("^## (.+)$", text, re.MULTILINE) == [
        "Scope and claims",
        "Method, and what could not be known",
        "Data",
        "Compute",
        "Results per claim",
        "What agreed, what did not, what was easy, what was difficult",
        "Limits",
    ]
    assert not re.search(r"\bnan\b|\bNone\b(?!\.)", text)
    for row in ledger.load():
        assert f"`{row['id']}`" in text
    for link in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (demo.reports / link).is_file()


def test_report_follows_its_results(demo):
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


def test_every_result_stands_by_its_revision(demo):
    names = sorted(path.stem for path in demo.reports.glob("results/*.json"))
    for name in names:
        record = json.loads(demo.result(name).read_text())
        record["provenance"]["git"] = {"revision": "abc", "dirty": name in ("ablation_size", "repeat")}
        demo.result(name).write_text(json.dumps(record))
    text = write_report(demo).read_text()
    assert "- `abc` with uncommitted changes: ablation_size, repeat\n" in text
    clean = ", ".join(name for name in names if name not in ("ablation_size", "repeat"))
    assert f"- `abc`: {clean}\n" in text
    # Those of other folders that are shown: longer passes, and real recordings beside the synthesised songs.
    scope = text.split("## Method")[0]
    assert "speed/model_speed" in scope and "mir1k-subset/input_length" in scope
    assert "mir1k-subset/training" not in scope  # which is not


def test_what_was_not_measured_is_no_zero(demo):
    shutil.rmtree(demo.reports / "benchmarks")
    text = write_report(demo).read_text()
    assert "not measured by the workflow" in text and "hours" not in text.split("## Compute")[1].split("##")[0]
    assert re.search(r"^\| in all( \| –)+ \|$", (demo.reports / "tables/cost.md").read_text(), re.MULTILINE)


def test_added_up_hours_are_not_called_the_time_that_passed(demo):
    for path in demo.reports.glob("benchmarks/*.tsv"):
        header, values = (line.split("\t") for line in path.read_text().splitlines())
        changed = dict(zip(header, values, strict=True)) | {"s": "0", "cpu_time": "0"}
        if path.stem.startswith("model-bsmamba2-seed"):
            changed |= {"s": "3600", "cpu_time": "1800"}
        path.write_text("\t".join(header) + "\n" + "\t".join(changed.values()) + "\n")
    seeds = len(cost.seeds_of(demo))
    text = write_report(demo).read_text().split("## Compute")[1]
    assert f"took {seeds:.2f} hours added up, which is not the time that passed" in text
    assert f"Processor time: {seeds / 2:.2f} hours, as Snakemake samples it" in text


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
    assert command.format(" SEEDS=3") in text and "(networks of seed 0, 1, 2);" in text
    assert "| train bsmamba2 | 3 |" in text and "| train variants | 6 |" in text
    retrained(demo, [0], ["base"])
    shutil.copy(demo.reports / "benchmarks/songs.tsv", demo.reports / "benchmarks/model.tsv")  # of an older workflow
    text = cost_table(demo)
    assert command.format("") in text and "(networks of seed 0);" in text
    assert "| train bsmamba2 | 1 |" in text and "| train bs-roformer | 1 |" in text and "| train variants | 1 |" in text
    assert "| model |" not in text
    del demo.values["bench_seconds"]  # a measurement that the profile no longer asks for
    assert "published" not in cost_table(demo)


def test_every_measured_rule_has_a_name_in_the_table_of_costs():
    rules = re.findall(r'benchmark: f"\{REPORTS\}/benchmarks/([a-z_]+)\.tsv"', (ROOT / "Snakefile").read_text())
    names = cost._names(Profile.load("demo"))
    assert len(rules) > 5 and set(rules) <= set(names)


@pytest.mark.parametrize("module", [report, report_results], ids=lambda module: module.__name__)
def test_no_number_is_typed_into_the_report(module):
    """Prose has digits in names alone; formats and indices are outside the text."""
    names = re.compile(r"BSMamba2|arXiv 2508\.14556|MUSDB18-HQ|L1|95 %|float64")
    tree = ast.parse(Path(module.__file__).read_text())
    inside_formats = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec
        for part in ast.walk(node.format_spec)
    }
    texts = [
        part.value
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
        if isinstance(part, ast.Constant) and id(part) not in inside_formats
    ]
    assert sum(map(len, texts)) > 500
    for text in texts:
        assert not re.search(r"\d", names.sub("", text)), text


@pytest.fixture
def more(monkeypatch, tmp_path):
    """A notebook beside those that every profile runs."""
    code = 'settings.write_table("costs", text)\nwrite_result(settings.result("extra"))\nsettings.figure("scores")'
    cells = [{"cell_type": kind, "source": [text]} for kind, text in (("markdown", "# More\n"), ("code", code))]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/11_more.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(report_results, "NOTEBOOKS", tmp_path / "notebooks")


@pytest.mark.usefixtures("more")
def test_further_notebooks_add_their_part(demo, tmp_path):
    assert report_results.further(demo) == []  # no result of it in this profile
    demo.result("extra").write_text("{}")
    with pytest.raises(InputError, match="costs.md: missing"):
        report_results.further(demo)
    (tmp_path / "tables/costs.md").write_text("| costs |\n")
    (section,) = report_results.further(demo)
    assert section.startswith("### More\n") and "| costs |" in section and "(figures/scores.png)" in section


@pytest.mark.usefixtures("more")
def test_results_of_another_profile_stand_beside(demo, monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(tmp_path / "figures", other / "figures")
    values = {"profile": "other", "title": "Other", "data": "x", "out": other}
    monkeypatch.setattr(Profile, "load", lambda name: Profile(values))
    demo.values["beside"] = ["other"]
    demo.result("extra").write_text("{}")
    (tmp_path / "tables/costs.md").write_text("| costs |\n")
    (section,) = report_results.further(demo)
    assert "Beside it" not in section  # which has no result of it
    for folder in ("tables", "results"):
        (other / folder).mkdir()
    (other / "tables/costs.md").write_text("| other costs |\n")
    (other / "results/extra.json").write_text("{}")
    (section,) = report_results.further(demo)
    assert section.index("| costs |") < section.index("#### Beside it: Other") < section.index("| other costs |")
    assert "(other/figures/scores.png)" in section
