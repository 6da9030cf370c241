"""What a notebook calls: one function that checks its parameters, and one that saves and shows what it found."""

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
    """Check a notebook's parameters from inside it, whatever started it, and open its profile.

    ``namespace``, the notebook's ``globals()``, gets the values as they are used (:func:`bsm.study.notebook.fit`).

    Returns:
        The profile with the parameters on top, and what saves results, tables and figures.

    Raises:
        InputError: the type of a parameter does not fit the default's, or its value cannot be used.
    """
    notebook = Notebook.find(name)
    values = notebook.fitting({key: namespace[key] for key in notebook.parameters}, notebook.path.name)
    check_usable(values)
    if "out" in values:
        values["out"] = results_folder(notebook, values)
    namespace.update(values)
    settings = Profile.of(values["profile"], **{k: v for k, v in values.items() if k != "profile"})
    return settings, Save(notebook, settings, values)


def check_usable(values: Mapping[str, Any]) -> None:
    """Check what the names of parameters say about them: device, windows, durations, numbers of repeats and of songs.

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
    """Return the folder of a notebook's results: ``out`` if given, an empty text for the profile's reports.

    Results about other models and songs than the profile's go to ``runs/<notebook>``.
    """
    if given.get("out") or not notebook.apart(dict(given)):
        return str(given.get("out") or "")
    folder = ROOT / "runs" / notebook.name
    log.warning("not the profile's own models and songs: results go to %s, or to `out`", folder.relative_to(ROOT))
    return str(folder)


def in_range(least: float, most: float = math.inf, **values: float) -> None:
    """Refuse a notebook's parameters, given by their names, outside of a range.

    Raises:
        InputError: one is less than ``least`` or more than ``most``.
    """
    for name, value in values.items():
        if not least <= value <= most:
            bounds = f"at least {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise InputError(f"parameter {name!r} must be {bounds}, not {value!r}")


class Save:
    """Save values, table and figure of one name in a call, and show table and figure; see :meth:`__call__`."""

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
        """Write ``results/<name>.json``, ``tables/<name>.md`` and ``figures/<name>.png``, as far as they are given.

        A result's wall and processor time count from the call before that saved values, or from :func:`open_study`.

        Args:
            name: one that the notebook declares in its metadata, with these kinds of files.
            values: see :func:`bsm.study.records.write_result`, for ``measured``, ``inputs`` and ``seed``, too.
            measured: see ``values``.
            table: a frame, or Markdown; ``caption`` and ``digits``, its decimals, are of the frame.
            caption: see ``table``.
            digits: see ``table``.
            figure: it is closed once it is shown.
            data: what was measured; by default the profile's songs, which are then added to the inputs.
            comparable: whether data and protocol are the paper's; by default whether the profile's are.
            inputs: see ``values``.
            seed: by default the notebook's parameter of that name.
            parameters: beyond the notebook's own, every setting that could change the values.

        Raises:
            ValueError: a name or kind of file that the notebook does not declare.
        """
        given = {"values": values, "table": table, "figure": figure}
        for kind in (kind for kind in KINDS if given[kind] is not None):
            if kind not in self.notebook.saves.get(name, []):
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
            with figures.style():  # which counts when a figure is drawn, too
                figures.save(figure, self.settings.figure(name))
                display(figure)
            plt.close(figure)

    def claims(self) -> None:
        """Show what the results that this notebook saves say about the claims; nothing where they stand apart."""
        if self.settings.values.get("out"):
            return
        from bsm.study.claims.ledger import claims_table

        table = claims_table(self.settings.profile, self.notebook.saved("values"))
        display(Markdown(figures.table_markdown(table, caption="What this says about the claims")))
