"""``bsm provenance`` and ``bsm repeat``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def provenance(file: Path) -> None:
    """Trace FILE, a figure, table, result or model, back to its data and revision."""
    from bsm.study.provenance import chain

    click.echo(chain(file))


@click.command()
@click.argument("profile")
@click.argument("other", type=click.Path(path_type=Path, exists=True, file_okay=False))
def repeat(profile: str, other: Path) -> None:
    """Compare the results of PROFILE with those of another run, value by value.

    OTHER is the folder reports/PROFILE of the other run, such as that of another checkout. The command writes
    results/repeat.json and tables/repeat.md of PROFILE.
    """
    from bsm.study.repeat import write

    click.echo(write(profile, other))
