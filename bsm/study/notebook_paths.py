"""Decide where notebooks read and write: paths in their parameters, folders of results, executed copies."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bsm.errors import InputError
from bsm.study.records import ROOT
from bsm.weights import registry as weights

OTHERS = ("05_input_length", "06_vocal_occurrence")
"""Notebooks that keep results about other models or songs apart from the profile's reports."""
PATHS = ("out", "run", "dataset", "weights")
"""Parameters whose values are paths, or mappings of names to paths."""

log = logging.getLogger(__name__)


def results_folder(notebook: str, out: str, chosen: Any, dataset: str) -> str:
    """Return the folder of a notebook's results; an empty text stands for the profile's reports.

    The reports are about the profile's own models and songs. Results about others go to ``runs/<notebook>``.

    Args:
        notebook: its name.
        out: the notebook's parameter, like the next two; a folder given here is returned.
        chosen: ``weights``, None for the profile's own.
        dataset: folder of songs, empty for the profile's own.
    """
    if out or (chosen is None and not dataset):
        return out
    folder = ROOT / "runs" / notebook
    log.warning("not the profile's own models and songs: results go to %s, or to `out`", folder.relative_to(ROOT))
    return str(folder)


def executed_copy(notebook: str, profile: str, values: Mapping[str, Any]) -> Path:
    """Return the default path of an executed notebook, in the folder of its results.

    Args:
        notebook: its name, or its path.
        profile: see :func:`bsm.study.notebooks.load_profile`.
        values: explicit parameters.
    """
    name, out = Path(notebook).stem, str(values.get("out") or "")
    if name in OTHERS:
        out = results_folder(name, out, values.get("weights"), values.get("dataset") or "")
    return Path(out or ROOT / "reports" / Path(profile).stem) / "notebooks" / f"{name}.ipynb"


def read_parameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse parameters written in YAML; make paths absolute, since the kernel runs in another folder.

    Raises:
        InputError: A value is not YAML.
    """
    try:
        values = {name: yaml.safe_load(text) for name, text in texts.items()}
    except yaml.YAMLError as error:
        raise InputError(f"a parameter's value is not YAML: {error}") from error
    return {name: _absolute(name, value) if name in PATHS else value for name, value in values.items()}


def _absolute(parameter: str, value: Any) -> Any:
    """Return a path, or each path of a mapping, as an absolute one; names of weights and other values unchanged."""
    if isinstance(value, dict):
        return {name: _absolute(parameter, path) for name, path in value.items()}
    if not value or not isinstance(value, str) or (parameter == "weights" and value in weights.entries()):
        return value
    return str(Path(value).absolute())
