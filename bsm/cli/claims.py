"""``bsm claims``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_ledger = click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), help="The ledger.  [default: reports/claims.yaml]"
)


@click.group()
def claims() -> None:
    """Check the claims under test, and write what the results say about each."""


@claims.command()
@_ledger
def check(ledger: Path | None) -> None:
    """Compute every status from the result files; exit with status 1 if a row has none or another one."""
    from bsm.study import ledger as book

    ledger = ledger or book.LEDGER
    if problems := book.check(ledger):
        for problem in problems:
            click.echo(problem, err=True)
        click.echo(f"bsm: {len(problems)} problem(s); `bsm claims render` writes what the results say", err=True)
        sys.exit(1)
    click.echo(book.tally(book.load(ledger)))


@claims.command()
@_ledger
def render(ledger: Path | None) -> None:
    """Write every row's status and figures into the ledger, CLAIMS.md in its folder, and the README's table."""
    from bsm.study import ledger as book
    from bsm.study.profiles import Profile
    from bsm.study.readme import refresh_readme

    ledger = ledger or book.LEDGER
    rows = book.render(ledger)
    if ledger.resolve() == book.LEDGER:
        refresh_readme(Profile.load(book.PROFILE))
    click.echo(book.tally(rows))
