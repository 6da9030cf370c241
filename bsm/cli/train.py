"""``bsm train``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("profile", default="demo")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of weights and segments; the profile's by default.")
@click.option("--steps", type=int, help="Optimiser updates; the profile's by default.")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run; under runs/ by default.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def train(profile: str, seed: int | None, steps: int | None, run: Path | None, device: str) -> None:
    """Train the model of a PROFILE, or go on where a killed training stopped."""
    from bsm.study.profiles import Profile

    settings = Profile.load(profile)
    from bsm.train import train as run_training  # slow to import: a wrong name is told at once

    changes = {k: v for k, v in {"seed": seed, "steps": steps}.items() if v is not None}
    config = settings.train_config().replace(**changes)
    weights = run_training(
        run or settings.run_folder(config.seed),
        settings.model_config(),
        config,
        settings.tracks(),
        device=device,
        supersede=run is None and steps is None,  # the profile's folder follows the profile
    )
    click.echo(weights)
