"""The command line: ``bsm data | train | separate | evaluate | bench | study``."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from bsm import __version__
from bsm.errors import BackendUnavailable, InputError

DATA, RUNS = Path("data"), Path("runs")


def main() -> None:
    """Run the command line; errors that are the user's to mend become one line and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (InputError, BackendUnavailable) as error:
        click.echo(f"bsm: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("bsm: interrupted", err=True)
        sys.exit(130)


@click.group()
@click.version_option(__version__)
def cli() -> None:
    """A reproduction study of BSMamba2, vocal separation with Mamba2."""


@cli.command()
@click.argument("profile", default="demo")
def data(profile: str) -> None:
    """Make or fetch the data of a PROFILE, and check them."""
    from bsm.study.profiles import Profile

    Profile.load(profile).prepare_data()


@cli.command()
@click.argument("profile", default="demo")
@click.option("--seed", type=int, help="Seed of weights and segments; the profile's by default.")
@click.option("--steps", type=int, help="Optimiser updates; the profile's by default.")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run; under runs/ by default.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def train(profile: str, seed: int | None, steps: int | None, run: Path | None, device: str) -> None:
    """Train the model of a PROFILE, or go on where a killed training stopped."""
    from bsm.study.profiles import Profile
    from bsm.train import train as run_training

    settings = Profile.load(profile)
    changes = {k: v for k, v in {"seed": seed, "steps": steps}.items() if v is not None}
    config = settings.train_config().replace(**changes)
    weights = run_training(
        run or settings.run_folder(config.seed), settings.model_config(), config, settings.tracks(), device=device
    )
    click.echo(weights)


@cli.command()
@click.argument("songs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="Default: the demo profile's model.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder; beside each song by default.")
@click.option("--window", default=8.0, show_default=True, help="Seconds the model sees at a time.")
@click.option("--hop", type=float, help="Seconds from window to window; no overlap by default.")
@click.option("--whole", is_flag=True, help="One pass over the whole song instead of windows.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def separate(
    songs: tuple[Path, ...],
    weights: Path | None,
    output: Path | None,
    window: float,
    hop: float | None,
    whole: bool,
    device: str,
) -> None:
    """Write SONG.vocals.wav and SONG.accompaniment.wav (mixture - vocals) for each of SONGS.

    Rate and length are the song's; samples are 32-bit float, so that nothing clips.
    """
    import torch

    from bsm import audio
    from bsm.checkpoint import load_model
    from bsm.separate import separate as run_separation

    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} is not here; use --device cpu")
    model = load_model(weights or _default_weights()).to(device)
    for song in songs:
        mixture, rate = audio.read(song)
        vocals = run_separation(
            model, torch.from_numpy(mixture), rate, window=window, hop=hop, whole=whole, progress=True
        ).numpy()
        folder = output or song.parent
        folder.mkdir(parents=True, exist_ok=True)
        for name, signal in {"vocals": vocals, "accompaniment": mixture - vocals}.items():
            path = folder / f"{song.stem}.{name}.wav"
            audio.write(path, signal, rate)
            click.echo(path)


def _default_weights() -> Path:
    from bsm.study.profiles import Profile

    settings = Profile.load("demo")
    return settings.run_folder(settings.seed) / "model.safetensors"


@cli.command()
@click.option("--weights", type=click.Path(path_type=Path), help="Default: the demo profile's model.")
@click.option("--data", "root", type=click.Path(path_type=Path), required=True, help="Folder of <song>/<source>.wav.")
@click.option("--window", default=8.0, show_default=True, help="Seconds the model sees at a time.")
@click.option("--hop", type=float, help="Seconds from window to window; no overlap by default.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file (JSON).")
def evaluate(weights: Path | None, root: Path, window: float, hop: float | None, output: Path | None) -> None:
    """Score a model on a folder of songs: uSDR, cSDR and SI-SDR per track, and their means."""
    import pandas as pd

    from bsm.checkpoint import load_model
    from bsm.data.tracks import folder_tracks
    from bsm.evaluate import evaluate as run_evaluation
    from bsm.evaluate import model_separator
    from bsm.study.records import write_result
    from bsm.study.stats import summary

    weights = weights or _default_weights()
    model = load_model(weights)
    records = run_evaluation(folder_tracks(root, "test"), {"model": model_separator(model, window=window, hop=hop)})
    if output:
        parameters: dict[str, Any] = {"weights": str(weights), "window": window, "hop": hop}
        write_result(output, measured="scores per track", parameters=parameters, values=records, data=str(root))
    frame = pd.DataFrame(records)
    rows = {name: summary(frame[name]) for name in ("usdr", "csdr", "si_sdr")}
    click.echo(pd.DataFrame(rows).T.to_string(float_format="%.2f"))


@cli.command()
@click.argument("subject", type=click.Choice(["scan"]))
@click.option("--json", "output", type=click.Path(path_type=Path), help="Result file.")
@click.option("--seconds", multiple=True, type=float, default=(1.0, 4.0, 8.0), show_default=True)
@click.option("--repeats", default=3, show_default=True)
def bench(subject: str, output: Path | None, seconds: tuple[float, ...], repeats: int) -> None:
    """Measure speed as ratios within one run."""
    from bsm.study import bench as benches
    from bsm.study.records import write_result

    values = benches.scan_backends(seconds, repeats=repeats)
    if output:
        write_result(
            output,
            measured=subject,
            parameters={"seconds": seconds, "repeats": repeats},
            values=values,
            data="random inputs, official initial values",
        )
    click.echo(json.dumps(values, indent=2))


@cli.command()
@click.argument("notebook")
@click.option("--profile", default="demo", show_default=True)
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, help="Name and YAML value; may be repeated.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Executed notebook; under reports/ by default.")
def study(notebook: str, profile: str, parameters: tuple[tuple[str, str], ...], output: Path | None) -> None:
    """Execute a NOTEBOOK of notebooks/ with a profile's parameters and any others given."""
    import yaml

    from bsm.study.notebooks import run_notebook

    output = output or Path("reports") / profile / "notebooks" / f"{Path(notebook).stem}.ipynb"
    run_notebook(notebook, output, profile=profile, parameters={k: yaml.safe_load(v) for k, v in parameters})
    click.echo(output)


@cli.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Refresh the README's tables from a PROFILE's reports."""
    from bsm.study.profiles import Profile
    from bsm.study.report import refresh_readme

    click.echo("README.md refreshed" if refresh_readme(Profile.load(profile)) else "README.md is up to date")
