"""``bsm claims``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_reports = click.option(
    "--reports", type=click.Path(path_type=Path, file_okay=False), help="Folder of results.  [default: reports]"
)


@click.group()
def claims() -> None:
    """Judge the claims by the result files."""


@claims.command()
@_reports
def check(reports: Path | None) -> None:
    """Judge all claims again, and compare the result with CLAIMS.md.

    Contributed results are checked first. The exit status is 1 if CLAIMS.md differs.
    """
    from bsm.study.claims import ledger

    reports = reports or ledger.REPORTS
    if problems := ledger.check(reports):
        for problem in problems:
            click.echo(problem, err=True)
        click.echo(f"bsm: {len(problems)} problem(s); `bsm claims render` writes what the results say", err=True)
        sys.exit(1)
    click.echo(ledger.tally(ledger.lines(reports=reports)))


@claims.command()
@_reports
def render(reports: Path | None) -> None:
    """Judge all claims; write CLAIMS.md and the README's tables."""
    from bsm.study.claims import ledger
    from bsm.study.profiles import Profile
    from bsm.study.readme import refresh_readme

    judged = ledger.render(reports or ledger.REPORTS)
    if (reports or ledger.REPORTS).resolve() == ledger.REPORTS:
        refresh_readme(Profile.load(ledger.PROFILE))
    click.echo(ledger.tally(judged))


@claims.command()
@_reports
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--contributor", required=True, help="Your name, or your group's.")
@click.option("--system", required=True, help="What was measured, such as the network and whose weights.")
def contribute(reports: Path | None, result: Path, contributor: str, system: str) -> None:
    """Add RESULT, a file of `bsm evaluate`, to the results.

    The copy goes to reports/contributed. Claims are judged by the results there, too.
    """
    from bsm.study.claims.ledger import REPORTS
    from bsm.study.contributed import contribute

    click.echo(contribute(result, reports or REPORTS, contributor=contributor, system=system))


@claims.command()
@_reports
def count(reports: Path | None) -> None:
    """Count memory and operations of the paper's model.

    They are counted from tensors without values, in about a minute.
    """
    from bsm.study import counts
    from bsm.study.claims.exact import TENSORS
    from bsm.study.claims.ledger import REPORTS
    from bsm.study.records import mark, write_result

    started = mark()
    write_result(
        (reports or REPORTS) / TENSORS / "results" / "tensors.json",
        measured="bytes of a training step and of what scans keep; operations of a block",
        parameters={"precision": "32-true", "frames": counts.FRAMES, "block_frames": counts.BLOCK_FRAMES},
        values=counts.measure(),
        started=started,
        data="none: tensors without values",
        inputs=(),
    )
