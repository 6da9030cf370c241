"""``bsm plan``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--preset", default="paper", show_default=True, help="Size of the network.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="Result of `bsm bench step`.  [default: the best fitting one under reports/]",
)
@click.option("--profile", default="demo", show_default=True, help="Profile whose training is also planned.")
def plan(preset: str, device: str, source: Path | None, profile: str) -> None:
    """Predict hours and memory of trainings from measured steps, and name the measurements.

    The prediction is for the network's size given by --preset and for the training of the profile.
    """
    from bsm.config import ModelConfig
    from bsm.study.profiles import Profile

    ModelConfig.preset(preset)
    settings = Profile.load(profile)
    from bsm.study.figures import table_markdown
    from bsm.study.speed import plan as study  # slow to import: a wrong name is reported first

    table, sources = study.plan(study.works(preset, settings), source, device)
    click.echo(table_markdown(table, caption=" ".join(sources), digits=1))
