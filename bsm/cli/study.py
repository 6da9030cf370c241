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
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--cores", default=1, show_default=True, type=click.IntRange(1), help="Trainings at a time.")
@click.option("--status", is_flag=True, help="Show what is done and what is left, and train nothing.")
def campaign(file: Path, cores: int, status: bool) -> None:
    """Work through the trainings that a campaign FILE lists, and go on where it was interrupted."""
    from bsm.study.campaign import Campaign, frozen_checkout, work

    todo = Campaign(file)
    if not status and (failed := work(todo, frozen_checkout(todo.revision), cores)):
        raise click.ClickException(f"{len(failed)} trainings failed: {', '.join(failed)}")
    table = todo.status()
    click.echo(
        table.groupby("arm").agg(runs=("done", "size"), done=("done", "sum"), minutes=("minutes", "mean")).round(1)
    )
    click.echo(
        f"{table['done'].sum()} of {len(table)} runs are done; about {todo.minutes_left():.0f} core-minutes are left"
    )


@click.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Update the README's tables from the reports of a PROFILE."""
    from bsm.study.profiles import Profile
    from bsm.study.readme import refresh_readme

    click.echo("README.md updated" if refresh_readme(Profile.load(profile)) else "README.md is up to date")
