"""``bsm study`` and ``bsm readme``: notebooks executed, and what is made of their results."""

from __future__ import annotations

from pathlib import Path

import click

from bsm.errors import InputError


@click.command()
@click.argument("notebook")
@click.option("--profile", default="demo", show_default=True)
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, help="Name and YAML value; may be repeated.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Executed notebook; with the results by default.")
def study(notebook: str, profile: str, parameters: tuple[tuple[str, str], ...], output: Path | None) -> None:
    """Execute a NOTEBOOK of notebooks/ with a profile's parameters and any others given."""
    import yaml

    from bsm.study.notebooks import NotebookFailed, run_notebook

    try:
        values = {name: yaml.safe_load(text) for name, text in parameters}
    except yaml.YAMLError as error:
        raise InputError(f"a parameter's value is not YAML: {error}") from error
    results = Path(str(values.get("out") or Path("reports") / Path(profile).stem))
    output = output or results / "notebooks" / f"{Path(notebook).stem}.ipynb"
    try:
        run_notebook(notebook, output, profile=profile, parameters=values)
    except NotebookFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(output)


@click.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Refresh the README's tables from a PROFILE's reports."""
    from bsm.study.profiles import Profile
    from bsm.study.report import refresh_readme

    click.echo("README.md refreshed" if refresh_readme(Profile.load(profile)) else "README.md is up to date")
