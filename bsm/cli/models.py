"""``bsm separate`` and ``bsm evaluate``: what a trained model is for."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from typing import Any

import click

from bsm import __version__
from bsm.errors import InputError


@click.command()
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
@click.option("--overwrite", is_flag=True, help="Replace files of these names that are there already.")
@click.option("--skip-existing", is_flag=True, help="Leave out songs whose two files are there already.")
@click.option("-v", "--verbose", is_flag=True, help="Say which implementations are used.")
def separate(
    songs: tuple[Path, ...],
    weights: Path | None,
    output: Path | None,
    overwrite: bool,
    skip_existing: bool,
    device: str,
    threads: int | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Write SONG.vocals.wav and SONG.accompaniment.wav (mixture - vocals) for each of SONGS.

    A folder stands for the audio files right inside it, but for SONG.vocals.wav and SONG.accompaniment.wav of a song
    that is in it, too: those are taken for what this command wrote, passed over, and named. A file that is there
    already is replaced with --overwrite only; one of SONGS, never. Rate, channels and length are the song's; samples
    are 32-bit float by default, so that nothing clips. Songs are taken in the order given; the first that cannot be
    separated ends the command, and what was written for those before it stays: --skip-existing goes on after them.
    """
    from bsm.inference import check_windows, find_songs, plan_outputs, separate_file
    from bsm.weights.files import load_model

    device = _device(device, threads)
    if not verbose:
        logging.getLogger("bsm").setLevel(logging.WARNING)
    check_windows(options["window"], options["hop"], whole=options["whole"])
    targets = plan_outputs(find_songs(songs), output, overwrite=overwrite, skip_existing=skip_existing)
    model = load_model(_find_weights(weights)).to(device)
    for number, (song, paths) in enumerate(targets.items(), 1):
        label = f"{number}/{len(targets)} {song.name}" if len(targets) > 1 else song.name
        separate_file(model, song, paths, progress=label if sys.stderr.isatty() else False, **options)
        for path in paths:
            click.echo(bytes(path))  # as it is: a name need not be UTF-8


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


def _find_weights(weights: Path | None) -> Path:
    """Return the file at a path or of a name, by default the demo profile's model; say the licence of a named one."""
    from bsm.weights.registry import entry, locate

    path = locate(weights or _default_weights())
    if weights and path != weights:  # a name
        click.echo(entry(str(weights)).terms, err=True)
    return path


def _default_weights() -> Path:
    from bsm.study.profiles import Profile

    settings = Profile.load("demo")
    return settings.run_folder(settings.seed) / "model.safetensors"


def _result_file(weights: Path, data: Path, settings: dict[str, Any]) -> Path:
    """Name an evaluation's result file: the same settings, the same file."""
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    return Path("runs/evaluate") / f"{weights.stem}-{data.resolve().name}-{digest}.json"


@click.command()
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
@click.option("--skip-bad", is_flag=True, help="Leave out songs that are damaged or incomplete, and name them.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Result file (JSON); by default runs/evaluate/WEIGHTS-DATA-SETTINGS.json.",
)
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
    skip_bad: bool,
    output: Path | None,
) -> None:
    """Score a model on a data set: uSDR, cSDR, SI-SDR, bleedless and fullness per track, and over tracks.

    DATA holds one folder per song (<song>/vocals.wav and the rest), or is MUSDB18-HQ, MUSDB18, its 7 s sample, or
    MIR-1K. The first bad song ends the command; with --skip-bad every song is read through first, and the bad ones are
    named and left out. Each track's scores are kept beside the result as they come (RESULT.tracks.jsonl): the same
    command again scores only what is missing. Without -o the result file is named after weights, data and a checksum of
    all settings; with -o, other settings are refused for the same file.
    """
    import numpy as np
    import pandas as pd

    from bsm.data.layouts import open_tracks
    from bsm.data.musdb18 import need_ffmpeg
    from bsm.evaluate import METRICS, Journal, fingerprint, model_separator
    from bsm.evaluate import evaluate as run_evaluation
    from bsm.files import check_writable, sha256
    from bsm.inference import check_windows
    from bsm.study.published import published_songs
    from bsm.study.records import mark, write_result
    from bsm.study.stats import bootstrap_interval, summary
    from bsm.versions import SCORING
    from bsm.weights.files import load_model

    started = mark()
    device = _device(device, threads)
    check_windows(window, hop, whole=whole)
    skipped: dict[str, str] = {}
    layout, tracks = open_tracks(root, split, skipped=skipped if skip_bad else None)
    path = _find_weights(weights)
    model = load_model(path).to(device)
    hop = window if hop is None else hop
    settings: dict[str, Any] = {"bsm": __version__, "scoring": SCORING, "weights_sha256": sha256(path)}
    settings |= {"layout": layout, "split": split}
    settings |= {"files": fingerprint(tracks)} | ({"whole": True} if whole else {"window": window, "hop": hop})
    output = output or _result_file(path, root, settings)
    journal = Journal(output.with_suffix(".tracks.jsonl"), settings)
    check_writable(output, journal.path)
    need_ffmpeg("cSDR needs")
    separator = model_separator(model, window=window, hop=hop, whole=whole, batch_size=batch_size)
    records = run_evaluation(tracks, {"model": separator}, processes=processes, journal=journal)
    rows = {}
    for name in METRICS:
        values = [record[name] for record in records]
        median = bootstrap_interval(values, np.median)
        rows[name] = summary(values) | {"median_low": median.low, "median_high": median.high}
    write_result(
        output,
        measured="scores per track: uSDR, cSDR, SI-SDR in dB, bleedless and fullness from 0 to 100",
        parameters=settings | {"weights": str(path), "skipped": skipped, "device": device},
        values=records,
        data=f"{layout}, {split}" if layout != "songs" else str(root),
        started=started,
        inputs=[root],
        comparable_with_paper=(split, whole, window, hop) == ("test", False, 8.0, 8.0)
        and published_songs(layout, tracks)
        and not skipped,
        summary=rows,
    )
    click.echo(pd.DataFrame(rows).T.astype({"n": int, "dropped": int}).to_string(float_format="%.2f"))
    intervals = "low, high: bootstrap 95 % interval of the mean over tracks; median_low, median_high: of the median"
    click.echo(f"{intervals}; std: of the sample\nwritten to {output}", err=True)
    if skipped:
        click.echo(f"skipped, not scored: {', '.join(skipped)}", err=True)
