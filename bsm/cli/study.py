"""``bsm study`` and ``bsm readme``: notebooks executed, and what is made of their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bsm.errors import InputError

BESIDE = ("08_input_length", "09_vocal_occurrence")
"""Notebooks that keep what they measure of other models or songs apart from the profile's reports."""


@click.command()
@click.argument("notebook")
@click.option("--profile", default="demo", show_default=True)
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, help="Name and YAML value; may be repeated.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Executed notebook; with the results by default.")
def study(notebook: str, profile: str, parameters: tuple[tuple[str, str], ...], output: Path | None) -> None:
    """Execute a NOTEBOOK of notebooks/ with a profile's parameters and any others given.

    Paths among them are relative to the folder of the command.
    """
    import yaml

    from bsm.study.notebooks import NotebookFailed, run_notebook
    from bsm.study.records import ROOT

    try:
        values = {name: _absolute(name, yaml.safe_load(text)) for name, text in parameters}
    except yaml.YAMLError as error:
        raise InputError(f"a parameter's value is not YAML: {error}") from error
    name, out = Path(notebook).stem, str(values.get("out") or "")
    if name in BESIDE:
        from bsm.study.subjects import results_folder

        out = results_folder(name, out, values.get("weights"), values.get("dataset") or "")
    output = output or Path(out or ROOT / "reports" / Path(profile).stem) / "notebooks" / f"{name}.ipynb"
    try:
        run_notebook(notebook, output, profile=profile, parameters=values)
    except NotebookFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(output)


def _absolute(parameter: str, value: Any) -> Any:
    """Return a path, or paths by name, for the kernel, which runs in the repository; all other values as they are."""
    from bsm.weights import registry as weights

    if parameter not in ("out", "run", "dataset", "weights"):
        return value
    if isinstance(value, dict):
        return {name: _absolute(parameter, path) for name, path in value.items()}
    if not value or not isinstance(value, str) or (parameter == "weights" and value in weights.entries()):
        return value
    return str(Path(value).absolute())


@click.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Refresh the README's tables from a PROFILE's reports."""
    from bsm.study.profiles import Profile
    from bsm.study.report import refresh_readme

    click.echo("README.md refreshed" if refresh_readme(Profile.load(profile)) else "README.md is up to date")
