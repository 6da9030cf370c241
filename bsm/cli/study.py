"""``bsm study`` and ``bsm readme``: execute notebooks, and show their results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("notebook")
@click.option("--profile", default="demo", show_default=True, help="Profile whose parameters the notebook gets.")
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, help="Name and YAML value; may be repeated.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Executed notebook.  [default: with its results]",
)
def study(notebook: str, profile: str, parameters: tuple[tuple[str, str], ...], output: Path | None) -> None:
    """Execute a NOTEBOOK of notebooks/ with the parameters of a profile.

    Parameters given with -p override the profile's. Relative paths in them start at the working directory.
    """
    from bsm.study.run import NotebookFailed, executed_copy, read_parameters, run_notebook

    values = read_parameters(dict(parameters))
    output = output or executed_copy(notebook, profile, values)
    try:
        run_notebook(notebook, output, profile=profile, parameters=values)
    except NotebookFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(output)


@click.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Update the README's tables from the reports of a PROFILE."""
    from bsm.study.profiles import Profile
    from bsm.study.readme import refresh_readme

    click.echo("README.md updated" if refresh_readme(Profile.load(profile)) else "README.md is up to date")
