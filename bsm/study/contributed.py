"""Results of others: a named system on a named data set, track by track, checked before any claim rests on them.

A file in ``reports/contributed`` has the fields of every result (:mod:`bsm.study.records`), with a record per track in
``values``, and two more. ``summary`` has mean, median and number ``n`` of the tracks' values of each metric.
``contribution`` says what was measured, with what and by whom (:data:`ABOUT`), and defines each metric (``metrics``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bsm.errors import InputError
from bsm.files import write_text
from bsm.study.records import read_result
from bsm.versions import SCORING
from bsm.weights import registry as weights

FOLDER = "contributed"
ABOUT = ("contributor", "date", "system", "weights_sha256", "software", "version")
"""Texts of ``contribution``: the date as YYYY-MM-DD, the checksum of the weights in hexadecimal digits."""
DEFINITIONS = {
    "usdr": "10 log10((sum s^2 + 1e-7) / (sum (s - e)^2 + 1e-7)) over all samples and channels of a track",
    "csdr": "museval, BSS Eval v4: windows and hop of 1 s, median over the windows with a value",
    "si_sdr": "scale-invariant SDR over all samples and channels of a track, with one scale",
    "bleedless": "that of Music-Source-Separation-Training, with its default settings",
    "fullness": "that of Music-Source-Separation-Training, with its default settings",
}
"""This package's metrics in words, for ``contribution.metrics``. Claims count no score that is defined otherwise."""
CHECKSUM = re.compile("[0-9a-f]{64}")
ROUNDED = 0.005  # dB by which a stated mean or median may differ: two decimals


def read_contributed(path: Path) -> dict[str, Any]:
    """Read a contributed result and check it.

    Raises:
        InputError: a field is missing or of the wrong kind, or a stated summary is not that of the values.
    """
    record = read_result(path)
    _check(path, record)
    return record


def _check(path: Path, record: Mapping[str, Any]) -> None:
    """Check the fields that a contributed result has in addition to those of every result."""

    def need(fine: bool, fault: str) -> None:
        if not fine:
            raise InputError(f"{path}: {fault}; correct the file, or leave it out")

    about, summary, values = record.get("contribution"), record.get("summary"), record["values"]
    need(
        isinstance(about, dict), "no field 'contribution'; `bsm claims contribute` adds it to a file of `bsm evaluate`"
    )
    for name in ABOUT:
        need(isinstance(about.get(name), str) and about[name].strip() != "", f"contribution.{name} must be a text")
    need(_is_date(about["date"]), f"contribution.date is {about['date']!r}, not a date YYYY-MM-DD")
    checksum = about["weights_sha256"]
    need(CHECKSUM.fullmatch(checksum) is not None, f"contribution.weights_sha256 is {checksum!r}, not 64 hex digits")
    metrics = about.get("metrics")
    defined = isinstance(metrics, dict) and metrics and all(isinstance(d, str) and d for d in metrics.values())
    need(defined, "contribution.metrics must define each metric in words")
    listed = isinstance(values, list) and values and all(isinstance(v, dict) and v.get("track") for v in values)
    need(listed, "values must be a list with a record for each track, with its name as 'track'")
    once = len({v["track"] for v in values}) == len(values)
    need(once, "values has a track twice; give one system's scores, once for each track")
    need(
        isinstance(summary, dict) and summary.keys() == metrics.keys(),
        f"summary must have the metrics {', '.join(metrics)}",
    )
    for name, stated in summary.items():
        scores = [v.get(name, "none") for v in values]
        known = [v for v in scores if v is not None]
        other = [v for v in known if isinstance(v, bool) or not isinstance(v, int | float)]
        need(not other, f"{name} is {other[:1]} for a track; give a number, or null where it is not defined")
        need(bool(known), f"{name} has a value for no track")
        found = {"n": len(known), "mean": float(np.mean(known)), "median": float(np.median(known))}
        for statistic, value in found.items():
            given = stated.get(statistic) if isinstance(stated, dict) else None
            near = isinstance(given, int | float) and abs(given - value) <= ROUNDED * (statistic != "n") + 1e-9
            need(near, f"summary.{name}.{statistic} is {given!r}, but the tracks give {value:.6g}")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def of_weights(name: str, reports: Path) -> dict[Path, dict[str, Any]]:
    """Read and check all contributed results; return those of named weights, by their files.

    Raises:
        InputError: one of the results is not valid, or no weights have that name.
    """
    found, wanted = {path: read_contributed(path) for path in _files(reports)}, weights.entry(name).sha256
    return {path: record for path, record in found.items() if record["contribution"]["weights_sha256"] == wanted}


def check(reports: Path) -> list[str]:
    """Check all contributed results; return a sentence for each that is not valid."""
    found = []
    for path in _files(reports):
        try:
            read_contributed(path)
        except InputError as error:
            found.append(str(error))
    return found


def _files(reports: Path) -> list[Path]:
    return sorted((reports / FOLDER).glob("*.json"))


def contribute(result: Path, reports: Path, *, contributor: str, system: str) -> Path:
    """Write a result of ``bsm evaluate`` as a contributed one, and return its path.

    ``contributor`` is a person or group. ``system`` says what was measured, such as the network and its weights.

    Raises:
        InputError: it is no such file, is of another version of the scores, or was contributed already.
    """
    record = read_result(result)
    measured, path = record["parameters"], reports / FOLDER / result.name
    if "summary" not in record or not {"bsm", "weights_sha256"} <= measured.keys():
        raise InputError(f"{result}: not a result of `bsm evaluate`; write the fields yourself, as docs/extend.md says")
    if measured.get("scoring") != SCORING:
        raise InputError(f"{result}: scored by version {measured.get('scoring')}, not {SCORING}; evaluate it again")
    if path.exists():
        raise InputError(f"{path}: is there already; give the result another name")
    about = dict(zip(ABOUT, (contributor, record["provenance"]["started"][:10], system), strict=False))
    about |= {"weights_sha256": measured["weights_sha256"], "software": "bsm", "version": measured["bsm"]}
    record["contribution"] = about | {"metrics": {name: DEFINITIONS[name] for name in record["summary"]}}
    _check(result, record)
    return write_text(path, json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
