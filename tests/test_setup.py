"""The set-up files agree with each other, and what git holds is clean."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import bsm
from bsm.study.rehearse import copy_of_checkout

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tracked() -> list[Path]:
    """The files in git, and those that would go in with the next commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_conda_environment_equals_pyproject():
    wanted = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in wanted if isinstance(entry, dict))
    assert pip == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["study"]
    assert "ffmpeg" in wanted


def test_a_wheel_holds_what_the_commands_read(tmp_path):
    """Built without this checkout's environment: manifests inside, no tests, no reports."""
    names = ("bsm", "data_manifest", "pyproject.toml", "README.md", "LICENSE")
    source = copy_of_checkout(tmp_path / "source", *names)  # so that nothing of an earlier build gets in
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("bsm-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    manifests = {f"bsm/manifests/{path.name}" for path in (ROOT / "data_manifest").glob("*.yaml")}
    assert manifests and manifests <= set(names) and "bsm/study/report.md.j2" in names
    assert "bsm/weights/demo.safetensors" in names
    assert {name.partition("/")[0] for name in names} == {"bsm", f"bsm-{bsm.__version__}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bsm").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_torch_of_the_makefile_lies_in_the_range():
    version = re.search(r"^TORCH \?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    required = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "torch")
    assert required.specifier.contains(Version(version))


def test_make_lists_its_targets_and_refuses_an_unknown_profile():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in listed for target in ("env", "reproduce", "test", "lab", "clean"))
    refused = subprocess.run(["make", "reproduce", "PROFILE=nope"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "there is no profile 'nope'" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2  # ours, and make's own


def test_the_container_makes_the_same_environment_and_runs_the_study():
    text = (ROOT / "Dockerfile").read_text()
    wanted = re.search(r"apt-get install -y (.+)", (ROOT / "docs" / "install.md").read_text())[1].split()
    assert set(wanted) <= set(re.search(r"--no-install-recommends (.+)", text)[1].split())
    assert "RUN make env" in text and text.endswith('CMD ["make", "reproduce"]\n')
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not {"bsm", "notebooks", "data_manifest", "reports", "pyproject.toml"} & set(ignored)


def test_no_registry_and_no_machine_path_in_git():
    hosts = "|".join(re.escape(x) for x in ("pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org"))
    places = re.compile(rf"{hosts}|conda\.ana{''}conda|(?<![\w.~])/work" + r"/\w|(?<![\w.~])/root" + r"/\w")
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in places.finditer(text)]
    assert not found


@pytest.mark.parametrize("user", ["0", "1000"])
def test_the_lab_starts_as_root_and_passes_options_on(tmp_path, user):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["make", "-n", "lab", "ARGS=--no-browser --port 9999"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    assert ("--allow-root" in shown) == (user == "0")
    assert "--no-browser --port 9999" in shown


def test_the_version_is_the_same_everywhere():
    released = re.findall(r"^## (?:Unreleased: )?([\d.]+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert PROJECT["version"] == bsm.__version__ == cited == released


def test_one_reproduce_at_a_time_and_none_is_locked_out_by_a_killed_one(tmp_path):
    """The recipe runs in a folder of its own, with a stand-in for Snakemake."""
    printed = subprocess.run(
        ["make", "-n", "reproduce", "PROFILE=smoke"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    (recipe,) = (line for line in printed.splitlines() if "--rerun-incomplete" in line)
    snakemake = tmp_path / ".venv/bin/snakemake"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text("#!/bin/sh\nls .snakemake/locks 2> /dev/null > seen\ntouch started\nexec sleep ${LASTS:-0}\n")
    snakemake.chmod(0o755)

    def start(**environment):
        (tmp_path / "started").unlink(missing_ok=True)
        return subprocess.Popen(["sh", "-c", recipe], cwd=tmp_path, env=os.environ | environment, text=True,
                                stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip

    first = start(LASTS="60")
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / ".snakemake/locks").mkdir()
    (tmp_path / ".snakemake/locks/0.output.lock").touch()
    second = start()
    assert "another make reproduce works in this folder" in second.communicate()[1] and second.returncode == 2
    assert (tmp_path / ".snakemake/locks").exists()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = start()
    third.communicate()
    assert third.returncode == 0 and (tmp_path / "seen").read_text() == ""
