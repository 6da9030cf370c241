"""``bsm provenance``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def provenance(file: Path) -> None:
    """Print where a FILE comes from: a figure, table, result or model back to its data and revision."""
    from bsm.study.provenance import chain

    click.echo(chain(file))
