"""A campaign: many trainings in order of priority, several at a time, by the code of one revision.

A YAML file says what to train::

    revision: probe-1              # a git tag or commit; the code that trains
    experiments:
      - name: cue-gap-0.5          # the first part of its results' names
        kind: cue-gap              # or songs, regions, singers
        arms: [mamba2, attention]
        seeds: [2, 3]
        settings: {longest_gap: 0.5, steps: 2000}
        tuning: {seed: 100, rates: [0.002, 0.004]}
      - name: songs-1s-regions     # measures the networks of songs-1s, each as soon as its weights are there
        kind: regions
        of: songs-1s
        arms: [mamba2, attention]
        seeds: [0]
      - name: singers-1s           # cross-validates over the singers of MIR-1K's clips in data/mir1k
        kind: singers
        data: mir1k
        arms: [mamba2, none]
        seeds: [0]
        tuning: {as: songs-1s}
      - name: singers-joined       # measures the networks of singers-1s in long windows, each once its result is there
        kind: joined
        data: mir1k
        of: singers-1s
        arms: [mamba2, none]
        seeds: [0]

An *arm* is what is trained: a network with one kind of time block. Results lie in ``results/`` next to that file. A run
is done when its result is there, so a campaign goes on after any interruption. An arm's learning rate is tuned first:
the given rates, then half and double the best one, until both are worse than it. ``tuning`` may have ``settings`` of
its own, such as fewer ``steps``. ``tuning: {as: NAME}`` takes the rates that another experiment has found, and with
``arm: NAME`` the rate of one of its arms.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bsm.errors import InputError
from bsm.files import alone
from bsm.study.records import ROOT, place_of, read_result

log = logging.getLogger(__name__)

POLL = 1.0  # s between looks at the running trainings


@dataclass(frozen=True)
class Run:
    """One training of a campaign.

    Attributes:
        name: of its result file, without suffix.
        arm: what is trained.
        kind: which ``experiment`` of :mod:`bsm.study.long`: ``cue-gap`` (of its module ``probe``), ``songs``,
            ``regions`` or ``singers``; or ``joined``, which is in ``singers``, too.
        settings: arguments of the experiment; None while its learning rate or the weights that it measures are missing.
    """

    name: str
    arm: str
    kind: str
    settings: dict[str, Any] | None


class Campaign:
    """The runs that a campaign's file asks for, and which of them are done.

    Args:
        path: the YAML file.

    Raises:
        InputError: The file cannot be read, or a field is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.results = path, path.parent / "results"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            self.revision: str = content["revision"]
            self.experiments: list[dict[str, Any]] = content["experiments"]
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such campaign file") from None
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a campaign ({error}); it needs 'revision' and 'experiments'") from None

    def result(self, name: str) -> Path:
        """Return the path of a run's result."""
        return self.results / f"{name}.json"

    def runs(self) -> list[Run]:
        """List all runs that are known so far, in order of priority: an experiment's tuning, then its seeds.

        All arms are trained under one seed before the next seed begins, so a campaign that ends early has all arms.
        """
        found = []
        for experiment in self.experiments:
            tuning = {arm: self._tuning(experiment, arm) for arm in experiment["arms"]}
            found += [run for runs, _ in tuning.values() for run in runs]
            for seed in experiment["seeds"]:
                for arm, (_, rate) in tuning.items():
                    settings = {"arm": arm, "seed": seed, **self._settings(experiment)}
                    ready = True
                    if "tuning" in experiment:
                        settings["lr"], ready = rate, rate is not None
                    if "of" in experiment:  # measures what another experiment trains
                        trained = f"{experiment['of']}-{arm}-seed{seed}"
                        if experiment["kind"] == "joined":  # weights of each fold, which lie beside the checkout
                            settings["trainings"], ready = trained, self.result(trained).is_file()
                        else:
                            weights = self.results / f"{trained}.safetensors"
                            settings["weights"], ready = str(weights.resolve()), weights.is_file()
                    name = f"{experiment['name']}-{arm}-seed{seed}"
                    found.append(Run(name, arm, experiment["kind"], settings if ready else None))
        return found

    def todo(self) -> list[Run]:
        """List the runs that can begin: they have no result yet, and nothing that they need is missing."""
        ready = [run for run in self.runs() if run.settings is not None and not self.result(run.name).is_file()]
        return [run for run in ready if "data" not in run.settings or Path(run.settings["data"]).is_dir()]

    def lacking_data(self) -> list[Path]:
        """Return the folders of ``data`` that experiments name and that are not here."""
        named = sorted({ROOT / "data" / experiment["data"] for experiment in self.experiments if "data" in experiment})
        return [folder for folder in named if not folder.is_dir()]

    def _tuning(self, experiment: dict[str, Any], arm: str) -> tuple[list[Run], float | None]:
        """Return the trainings that choose an arm's learning rate, and the rate once it is known."""
        tuning = experiment.get("tuning")
        if tuning is None:  # nothing is trained
            return [], 0.0
        if tuning.get("seed") in experiment["seeds"]:
            raise InputError(
                f"{self.path}: seed {tuning['seed']} chooses learning rates, so it must not count as a result"
            )
        if "as" in tuning:
            other = next(e for e in self.experiments if e["name"] == tuning["as"])
            return [], self._tuning(other, tuning.get("arm", arm))[1]
        settings = {"arm": arm, "seed": tuning["seed"], "asked": False}
        settings |= self._settings(experiment) | tuning.get("settings", {})
        runs: list[Run] = []
        scores: dict[float, float | None] = {}
        rates = tuning["rates"]
        while True:
            for rate in rates:
                name = f"{experiment['name']}-{arm}-lr{rate:g}"
                runs.append(Run(name, arm, experiment["kind"], settings | {"lr": rate}))
                scores[rate] = self._validation(name)
            if None in scores.values():
                return runs, None
            best = max(scores, key=scores.get)
            rates = [rate for rate in (best / 2, best * 2) if rate not in scores]
            if not rates:
                return runs, best

    def _settings(self, experiment: dict[str, Any]) -> dict[str, Any]:
        """Return the settings that all runs of an experiment share, and where its ``data`` are."""
        settings = dict(experiment.get("settings", {}))
        if "data" in experiment:
            settings["data"] = str((ROOT / "data" / experiment["data"]).resolve())
        return settings

    def _validation(self, name: str) -> float | None:
        """Return a finished training's best validation SDR in its second half, dB; None if it is not finished."""
        if not self.result(name).is_file():
            return None
        history = read_result(self.result(name))["values"]["history"]
        return max(record["sdr"] for record in history[len(history) // 2 :])

    def status(self) -> pd.DataFrame:
        """Return one row per run: ``name``, ``kind``, ``arm``, ``done``, and ``minutes`` of processor time, or NaN."""
        rows = []
        for run in self.runs():
            path = self.result(run.name)
            minutes = read_result(path)["provenance"]["cpu_seconds"] / 60 if path.is_file() else float("nan")
            rows.append((run.name, run.kind, run.arm, path.is_file(), minutes))
        return pd.DataFrame(rows, columns=["name", "kind", "arm", "done", "minutes"])

    def minutes_left(self) -> float:
        """Estimate the processor time of the runs that are left, minutes, from finished runs of their kind and arm.

        NaN before any run is finished.
        """
        status = self.status()
        alike, of_kind = (status.groupby(by)["minutes"].transform("mean") for by in (["kind", "arm"], "kind"))
        return float(alike.fillna(of_kind).fillna(status["minutes"].mean())[~status["done"]].sum(skipna=False))

    def left(self) -> str:
        """Say how much is left."""
        minutes = self.minutes_left()
        return f"about {minutes:.0f} core-minutes are left" if minutes >= 0 else "the rest takes an unknown time"


def finished(folder: Path, experiment: str) -> dict[Path, dict[str, Any]]:
    """Read the results of an experiment's finished runs, one per arm and seed; trainings that tune are no runs."""
    found = {}
    for path in sorted(folder.glob(f"{experiment}-*-seed*.json")):
        record = read_result(path)
        if path.stem == f"{experiment}-{record['parameters'].get('arm')}-seed{record['seed']}":
            found[path] = record  # not another experiment's, whose name begins with this one's
    return found


def lacking(paths: Collection[Path], experiment: str, arms: Sequence[str]) -> list[str]:
    """Return the arms that have no run among the :func:`finished` runs of an experiment."""
    return [arm for arm in arms if not any(path.name.startswith(f"{experiment}-{arm}-seed") for path in paths)]


def of_run(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add to rows of a run's result its arm, as ``separator``, and its seed, unless a row names its own."""
    return [{"separator": record["parameters"]["arm"], "seed": record["seed"]} | row for row in rows]


def work(campaign: Campaign, checkout: Path, cores: int) -> list[str]:
    """Carry out the runs that are left, each in a process of its own with one thread.

    Args:
        campaign: what to do.
        checkout: folder of the code that trains (:func:`frozen_checkout`).
        cores: how many runs at a time.

    Returns:
        The names of the runs that failed. They are not tried again before the next call.

    Raises:
        InputError: Another process works on a campaign.
    """
    running: dict[str, subprocess.Popen] = {}
    failed: list[str] = []
    for folder in (checkout.parent, campaign.results):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(checkout.parent / "lock", f"{checkout.parent}: another campaign works here"):
        earlier = signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # ends the trainings, too
        try:
            while True:
                for name, process in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        if process.returncode or not campaign.result(name).is_file():
                            failed.append(name)
                            log.error("%s failed; see %s", name, _log_file(checkout, name))
                        else:
                            log.info("%s is done; %s", name, campaign.left())
                if len(running) < cores:  # only then, because listing the runs reads all results
                    ready = [run for run in campaign.todo() if run.name not in running and run.name not in failed]
                    for run in ready[: cores - len(running)]:
                        log.info("%s begins", run.name)
                        running[run.name] = _start(campaign, checkout, run)
                if not running:
                    return failed
                time.sleep(POLL)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
            signal.signal(signal.SIGTERM, earlier)


def _log_file(checkout: Path, name: str) -> Path:
    return checkout.parent / "logs" / f"{name}.log"


def _start(campaign: Campaign, checkout: Path, run: Run) -> subprocess.Popen:
    path = _log_file(checkout, run.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = (str(campaign.result(run.name).resolve()), run.kind, str(checkout.parent), run.settings)
    command = ["bsm", "campaign", place_of(campaign.path)]  # that a result names
    call = f"import sys; sys.argv = {command!r}; from bsm.study.campaign import train; train(*{arguments!r})"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    with path.open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-c", call], cwd=checkout, env=environment, stdout=output, stderr=output
        )


def train(result: str, kind: str, folder: str, settings: dict[str, Any]) -> None:
    """Carry out one run in this process, with one thread, and write its result.

    ``kind`` and ``settings`` are those of :class:`Run`. Songs and checkpoints lie in ``folder``.
    """
    import torch

    from bsm.memory import keep_freed_memory
    from bsm.study.long import probe, regions, singers, songs

    torch.set_num_threads(1)
    keep_freed_memory()
    if kind == "cue-gap":
        probe.experiment(Path(result), **settings)
    else:
        experiments = {
            "songs": songs.experiment,
            "regions": regions.experiment,
            "singers": singers.experiment,
            "joined": singers.joined,
        }
        experiments[kind](Path(result), folder=Path(folder), **settings)


def frozen_checkout(revision: str) -> Path:
    """Return a checkout of a revision in a folder of its own, so that changes of the code do not disturb a campaign.

    Raises:
        InputError: git does not know the revision.
    """
    checkout = ROOT / "runs" / "campaign" / revision
    if not checkout.is_dir():
        command = ["git", "-C", str(ROOT), "worktree", "add", "--force", "--detach", str(checkout), revision]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"no checkout of revision {revision!r}: {done.stderr.strip()}")
    return checkout
