"""The command line: ``bsm data | train | separate | evaluate | bench | study``."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from bsm import __version__
from bsm.errors import BackendUnavailable, InputError


def main() -> None:
    """Run the command line.

    Errors that are the user's to mend become one line and exit status 2; a study or training that failed on its own,
    one line and exit status 1.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        cli(prog_name="bsm", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
        else:
            context = getattr(error, "ctx", None)
            _complain(error.format_message(), context.command_path if context else "bsm")
        sys.exit(error.exit_code)
    except (InputError, BackendUnavailable, OSError) as error:
        _complain(str(error))
        sys.exit(2)
    except FloatingPointError as error:
        _complain(str(error))
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("bsm: interrupted", err=True)
        sys.exit(130)


def _complain(message: str, who: str = "bsm") -> None:
    click.echo(f"{who}: {' '.join(message.split())}", err=True)


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


@cli.command()
@click.argument("songs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="Default: the demo profile's model.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder; beside each song by default.")
@click.option("--window", default=8.0, show_default=True, help="Seconds the model sees at a time.")
@click.option("--hop", type=float, help="Seconds from window to window; no overlap by default.")
@click.option("--whole", is_flag=True, help="One pass over the whole song instead of windows.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("-v", "--verbose", is_flag=True, help="Say which implementations are used.")
def separate(
    songs: tuple[Path, ...],
    weights: Path | None,
    output: Path | None,
    window: float,
    hop: float | None,
    whole: bool,
    device: str,
    verbose: bool,
) -> None:
    """Write SONG.vocals.wav and SONG.accompaniment.wav (mixture - vocals) for each of SONGS.

    Rate and length are the song's; samples are 32-bit float, so that nothing clips. Songs are taken in the order given;
    the first that cannot be separated ends the command, and what was written for those before it stays.
    """
    import torch

    from bsm import audio
    from bsm.checkpoint import load_model
    from bsm.separate import separate as run_separation

    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} is not here; use --device cpu")
    if not verbose:
        logging.getLogger("bsm").setLevel(logging.WARNING)
    targets = _targets(songs, output)
    model = load_model(weights or _default_weights()).to(device)
    for song, paths in targets.items():
        mixture, rate = audio.read(song)
        try:
            vocals = run_separation(
                model,
                torch.from_numpy(mixture),
                rate,
                window=window,
                hop=hop,
                whole=whole,
                progress=sys.stderr.isatty(),
            ).numpy()
        except InputError as error:
            raise InputError(f"{song}: {error}") from error
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        audio.write(paths[0], vocals, rate)
        try:
            audio.write(paths[1], mixture - vocals, rate)
        except InputError:
            paths[0].unlink()  # both or neither
            raise
        for path in paths:
            click.echo(path)


def _targets(songs: tuple[Path, ...], output: Path | None) -> dict[Path, list[Path]]:
    """Return the files to write for each song, a song given twice once.

    Raises:
        InputError: two songs would be written to the same files, or a folder that cannot be made or written: told
            before minutes of computing, not after.
    """
    targets, taken = {}, {}
    for song in dict.fromkeys(songs):
        paths = [(output or song.parent) / f"{song.stem}.{name}.wav" for name in ("vocals", "accompaniment")]
        if (other := taken.setdefault(paths[0], song)) != song:
            raise InputError(f"{other} and {song} would both be written to {paths[0]}; separate them one by one")
        targets[song] = paths
    for folder in {output} if output else {song.parent for song in songs if song.exists()}:
        place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{folder}: cannot be written; name another folder with -o")
    return targets


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
@click.argument("subject", type=click.Choice(["scan", "block"]))
@click.option("--json", "output", type=click.Path(path_type=Path), help="Result file.")
@click.option("--seconds", multiple=True, type=float, default=(1.0, 4.0, 8.0), show_default=True)
@click.option("--repeats", default=3, show_default=True)
def bench(subject: str, output: Path | None, seconds: tuple[float, ...], repeats: int) -> None:
    """Measure speed as ratios within one run: the scan backends, or the block around them."""
    from bsm.study.bench import model, scan
    from bsm.study.records import plain, write_result

    if subject == "scan":
        values = {
            "speed": scan.speed(seconds, repeats=repeats),
            "memory": scan.memory(seconds),
            "scaling": scan.scaling(repeats=repeats),
            "matmul_share": scan.matmul_share(repeats=repeats),
            "directions": scan.directions(repeats=repeats),
        }
    else:
        values = {"conv": model.conv(seconds, repeats=repeats), "block": model.block(repeats=repeats)}
    if output:
        write_result(
            output,
            measured=f"speed and memory: {subject}",
            parameters={"seconds": seconds, "repeats": repeats},
            values=values,
            data="random inputs, official initial values",
        )
    click.echo(json.dumps(plain(values), indent=2))


@cli.command()
@click.argument("notebook")
@click.option("--profile", default="demo", show_default=True)
@click.option("-p", "--parameter", "parameters", nargs=2, multiple=True, help="Name and YAML value; may be repeated.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Executed notebook; under reports/ by default.")
def study(notebook: str, profile: str, parameters: tuple[tuple[str, str], ...], output: Path | None) -> None:
    """Execute a NOTEBOOK of notebooks/ with a profile's parameters and any others given."""
    import yaml

    from bsm.study.notebooks import NotebookFailed, run_notebook

    output = output or Path("reports") / Path(profile).stem / "notebooks" / f"{Path(notebook).stem}.ipynb"
    try:
        values = {name: yaml.safe_load(text) for name, text in parameters}
    except yaml.YAMLError as error:
        raise InputError(f"a parameter's value is not YAML: {error}") from error
    try:
        run_notebook(notebook, output, profile=profile, parameters=values)
    except NotebookFailed as error:
        raise click.ClickException(str(error)) from error
    click.echo(output)


@cli.command()
@click.argument("profile", default="demo")
def readme(profile: str) -> None:
    """Refresh the README's tables from a PROFILE's reports."""
    from bsm.study.profiles import Profile
    from bsm.study.report import refresh_readme

    click.echo("README.md refreshed" if refresh_readme(Profile.load(profile)) else "README.md is up to date")


@cli.group()
def weights() -> None:
    """Weights that have a name: list them, fetch them, tell where they are."""


@weights.command("list")
def weights_list() -> None:
    """List the named weights, their licences, and which are here."""
    from bsm.weights import entries

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
    from bsm.weights import entry, fetch

    wanted = entry(name)
    click.echo(f"licence of {name!r}: {wanted.licence}" + (f"\n{wanted.note}" if wanted.note else ""), err=True)
    click.echo(fetch(name, source))


@weights.command("path")
@click.argument("name")
def weights_path(name: str) -> None:
    """Print where the weights NAME are, for other programs; an error where they are not here."""
    from bsm.weights import entry, locate

    entry(name)  # a name, not a path
    click.echo(locate(name))
