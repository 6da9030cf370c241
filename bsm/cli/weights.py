"""``bsm weights``."""

from __future__ import annotations

import click

from bsm.cli.data import show


@click.group()
def weights() -> None:
    """List, fetch and locate weights that have a name."""


@weights.command("list")
def weights_list() -> None:
    """List the named weights, their licences, and which are here."""
    from bsm.weights.registry import entries

    for entry in entries().values():
        show(entry)


@weights.command("fetch")
@click.argument("name")
@click.option("--from", "source", help="Another address of the file, or a local path.")
def weights_fetch(name: str, source: str | None) -> None:
    """Fetch the weights NAME into the cache (BSM_CACHE, or the platform's), and check size and SHA-256.

    A call that was interrupted continues its download.
    """
    from bsm.weights.registry import entry, fetch

    click.echo(entry(name).terms, err=True)
    click.echo(fetch(name, source))


@weights.command("path")
@click.argument("name")
def weights_path(name: str) -> None:
    """Print the path of the weights NAME; fail if they are not here."""
    from bsm.weights.registry import entry, locate

    entry(name)  # a name, not a path
    click.echo(locate(name))
