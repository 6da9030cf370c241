"""The rules that run again after a change, a failure or a kill, and the requests to a cluster.

The workflow's commands are stand-ins that only write the promised files. Snakemake takes seconds to plan, so all but
one of these tests are slow; `.ci/run` runs them.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bsm.study.rehearse import copy_of_checkout

ROOT = Path(__file__).parents[1]
COPIED = ("bsm", "data_manifest", "notebooks", "tests", "workflow", "Snakefile")
# Writes the files that the plan promises for a command. FAIL and HANG name a command that writes only the first one.
STAND_IN = """#!{python} -S
import json, os, sys, time
from pathlib import Path
command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
outputs = json.loads(Path({plan!r}).read_text())[command]
fails, hangs = command == os.environ.get("FAIL"), command == os.environ.get("HANG")
for path in outputs[:1] if fails or hangs else outputs:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(command + str(time.time()))
time.sleep(60 * hangs)
sys.exit(fails)
"""


class Study:
    """A copy of the study whose commands only pretend."""

    def __init__(self, folder: Path) -> None:
        self.folder = copy_of_checkout(folder, *COPIED)
        (folder / "reports").mkdir()
        stand_ins = folder / "stand-ins"
        stand_ins.mkdir()
        path = f"{stand_ins}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "XDG_CACHE_HOME": str(folder / ".cache")}
        text = self.snakemake("-n", "-p", "--forceall").stdout
        self.outputs = {
            " ".join(shlex.split(found[2])): found[1].split(", ")
            for found in re.finditer(r"^    output: (.+)$(?:\n .+)*\nShell command: (.+)$", text, re.MULTILINE)
        }
        plan = folder / "plan.json"
        plan.write_text(json.dumps(self.outputs))
        for name in {command.split()[0] for command in self.outputs}:
            (stand_ins / name).write_text(STAND_IN.format(python=sys.executable, plan=str(plan)))
            (stand_ins / name).chmod(0o755)

    def study_command(self, notebook: str) -> str:
        """The planned command that executes a notebook."""
        (command,) = (command for command in self.outputs if command.startswith(f"bsm study {notebook} "))
        return command

    def command(self, *arguments: str) -> list[str]:
        given = [] if "--profile" in arguments else ["--cores", "4"]
        return [sys.executable, "-m", "snakemake", *given, *arguments, "--config", "profile=smoke"]

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=self.environment | environment,
        )

    def planned(self, *arguments: str) -> set[str]:
        """Names of the rules that would run."""
        done = self.snakemake("-n", *arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        table = re.search(r"^job +count\n[- ]+\n(.+?)^total", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
        return set(re.findall(r"^(\w+) +\d+$", table[1], re.MULTILINE)) - {"all"} if table else set()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    made = Study(tmp_path_factory.mktemp("study"))
    done = made.snakemake()
    assert done.returncode == 0, done.stderr
    assert made.planned() == set()  # a second run does nothing
    return made


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Change a file of the study for a while; it is then newer than everything made from it."""
    before, stat = path.read_text(), path.stat()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, (stat.st_atime, stat.st_mtime))


NO_MODEL = {"notebook_01_data", "data_loading", "structure"}
SCORED = {
    "notebook_04_train",
    "notebook_05_input_length",
    "notebook_06_vocal_occurrence",
    "notebook_08_ablation_stft",
    "notebook_09_ablation_size",
    "notebook_10_published_model",
}
TRAINED = {"model", "variant"}
REPORT = "notebook_11_report"
OTHERS = {
    "notebook_00_model",
    "notebook_01_data",
    "notebook_02_scan_backends",
    "notebook_03_training_step",
    "notebook_07_cue_and_gap",
}
ALL = SCORED | OTHERS | {REPORT}  # what a new version of the package's results makes anew


SMOKE = "notebooks/profiles/smoke.yaml"
MADE = {"songs", "data_loading"}  # by the generator of songs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "old", "new", "reruns", "stays"),
    [
        # A parameter of a notebook, of two, of the training, of none; a version; a module; a notebook; a rule's text.
        (SMOKE, "scan_repeats: 1", "scan_repeats: 2", {"notebook_02_scan_backends", REPORT}, None),
        (
            SMOKE,
            "song_seconds",
            "threshold_db: -30.0\nsong_seconds",
            {"notebook_01_data", "notebook_06_vocal_occurrence", REPORT},
            None,
        ),
        (
            SMOKE,
            "\nsteps: 6",
            "\nsteps: 7",
            TRAINED | SCORED | {"notebook_02_scan_backends", REPORT},
            {"songs", "notebook_03_training_step"} | NO_MODEL,
        ),
        (SMOKE, "\nsteps: 6", "\nworkers: 1\nsteps: 6", set(), None),
        # What a profile does not name, and what follows from it, counts as well.
        ("bsm/config.py", "clip: float = 3.0", "clip: float = 2.0", TRAINED | SCORED | {REPORT}, {"songs"} | NO_MODEL),
        ("bsm/versions.py", "SCORING = 1", "SCORING = 2", ALL, None),
        ("bsm/versions.py", "RECIPE = 1", "RECIPE = 2", TRAINED | ALL | {"structure"}, None),
        (
            "bsm/versions.py",
            "GENERATOR_VERSION = 3",
            "GENERATOR_VERSION = 4",
            MADE | TRAINED | ALL - {"notebook_00_model", "notebook_07_cue_and_gap"},
            None,
        ),
        ("bsm/metrics.py", '"""', '"""Changed. ', set(), None),
        (
            "bsm/study/ablation.py",
            '"""',
            '"""Changed. ',
            {"notebook_08_ablation_stft", "notebook_09_ablation_size", REPORT},
            None,
        ),
        ("bsm/study/claims/exact.py", '"""Claims that', '"""All claims that', {REPORT}, None),
        (
            "notebooks/05_input_length.ipynb",
            "# How long",
            "# For how long",
            {"notebook_05_input_length", REPORT},
            None,
        ),
        ("Snakefile", "bsm.study.structure {output}", "bsm.study.structure  {output}", {"structure", REPORT}, None),
    ],
)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(study, path, old, new, reruns, stays):
    with edited(study.folder / path, old, new):
        planned = study.planned()
    if stays is None:
        assert planned == reruns
    else:
        assert reruns <= planned
        assert not planned & stays


@pytest.mark.slow
def test_what_is_measured_by_hand_is_in_the_report_once_it_is_there(study):
    for path in ("reports/smoke/results/repeat.json", "reports/speed/tables/model_speed.md"):
        made = study.folder / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text("")
        try:
            assert study.planned() == {REPORT}
        finally:
            made.unlink()
    assert study.planned() == set()


@pytest.mark.slow
def test_a_failed_rule_leaves_nothing_half_made_and_the_rest_goes_on(study):
    folder = study.folder
    lengths = study.study_command("05_input_length")
    made = [folder / path for path in study.outputs[lengths]]
    other = folder / study.outputs[study.study_command("06_vocal_occurrence")][0]
    report, before = folder / "reports/smoke/report.md", other.read_text()
    written = report.read_text()
    with (
        edited(folder / "notebooks/05_input_length.ipynb", "# How long", "# For how long"),
        edited(folder / "notebooks/06_vocal_occurrence.ipynb", "# Vocals", "# Voices"),
    ):
        failed = study.snakemake("--keep-going", FAIL=lengths)
        assert failed.returncode != 0
        assert not any(path.exists() for path in made)
        assert other.read_text() != before
        assert report.read_text() == written
        assert study.planned() == {"notebook_05_input_length", REPORT}
        assert study.snakemake("--keep-going").returncode == 0
        assert all(path.exists() for path in made)


@pytest.mark.slow
def test_a_killed_run_is_recovered_by_what_make_resume_does(study):
    lengths = study.study_command("05_input_length")
    made = [study.folder / path for path in study.outputs[lengths]]
    recipe = subprocess.run(["make", "-n", "resume", "PROFILE=smoke"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"snakemake .*--unlock.*\n(.*\n)*.*snakemake .*--rerun-incomplete", recipe)
    with edited(study.folder / "notebooks/05_input_length.ipynb", "# How long", "# How very long"):
        run = subprocess.Popen(
            study.command(), cwd=study.folder, env=study.environment | {"HANG": lengths}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (made[0].exists() and made[0].read_text().startswith(lengths) and not made[1].exists()):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        locked = study.snakemake("--rerun-incomplete")
        assert locked.returncode != 0
        assert "locked" in locked.stderr + locked.stdout
        assert study.snakemake("--unlock").returncode == 0
        assert study.planned("--rerun-incomplete") == {"notebook_05_input_length", REPORT}
        assert study.snakemake("--rerun-incomplete").returncode == 0
        assert all(path.exists() for path in made)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "kubernetes"])
def test_cluster_profiles(study, cluster):
    """The whole graph can be planned for a cluster, and every job has its request."""
    plugin = {"slurm": "slurm", "kubernetes": "cluster_generic"}[cluster]
    pytest.importorskip(f"snakemake_executor_plugin_{plugin}")
    done = study.snakemake("-n", "--forceall", "--profile", f"workflow/profiles/{cluster}")
    assert done.returncode == 0, done.stderr
    asked = dict(re.findall(r"^rule (\w+):\n(?:.*\n)*?    resources: (.+)$", done.stdout, re.MULTILINE))
    assert {"songs", "notebook_02_scan_backends", REPORT} | TRAINED | SCORED <= set(asked)
    for resources in (resources for rule, resources in asked.items() if rule != "all"):
        assert re.search(r"\bmem_mb=\d{4,}\b.*", resources)
        assert re.search(r"\bruntime=\d+\b", resources)
        assert re.search(r"\bgpu=\d\b", resources)
    alone = set(re.findall(r"^rule (\w+):\n(?:    .*\n)*    threads: 8$", done.stdout, re.MULTILINE))
    assert {"notebook_04_train", "notebook_08_ablation_stft"} <= alone, "a notebook that measures time shares the cores"
    assert not {"notebook_05_input_length", "notebook_06_vocal_occurrence"} & alone


def test_kubernetes_job_and_its_status(tmp_path):
    """A job requests the rule's resources, and its conditions become Snakemake's words."""
    script = ROOT / "workflow/profiles/kubernetes/job.py"
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\n[ "$1" = create ] && { cat > job.json; printf bsm-model-x1; } || printf "$STATE"\n')
    kubectl.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment | more)

    asked = ["--rule", "notebook_04_train", "--threads", "8", "--mem-mb", "32000", "--minutes", "90", "--gpus", "1"]
    refused = call("submit", *asked, "run.sh")
    assert refused.returncode == 1
    assert "BSM_IMAGE and BSM_CLAIM" in refused.stderr
    done = call("submit", *asked, "run.sh", BSM_IMAGE="image", BSM_CLAIM="claim")
    assert (done.returncode, done.stdout) == (0, "bsm-model-x1")
    job = json.loads((tmp_path / "job.json").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    wanted = {"cpu": "8", "memory": "32000M", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"requests": wanted, "limits": wanted}
    assert container["command"] == ["/bin/bash", "run.sh"]
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == str(tmp_path)
    assert job["spec"]["activeDeadlineSeconds"] == 5400
    assert re.fullmatch(r"[a-z0-9-]+", job["metadata"]["generateName"])  # Kubernetes takes no underscores
    for state, said in {"": "running", "Complete": "success", "Failed": "failed"}.items():
        assert call("status", "bsm-model-x1", STATE=state).stdout.strip() == said
