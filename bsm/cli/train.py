"""``bsm train``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bsm.cli.options import COUNT, PATH, device_option


@click.command()
@click.argument("profile", default="demo")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of weights and segments.  [default: the profile's]"
)
@click.option("--steps", type=COUNT, help="Number of optimiser updates.  [default: the profile's]")
@click.option(
    "--backbone", default="bsmamba2", help="Network: bsmamba2, bs-roformer, or a time block, such as attention or none."
)
@click.option("--variant", help="Variant of bsmamba2 for the ablations, such as base.")
@click.option("--run", type=PATH, help="Folder of the run.  [default: under runs/]")
@device_option()
def train(
    profile: str,
    seed: int | None,
    steps: int | None,
    backbone: str,
    variant: str | None,
    run: Path | None,
    device: str,
) -> None:
    """Train the network of a PROFILE, or resume its training.

    The same command resumes a training that was stopped or killed. Ctrl-C and SIGTERM save a checkpoint first. More
    --steps continue a finished training if its learning rate is constant. Without --run and --steps, an earlier run
    with other settings is kept aside, not deleted. `torchrun --nproc-per-node N -m bsm train PROFILE` trains in N
    processes.
    """
    from bsm.study.profiles import Profile

    settings = Profile.load(profile)
    if variant and backbone != "bsmamba2":
        raise click.UsageError("--variant is for bsmamba2 only; leave out --backbone")
    if variant:
        model, config = settings.variant_config(variant)
    else:
        model, config = settings.model_config(backbone), settings.train_config()
    from bsm.train import Stopped
    from bsm.train import train as run_training  # slow to import: a wrong name is reported first

    changes = {k: v for k, v in {"seed": seed, "steps": steps}.items() if v is not None}
    config = config.replace(**changes)
    first = os.environ.get("RANK", "0") == "0"  # torchrun sets RANK
    try:
        weights = run_training(
            run or settings.run_folder(config.seed, variant or backbone),
            model,
            config,
            settings.tracks(),
            device=device,
            supersede=run is None and steps is None,  # a profile's own folder follows the profile
        )
    except Stopped as stop:
        if first:
            click.echo(f"bsm: {stop}", err=True)
        raise SystemExit(stop.status) from stop
    if first:
        click.echo(weights)
