"""The two functions that every notebook calls: one checks its parameters, one saves and shows its results."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from bsm.devices import choose_device
from bsm.errors import InputError
from bsm.inference import check_windows
from bsm.study import figures
from bsm.study.notebook import KINDS, Notebook
from bsm.study.profiles import Profile
from bsm.study.records import ROOT, mark, write_result

log = logging.getLogger(__name__)

SHORTEST = 0.01  # s; nothing shorter is measured


def open_study(name: str, namespace: dict[str, Any]) -> tuple[Profile, Save]:
    """Check a notebook's parameters, from its own first cell, and open its profile.

    The checked values replace those in ``namespace``, the notebook's ``globals()``: papermill may have passed a list as
    text (:func:`bsm.study.notebook.fit`).

    Returns:
        The profile, with the parameters in place of its own values, and the function that saves results.

    Raises:
        InputError: a parameter is of another type than its default, or its value cannot be used.
    """
    notebook = Notebook.find(name)
    values = notebook.fitting({key: namespace[key] for key in notebook.parameters}, notebook.path.name)
    check_usable(values)
    if "out" in values:
        values["out"] = results_folder(notebook, values)
    namespace.update(values)
    settings = Profile.load(values["profile"], **{k: v for k, v in values.items() if k != "profile"})
    return settings, Save(notebook, settings, values)


def check_usable(values: Mapping[str, Any]) -> None:
    """Check parameters that many notebooks have, by their names: device, windows, durations, repeats, an example.

    Raises:
        InputError: a value cannot be used.
    """
    if "device" in values:
        choose_device(values["device"])
    if "window" in values:
        check_windows(values["window"], values.get("hop"))
    for window in (*values.get("windows", []), *values.get("overlap_windows", [])):
        if isinstance(window, int | float):
            check_windows(window)
    for key, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            if key.endswith("_seconds") and isinstance(number, int | float):
                in_range(SHORTEST, **{key: number})
            elif key == "example" or key.endswith("_repeats"):
                in_range(0 if key == "example" else 1, **{key: number})


def results_folder(notebook: Notebook, given: Mapping[str, Any]) -> str:
    """Return the folder of a notebook's results: ``out`` if it is given, or an empty text for the profile's reports.

    Where parameters name other models or songs than the profile's, results go to ``runs/<notebook>``.
    """
    others = any(given.get(name) for name in notebook.about.get("apart_with", []))
    if given.get("out") or not others:
        return str(given.get("out") or "")
    folder = ROOT / "runs" / notebook.name
    log.warning(
        "these are not the profile's own models and songs: results go to %s; name another folder as `out`",
        folder.relative_to(ROOT),
    )
    return str(folder)


def in_range(least: float, most: float = math.inf, **values: float) -> None:
    """Check that parameters, given by their names, lie within a range.

    Raises:
        InputError: one is less than ``least`` or more than ``most``.
    """
    for name, value in values.items():
        if not least <= value <= most:
            bounds = f"at least {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise InputError(f"parameter {name!r} must be {bounds}, not {value!r}")


class Save:
    """Save the values, table and figure of one name in one call, and show table and figure; see :meth:`__call__`."""

    def __init__(self, notebook: Notebook, settings: Profile, parameters: Mapping[str, Any]) -> None:
        self.notebook, self.settings = notebook, settings
        self.parameters = {k: v for k, v in parameters.items() if k not in ("profile", "out")}
        self.started = mark()

    def __call__(
        self,
        name: str,
        *,
        values: Any = None,
        measured: str = "",
        table: pd.DataFrame | str | None = None,
        caption: str = "",
        digits: int = 2,
        figure: Figure | None = None,
        data: str | None = None,
        comparable: bool | None = None,
        inputs: Iterable[str | Path] = (),
        seed: int | None = None,
        **parameters: Any,
    ) -> None:
        """Write ``results/<name>.json``, ``tables/<name>.md`` and ``figures/<name>.png``, those that are given.

        A result's wall and processor time count from the last call that saved values, or from :func:`open_study`.

        Args:
            name: a name that the notebook's metadata declare, with these kinds of files.
            values: of the result file; see :func:`bsm.study.records.write_result`.
            measured: what the values are, with their unit.
            table: a frame, or Markdown.
            caption: of a frame.
            digits: decimals of a frame's numbers.
            figure: it is shown and then closed.
            data: name of the data; by default the profile's songs, which are then inputs, too.
            comparable: whether data and protocol are the paper's; by default whether the profile's are.
            inputs: files and folders that the values depend on.
            seed: by default the notebook's parameter of that name.
            parameters: settings that could change the values, beyond the notebook's own parameters.

        Raises:
            ValueError: the notebook does not declare this name or kind of file.
        """
        given = {"values": values, "table": table, "figure": figure}
        for kind in KINDS:
            if given[kind] is not None and name not in self.notebook.saved(kind):
                raise ValueError(f"{self.notebook.name} does not declare in its metadata that it saves {kind} {name!r}")
        own = data is None
        data = self.settings.data_title if own else data
        comparable = (self.settings.comparable and own) if comparable is None else comparable
        if values is not None:
            write_result(
                self.settings.result(name),
                measured=measured,
                parameters=self.parameters | parameters,
                values=values,
                seed=self.parameters.get("seed") if seed is None else seed,
                started=self.started,
                data=data,
                inputs=[*([self.settings.data_folder] if own else []), *inputs],
                comparable_with_paper=comparable,
            )
            self.started = mark()
        if isinstance(table, pd.DataFrame):
            table = figures.table_markdown(
                table, caption=caption, data=data, not_comparable=not comparable, digits=digits
            )
        if table is not None:
            self.settings.write_table(name, table)
            display(Markdown(table))
        if figure is not None:
            with figures.style():  # the style counts not only when a figure is made, but also when it is rendered
                figures.save(figure, self.settings.figure(name))
                display(figure)
            plt.close(figure)

    def claims(self) -> None:
        """Show the verdicts on the claims that this notebook's results test; nothing where ``out`` is given."""
        if self.settings.values.get("out"):
            return
        from bsm.study.claims.ledger import claims_table

        table = claims_table(self.settings.profile, self.notebook.saved("values"))
        display(Markdown(figures.table_markdown(table, caption="What this says about the claims")))
