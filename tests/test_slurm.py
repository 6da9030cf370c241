"""The workflow on Snakemake's SLURM executor, against a stand-in for SLURM's commands: no cluster is needed.

The repository's graph and its profile for SLURM are run as docs/cluster.md says. The rules' commands only pretend.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from test_workflow_changes import Study

pytest.importorskip("snakemake_executor_plugin_slurm")
pytestmark = pytest.mark.slow

# Jobs run at once, on this machine. `jobs/N` holds a job's call, its state in SLURM's word, and its process.
SLURM = """#!{python} -S
import json, os, signal, subprocess, sys
from pathlib import Path

command, arguments = Path(sys.argv[0]).name, sys.argv[1:]
jobs = Path({folder!r}, "jobs")
with Path({folder!r}, "calls").open("a") as calls:
    calls.write(" ".join([command, *arguments]) + "\\n")


def after(*options):
    return next(arguments[arguments.index(o) + 1] for o in options if o in arguments)


if command == "sbatch":
    number = 1
    while (jobs / str(number)).exists():
        number += 1
    job = jobs / str(number)
    job.mkdir()
    (wrapped,) = (a.removeprefix("--wrap=") for a in arguments if a.startswith("--wrap="))
    (job / "call").write_text(json.dumps([a for a in arguments if not a.startswith("--wrap=")]))
    (job / "state").write_text("RUNNING")
    ends = f"then echo COMPLETED; else echo FAILED; fi > {{job}}/ended; mv {{job}}/ended {{job}}/state"
    with Path(after("--output").replace("%j", job.name)).open("w") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"if ( {{wrapped}} ) ; {{ends}}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            cwd=after("-D"), start_new_session=True, env=os.environ | {{"SLURM_JOB_ID": job.name}},
        )
    (job / "process").write_text(str(process.pid))
    print(job.name)
elif command == "srun":
    first = next(i for i, argument in enumerate(arguments) if not argument.startswith("-"))
    os.execvp(arguments[first], arguments[first:])
elif command == "scancel":
    for job in (jobs / number for number in arguments):
        os.killpg(int((job / "process").read_text()), signal.SIGKILL)
        (job / "state").write_text("CANCELLED")
elif command in ("sacct", "squeue") and "--name" in arguments:
    print(*(f"{{job.name}}|{{(job / 'state').read_text()}}" for job in jobs.iterdir()), sep="\\n")
elif command == "sacct" and "--format=Reason" not in arguments:
    print("none")  # the user's account
elif command == "sinfo":
    print("PARTITION\\nshort\\nbatch*")
elif command == "scontrol":
    print("MinJobAge = 300 sec\\nMaxArraySize = 1001")
"""
DATA_LOADING = "reports/smoke/results/data_loading.json"  # a rule that needs the songs


class Cluster:
    """A copy of the study in a folder with SLURM's commands on its PATH."""

    def __init__(self, folder):
        self.study, self.folder = Study(folder / "study"), folder
        (folder / "jobs").mkdir()
        (folder / "bin").mkdir()
        for name in ("sbatch", "srun", "squeue", "sacct", "scancel", "sinfo", "scontrol", "sacctmgr", "sshare"):
            (folder / "bin" / name).write_text(SLURM.format(python=sys.executable, folder=str(folder)))
            (folder / "bin" / name).chmod(0o755)
        (self.loading,) = (command for command in self.study.outputs if command.startswith("bsm bench data"))

    def start(self, *arguments, **environment):
        """Start the workflow up to that rule as docs/cluster.md does, but ask for states more often than real life."""
        path = f"{self.folder / 'bin'}{os.pathsep}{self.study.environment['PATH']}"
        given = ["--profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2", *arguments]
        return subprocess.Popen(
            self.study.command(DATA_LOADING, *given), cwd=self.study.folder, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.study.environment | {"PATH": path} | environment,
        )  # fmt: skip

    def jobs(self):
        """Each job's rule and state, in the order of submission."""
        found = sorted((self.folder / "jobs").iterdir(), key=lambda job: int(job.name))
        return [(self.option(job.name, "--comment"), (job / "state").read_text().strip()) for job in found]

    def option(self, job, name):
        call = json.loads((self.folder / "jobs" / job / "call").read_text())
        joined = [a.partition("=")[2] for a in call if a.startswith(f"{name}=")]
        return joined[0] if joined else call[call.index(name) + 1]

    def calls(self, command):
        return re.findall(f"^{command} .*", (self.folder / "calls").read_text(), re.MULTILINE)


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "study").mkdir()
    return Cluster(tmp_path)


@pytest.mark.parametrize("status", ["sacct", "squeue"])
def test_jobs_are_submitted_with_their_requests_and_followed_to_the_end(cluster, status):
    run = cluster.start("--slurm-status-command", status)
    said, _ = run.communicate(timeout=900)
    assert run.returncode == 0, said
    assert (cluster.study.folder / DATA_LOADING).read_text().startswith(cluster.loading)
    assert cluster.jobs() == [("rule_songs", "COMPLETED"), ("rule_data_loading", "COMPLETED")]
    asked = {name: cluster.option("2", name) for name in ("--mem", "-t", "--cpus-per-task", "-p", "-D")}
    # Memory and minutes of the rule, threads as many as the profile allows, and the cluster's own partition.
    assert asked == {
        "--mem": "8000",
        "-t": "60",
        "--cpus-per-task": "8",
        "-p": "batch",
        "-D": str(cluster.study.folder),
    }
    assert len(cluster.calls(f"{status} .*--name")) >= 2


def test_a_job_that_fails_is_tried_again_and_then_named_with_its_log(cluster):
    run = cluster.start("--retries", "1", FAIL=cluster.loading)
    said, _ = run.communicate(timeout=900)
    assert run.returncode != 0
    assert cluster.jobs() == [("rule_songs", "COMPLETED"), *[("rule_data_loading", "FAILED")] * 2]
    for job in ("2", "3"):
        log = cluster.option(job, "--output").replace("%j", job)
        assert f"SLURM-job '{job}' failed, SLURM status is: 'FAILED'" in said and log in said
        assert "Error in rule data_loading" in Path(log).read_text()
    assert not (cluster.study.folder / DATA_LOADING).exists()  # its half-made output is gone
    assert (cluster.study.folder / "data/smoke/complete").exists()


def test_ctrl_c_cancels_the_jobs(cluster):
    run = cluster.start(HANG="bsm data prepare smoke")
    made, deadline = cluster.study.folder / "data/smoke/complete", time.monotonic() + 600
    while not made.exists():  # its command hangs after that
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=300)
    assert run.returncode != 0, said
    assert cluster.calls("scancel") == ["scancel 1"]
    assert cluster.jobs() == [("rule_songs", "CANCELLED")]
    process = (cluster.folder / "jobs" / "1" / "process").read_text()
    state = subprocess.run(["ps", "-o", "state=", "-g", process], capture_output=True, text=True).stdout.split()
    assert set(state) <= {"Z"}
