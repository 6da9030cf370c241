"""``bsm weights``."""

from __future__ import annotations

import click


@click.group()
def weights() -> None:
    """Weights that have a name: list them, fetch them, tell where they are."""


@weights.command("list")
def weights_list() -> None:
    """List the named weights, their licences, and which are here."""
    from bsm.weights.registry import entries

    for name, entry in entries().items():
        size = f", {entry.size / 1e6:.0f} MB" if entry.size else ""
        click.echo(f"{name}: {entry.title}\n  {entry.state}{size}: {entry.place}\n  licence: {entry.licence}")
        for more in (entry.source, entry.note):
            if more:
                click.echo(f"  {more}")


@weights.command("fetch")
@click.argument("name")
@click.option("--from", "source", help="Another address, or a path, to take the file from.")
def weights_fetch(name: str, source: str | None) -> None:
    """Fetch the weights NAME into the cache (BSM_CACHE, or the platform's), and verify size and SHA-256.

    A download that broke off goes on where it stopped.
    """
    from bsm.weights.registry import entry, fetch

    click.echo(entry(name).terms, err=True)
    click.echo(fetch(name, source))


@weights.command("path")
@click.argument("name")
def weights_path(name: str) -> None:
    """Print where the weights NAME are, for other programs; an error where they are not here."""
    from bsm.weights.registry import entry, locate

    entry(name)  # a name, not a path
    click.echo(locate(name))
