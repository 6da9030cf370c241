"""A notebook's description of itself: its title, its parameters, and what it needs and saves.

The parameters are the assignments in the cell with the tag ``parameters``. A notebook of the study describes in its
metadata, under ``bsm``, what it needs and saves. JupyterLab shows them (Property Inspector, Advanced Tools, Notebook
Metadata)::

    "bsm": {
      "needs": "networks",
      "saves": {"input_length": ["values", "table", "figure"], "input_length_cost": ["table"]},
      "optional": ["input_length_cost"],
      "follows": ["scan"],
      "only_with": "scan_seconds",
      "apart_with": ["weights", "dataset"],
      "threads": 1, "memory_gb": 32, "minutes": 720, "gpu": true
    }

- ``needs`` is one of :data:`NEEDS`.
- ``saves`` lists every name that the notebook gives to ``save``, with the kinds of files (:data:`KINDS`).
- ``optional`` lists the names that it may leave out, because something that they need is missing.
- ``of`` names the results of another folder that tables and figures show: a list of patterns below ``reports``, by
  name. Without an entry, they show the notebook's own results.
- ``follows`` lists modules of ``bsm``. The workflow runs the notebook again when one changes, or when a module of
  ``bsm.study`` changes that the notebook imports.
- ``only_with`` is a value of a profile. The workflow leaves the notebook out of profiles that do not have it.
- ``apart_with`` lists parameters. Where one is given, results go to ``runs/<notebook>``.
- The other fields ask for resources. A notebook without ``threads`` measures time, and so runs alone. A notebook with
  ``gpu`` also runs alone, unless the songs are synthesised.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from bsm.errors import InputError, known
from bsm.study.records import ROOT

NOTEBOOKS = ROOT / "notebooks"
NEEDS = ("nothing", "songs", "network", "backbones", "networks", "variants", "results")
"""No input; songs; the first network of the first seed; every network of that seed; every network of every seed; the
ablations' variants that the notebook scores; the results of all other notebooks."""
KINDS = {"values": "results/{}.json", "table": "tables/{}.md", "figure": "figures/{}.png"}
"""Kinds of files that a notebook saves, with their paths in the folder of a profile's reports."""
PLUMBING = ("notebook", "profiles", "records", "saving")
"""Modules of ``bsm.study`` that every notebook uses. Their changes run no notebook again."""
FIELDS = (
    *("needs", "saves", "optional", "of", "follows", "only_with", "apart_with"),
    *("threads", "memory_gb", "minutes", "gpu"),
)


def find_file(kind: str, name_or_path: str | Path, folder: Path, suffix: str) -> Path:
    """Return the file of a name in a folder, or a path that ends in the suffix.

    Raises:
        InputError: there is no such file; the message lists the folder's.
    """
    path = Path(name_or_path)
    if path.suffix != suffix:
        path = folder / f"{name_or_path}{suffix}"
    if not path.is_file():
        names = ", ".join(sorted(other.stem for other in folder.glob(f"*{suffix}"))) or "none here"
        raise InputError(f"there is no {kind} {str(name_or_path)!r}; choose one of: {names}")
    return path


@dataclass(frozen=True)
class Notebook:
    """A notebook's file; it is read, and not run."""

    path: Path

    @classmethod
    def find(cls, name_or_path: str | Path) -> Notebook:
        """Find a notebook by its name in ``notebooks``, or by a path that ends in ``.ipynb``.

        Raises:
            InputError: there is none.
        """
        return cls(find_file("notebook", name_or_path, NOTEBOOKS, ".ipynb").resolve())

    @property
    def name(self) -> str:
        """Its file's name without the ending."""
        return self.path.stem

    @cached_property
    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {"metadata": content["metadata"], "cells": content["cells"]}
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(f"{self.path}: not a notebook ({type(error).__name__}: {error})") from None

    def _cells(self, kind: str) -> list[tuple[dict[str, Any], str]]:
        return [(c["metadata"], "".join(c["source"])) for c in self._content["cells"] if c["cell_type"] == kind]

    @property
    def title(self) -> str:
        """Its first heading."""
        lines = [line for _, text in self._cells("markdown") for line in text.splitlines()]
        return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), self.name)

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The declared parameters and their defaults, read by Python's own parser, because papermill's skips some.

        Raises:
            InputError: not exactly one cell has the tag ``parameters``, or it has more than assignments of literals.
        """
        tagged = [text for metadata, text in self._cells("code") if "parameters" in metadata.get("tags", [])]
        if len(tagged) != 1:
            raise InputError(f"{self.path}: one cell must be tagged 'parameters', {len(tagged)} are")
        defaults = {}
        try:
            for statement in ast.parse(tagged[0]).body:
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                defaults[target.id] = ast.literal_eval(statement.value)
        except (SyntaxError, AttributeError, ValueError) as error:
            raise InputError(f"{self.path}: the cell tagged 'parameters' must hold 'name = value': {error}") from None
        return defaults

    @cached_property
    def about(self) -> dict[str, Any]:
        """Its metadata under ``bsm``; empty where it is no part of the study.

        Raises:
            InputError: an unknown field, need or kind of file.
        """
        about = self._content["metadata"].get("bsm", {})
        for field in about:
            known(f"metadata in {self.path}:", field, FIELDS)
        if about:
            known(f"'needs' in {self.path}:", about.get("needs"), NEEDS)
        for name, kinds in about.get("saves", {}).items():
            if not kinds or not set(kinds) <= set(KINDS):
                raise InputError(f"{self.path}: {name!r} must be saved as some of {', '.join(KINDS)}, not {kinds!r}")
        return about

    @property
    def saves(self) -> dict[str, list[str]]:
        """The kinds of files that it saves, by name."""
        return self.about.get("saves", {})

    def saved(self, kind: str) -> list[str]:
        """Return the names under which it saves files of a kind."""
        return [name for name, kinds in self.saves.items() if kind in kinds]

    def files(self, reports: str | Path) -> list[str]:
        """Return the paths of the files that it always writes to a folder of reports, its executed copy first."""
        always = {name: kinds for name, kinds in self.saves.items() if name not in self.about.get("optional", [])}
        saved = [KINDS[kind].format(name) for name, kinds in always.items() for kind in kinds]
        return [f"{reports}/{path}" for path in (f"notebooks/{self.name}.ipynb", *saved)]

    def modules(self) -> list[str]:
        """Return the modules and packages of ``bsm`` whose changes run the notebook again."""
        nodes = [node for _, text in self._cells("code") for node in ast.walk(ast.parse(text))]
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        parts = [name.split(".") for name in imported]
        study = {name[2] for name in parts if name[:2] == ["bsm", "study"] and len(name) > 2} - set(PLUMBING)
        return sorted({*(f"study/{name}" for name in study), *self.about.get("follows", [])})

    def fitting(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return values of declared parameters if they fit; see :func:`fit`."""
        return {name: fit(name, value, self.parameters[name], where) for name, value in values.items()}


def study_notebooks() -> list[Notebook]:
    """Return the notebooks of the study, in their order."""
    found = [Notebook(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    return [notebook for notebook in found if notebook.about]


def fit(name: str, value: Any, default: Any, where: str) -> Any:
    """Return a parameter's value if its type fits its default's.

    A whole number fits a float, and everything fits None. Elements of a list must be of types that the default's
    elements have; all types fit an empty list. Where the default is no text, text is read as YAML, because papermill's
    command line passes a list as text.

    Raises:
        InputError: the value does not fit.
    """
    if isinstance(value, str) and not isinstance(default, str):
        with contextlib.suppress(yaml.YAMLError):  # it stays text, and the check of its type refuses it
            value = yaml.safe_load(value)
    if default is None:
        return value
    _check_type(f"{where}: parameter {name!r}", value, [default], f"its default {default!r}")
    for element in value if isinstance(default, list) and default else ():
        _check_type(f"{where}: elements of parameter {name!r}", element, default, f"those of its default {default!r}")
    return float(value) if isinstance(default, float) else value


def _check_type(what: str, value: Any, examples: list[Any], like: str) -> None:
    """Raise an InputError unless a value is of the type of an example; a whole number is also a float."""
    kinds = list(dict.fromkeys(map(type, examples)))
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        named = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"{what} must be of type {named}, like {like}, not {type(value).__name__} {value!r}")
