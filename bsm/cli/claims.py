"""``bsm claims``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

LEDGER = Path(__file__).resolve().parents[2] / "reports" / "claims.yaml"
_ledger = click.option(
    "--ledger", type=click.Path(path_type=Path, dir_okay=False), default=LEDGER, help="By default reports/claims.yaml."
)


@click.group()
def claims() -> None:
    """The claims under test, and what the results say about each."""


@claims.command()
@_ledger
def check(ledger: Path) -> None:
    """Compute every status again from the result files; exit 1 where a row has none or says something else."""
    from bsm.study import ledger as book

    if problems := book.check(ledger):
        for problem in problems:
            click.echo(problem, err=True)
        click.echo(f"bsm: {len(problems)} problem(s); `bsm claims render` writes what the results say", err=True)
        sys.exit(1)
    click.echo(book.tally(book.load(ledger)))


@claims.command()
@_ledger
def render(ledger: Path) -> None:
    """Write every row's status and figures into the ledger, CLAIMS.md beside it, and the README's table."""
    from bsm.study import ledger as book

    rows = book.render(ledger)
    if ledger.resolve() == LEDGER:
        from bsm.study.profiles import Profile
        from bsm.study.report import refresh_readme

        refresh_readme(Profile.load(book.PROFILE))
    click.echo(book.tally(rows))
