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
@click.option("--weights", type=click.Path(path_type=Path), help="File or name; default: the demo profile's model.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder; beside each song by default.")
@click.option("--window", default=8.0, show_default=True, help="Seconds the model sees at a time.")
@click.option("--hop", type=float, help="Seconds from window to window; no overlap by default.")
@click.option("--whole", is_flag=True, help="One pass over the whole song instead of windows.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Windows at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; PyTorch's choice by default.")
@click.option(
    "--subtype",
    type=click.Choice(["FLOAT", "PCM_16", "PCM_24"]),
    default="FLOAT",
    show_default=True,
    help="Sample format; where PCM would clip, both files are turned down by one gain, and it is said.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say which implementations are used.")
def separate(
    songs: tuple[Path, ...],
    weights: Path | None,
    output: Path | None,
    device: str,
    threads: int | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Write SONG.vocals.wav and SONG.accompaniment.wav (mixture - vocals) for each of SONGS.

    A folder stands for the audio files right inside it. Rate, channels and length are the song's; samples are 32-bit
    float by default, so that nothing clips. Songs are taken in the order given; the first that cannot be separated ends
    the command, and what was written for those before it stays.
    """
    from bsm.checkpoint import load_model
    from bsm.separate import find_songs, plan_outputs, separate_file

    device = _device(device, threads)
    if not verbose:
        logging.getLogger("bsm").setLevel(logging.WARNING)
    targets = plan_outputs(find_songs(songs), output)
    model = load_model(weights or _default_weights()).to(device)
    for number, (song, paths) in enumerate(targets.items(), 1):
        label = f"{number}/{len(targets)} {song.name}" if len(targets) > 1 else song.name
        separate_file(model, song, paths, progress=label if sys.stderr.isatty() else False, **options)
        for path in paths:
            click.echo(path)


def _device(name: str, threads: int | None) -> str:
    """Return the device to compute on, and set PyTorch's CPU threads.

    Raises:
        InputError: a device that is not here.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r} is not here; use --device cpu") from error
    return name


def _default_weights() -> Path:
    from bsm.study.profiles import Profile

    settings = Profile.load("demo")
    return settings.run_folder(settings.seed) / "model.safetensors"


@cli.command()
@click.option("--weights", type=click.Path(path_type=Path), help="File or name; default: the demo profile's model.")
@click.option("--data", "root", type=click.Path(path_type=Path), required=True, help="Folder of songs, or MUSDB18.")
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", show_default=True)
@click.option("--window", default=8.0, show_default=True, help="Seconds the model sees at a time.")
@click.option("--hop", type=float, help="Seconds from window to window; no overlap by default.")
@click.option("--whole", is_flag=True, help="One pass over each whole song instead of windows.")
@click.option("--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Windows at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of separation; PyTorch's choice by default.")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="That score.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Result file (JSON).")
def evaluate(
    weights: Path | None,
    root: Path,
    split: str,
    window: float,
    hop: float | None,
    whole: bool,
    batch_size: int,
    device: str,
    threads: int | None,
    processes: int,
    output: Path | None,
) -> None:
    """Score a model on a data set: uSDR, cSDR, SI-SDR, bleedless and fullness per track, and over tracks.

    DATA holds one folder per song (<song>/vocals.wav and the rest), or is MUSDB18-HQ, MUSDB18 or its 7 s sample. With
    -o, each track's scores are kept beside the result as they come (RESULT.tracks.jsonl): the same command again scores
    only what is missing; other settings are refused for the same result file.
    """
    import time

    import pandas as pd

    from bsm.checkpoint import load_model
    from bsm.data.musdb18 import open_tracks
    from bsm.evaluate import METRICS, Journal, fingerprint, model_separator
    from bsm.evaluate import evaluate as run_evaluation
    from bsm.files import sha256
    from bsm.study.records import write_result
    from bsm.study.stats import summary
    from bsm.weights import locate

    started = time.time()
    device = _device(device, threads)
    layout, tracks = open_tracks(root, split)
    path = locate(weights or _default_weights())
    model = load_model(path).to(device)
    hop = window if hop is None else hop
    settings: dict[str, Any] = {"bsm": __version__, "weights_sha256": sha256(path), "layout": layout, "split": split}
    settings |= {"files": fingerprint(tracks)} | ({"whole": True} if whole else {"window": window, "hop": hop})
    journal = Journal(output.with_suffix(".tracks.jsonl"), settings) if output else None
    separator = model_separator(model, window=window, hop=hop, whole=whole, batch_size=batch_size)
    records = run_evaluation(tracks, {"model": separator}, processes=processes, journal=journal)
    rows = {name: summary([record[name] for record in records]) for name in METRICS}
    if output:
        write_result(
            output,
            measured="scores per track: uSDR, cSDR, SI-SDR in dB, bleedless and fullness from 0 to 100",
            parameters=settings | {"weights": str(path)},
            values=records,
            data=f"{layout}, {split}" if layout != "songs" else str(root),
            started=started,
            comparable_with_paper=(layout, split, whole, window, hop) == ("MUSDB18-HQ", "test", False, 8.0, 8.0),
            summary=rows,
        )
    click.echo(pd.DataFrame(rows).T.astype({"n": int, "dropped": int}).to_string(float_format="%.2f"))
    click.echo("low, high: bootstrap 95 % interval of the mean over tracks; std: of the sample", err=True)


@cli.command()
@click.argument("subject", type=click.Choice(["scan", "block", "model"]))
@click.option("--json", "output", type=click.Path(path_type=Path), help="Result file.")
@click.option(
    "--seconds",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the audio; may be repeated. Default: 1, 4 and 8; for model, 8 and 16.",
)
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--preset", default="paper", show_default=True, help="Of model: the size.")
@click.option(
    "--profile-seconds",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    default=(8.0,),
    show_default=True,
    help="Of model: length whose costs are listed by operation; may be repeated.",
)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1), help="Of model: CPU threads.")
def bench(
    subject: str,
    output: Path | None,
    seconds: tuple[float, ...],
    repeats: int,
    preset: str,
    profile_seconds: tuple[float, ...],
    threads: int,
) -> None:
    """Measure speed as ratios within one run: scan backends, the block around them, or the model beside BS-RoFormer."""
    import time

    from bsm.study.bench import model, scan
    from bsm.study.records import plain, write_result

    started = time.time()
    seconds = seconds or ((8.0, 16.0) if subject == "model" else (1.0, 4.0, 8.0))
    parameters: dict[str, Any] = {"seconds": seconds, "repeats": repeats}
    if subject == "scan":
        values = {
            "speed": scan.speed(seconds, repeats=repeats),
            "memory": scan.memory(seconds),
            "scaling": scan.scaling(repeats=repeats),
            "matmul_share": scan.matmul_share(repeats=repeats),
            "directions": scan.directions(repeats=repeats),
        }
    elif subject == "block":
        values = {"conv": model.conv(seconds, repeats=repeats), "block": model.block(repeats=repeats)}
    else:
        from bsm.study.bench.separation import separation

        options = {"preset": preset, "threads": threads, "profile_seconds": profile_seconds}
        values = separation(seconds, repeats=repeats, **options)
        parameters |= options
    if output:
        write_result(
            output,
            measured=f"speed and memory: {subject}",
            parameters=parameters,
            values=values,
            started=started,
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
