"""``bsm study``, ``campaign``, ``cue-gap``, ``readme``, ``provenance`` and ``repeat``: make, show and trace results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bsm.cli.options import COUNT, PATH


@click.command()
@click.argument("notebook")
@click.option("--profile", default="demo", help="Profile whose parameters the notebook gets.")
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, help="Name and YAML value; may be repeated.")
@click.option("-o", "--output", type=PATH, help="Executed notebook.  [default: next to its results]")
def study(notebook: str, profile: str, parameters: tuple[tuple[str, str], ...], output: Path | None) -> None:
    """Execute a NOTEBOOK with the parameters of a profile.

    NOTEBOOK is a name in the folder notebooks/, or a path. Parameters given with -p override the profile's. Relative
    paths in them start at the working directory.
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
@click.argument("file", type=PATH)
@click.option("--cores", default=1, type=COUNT, help="Number of trainings at a time, one per core.")
@click.option("--status", is_flag=True, help="Show what is done and what is left, and train nothing.")
def campaign(file: Path, cores: int, status: bool) -> None:
    """Work through the trainings that a campaign FILE lists.

    The same command resumes an interrupted campaign.
    """
    from bsm.study.campaign import Campaign, frozen_checkout, work

    todo = Campaign(file)
    for folder in todo.lacking_data():
        click.echo(
            f"{folder}: no such folder; runs on its songs are left out until the songs are there, or a link to them",
            err=True,
        )
    if not status and (failed := work(todo, frozen_checkout(todo.revision), cores)):
        raise click.ClickException(f"{len(failed)} trainings failed: {', '.join(failed)}")
    table = todo.status()
    click.echo(
        table.groupby("arm").agg(runs=("done", "size"), done=("done", "sum"), minutes=("minutes", "mean")).round(1)
    )
    click.echo(f"{table['done'].sum()} of {len(table)} runs are done; {todo.left()}")


@click.command("cue-gap")
@click.option("--network", required=True, help="package.module:name, where name() returns a torch Module.")
@click.option("--gap", "longest_gap", default=0.5, type=click.FloatRange(0.2, 20), help="Longest gap in training, s.")
@click.option("--voices", default="tones", type=click.Choice(["tones", "sung"]), help="Kind of voices.")
@click.option("--lr", default=0.002, type=click.FloatRange(1e-6, 1), help="Highest learning rate.")
@click.option("--steps", default=2000, type=click.IntRange(2), help="Number of updates.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**32 - 1), help="Random seed.")
@click.option("-o", "--output", type=PATH, required=True, help="Result file (JSON).")
def cue_gap(network: str, output: Path, **settings: Any) -> None:
    """Train any network on the probe of memory, and score it.

    The network maps (batch, 1, samples) at 8 kHz to the same shape. The result holds every example's scores.
    """
    import pandas as pd

    from bsm.cue_gap import summary
    from bsm.files import check_writable
    from bsm.study.long.probe import benchmark

    check_writable(output)
    answers = benchmark(output, network, **settings)
    table = pd.DataFrame([{"question": found["name"]} | summary(found) for found in answers])
    click.echo(
        table.to_string(
            index=False, formatters={"sdr": "{:.1f} dB".format, "right": "{:.0%}".format, "clear": "{:.0%}".format}
        )
    )
    click.echo(f"written to {output}", err=True)


@click.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Update the README's tables from the reports of a PROFILE."""
    from bsm.study.profiles import Profile
    from bsm.study.readme import refresh_readme

    click.echo("README.md updated" if refresh_readme(Profile.load(profile)) else "README.md is up to date")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def provenance(file: Path) -> None:
    """Trace a FILE back to its data and revision.

    FILE is a figure, a table or a result.
    """
    from bsm.study.provenance import chain

    click.echo(chain(file))


@click.command()
@click.argument("profile")
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
def repeat(profile: str, other: Path) -> None:
    """Compare the results of two runs, value by value.

    The first run is that of PROFILE in this checkout. OTHER is the folder reports/PROFILE of the other run, for example
    in another checkout. The command writes results/repeat.json and tables/repeat.md into the folder of PROFILE.
    """
    from bsm.study.repeat import write

    click.echo(write(profile, other))
