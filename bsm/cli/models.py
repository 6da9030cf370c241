"""``bsm separate``, ``bsm evaluate`` and ``bsm regions``: use a trained model, and score estimates."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from bsm.cli.options import COUNT, PATH, combine, device_option


def _set_threads(_: click.Context, __: click.Parameter, threads: int | None) -> None:
    if threads:
        import torch  # slow to import

        torch.set_num_threads(threads)


separation_options = combine(
    click.option("--weights", help="File or name of weights.  [default: the small model in the package]"),
    click.option("--window", default=8.0, help="Seconds that the model sees at a time."),
    click.option("--hop", type=float, help="Seconds from window to window.  [default: no overlap]"),
    click.option("--whole", is_flag=True, help="Separate each song in one pass instead of windows."),
    click.option("--batch-size", type=COUNT, default=1, help="Windows per forward pass."),
    device_option(),
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),  # far more cannot be started
        callback=_set_threads,
        expose_value=False,
        help="CPU threads of the model.  [default: PyTorch's choice]",
    ),
)


@click.command()
@click.argument("songs", nargs=-1, required=True, type=PATH)
@separation_options
@click.option("-o", "--output", type=PATH, help="Folder of the outputs.  [default: the song's folder]")
@click.option(
    "--subtype",
    type=click.Choice(["FLOAT", "PCM_16", "PCM_24"]),
    default="FLOAT",
    help="Sample format. If PCM would clip, one gain lowers both outputs, and a warning states it.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--skip-existing", is_flag=True, help="Skip songs whose two outputs exist.")
@click.option("-v", "--verbose", is_flag=True, help="Log the implementations in use.")
def separate(
    songs: tuple[Path, ...],
    weights: str | None,
    output: Path | None,
    overwrite: bool,
    skip_existing: bool,
    device: str,
    verbose: bool,
    **options: Any,
) -> None:
    """Separate songs into vocals and accompaniment.

    Each of SONGS gives SONG.vocals.wav and SONG.accompaniment.wav (mixture - vocals), with its rate, channels and
    length. Of a folder, each audio file is separated, except earlier outputs.
    Existing files are replaced with --overwrite only; a file in SONGS is never replaced. The command stops at the first
    song that it cannot separate, and keeps the outputs of earlier songs. Repeat it with --skip-existing to continue.
    If a folder has audio or video files that cannot be read, they are named, and the exit status is 2.
    """
    from bsm import audio
    from bsm.inference import check_channels, check_windows, find_songs, plan_outputs, separate_file
    from bsm.weights.files import load_model

    if not verbose:
        logging.getLogger("bsm").setLevel(logging.WARNING)
    check_windows(options["window"], options["hop"], whole=options["whole"])
    found, left_out = find_songs(songs)
    targets = plan_outputs(found, output, overwrite=overwrite, skip_existing=skip_existing)
    model = load_model(_find_weights(weights)).to(device)
    for song in targets:
        check_channels(audio.info(song).channels, model.config.channels, song)
    for number, (song, paths) in enumerate(targets.items(), 1):
        label = f"{number}/{len(targets)} {song.name}" if len(targets) > 1 else song.name
        separate_file(model, song, paths, progress=label if sys.stderr.isatty() else False, **options)
        for path in paths:
            click.echo(bytes(path))  # bytes, because a name need not be UTF-8
    if left_out:  # named in the log
        sys.exit(2)


@click.command()
@separation_options
@click.option("--data", "root", type=PATH, required=True, help="Folder of songs, or of a known data set.")
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test", help="Songs to score.")
@click.option("--processes", type=COUNT, default=2, help="Number of scoring processes.")
@click.option("--skip-bad", is_flag=True, help="Skip songs that are damaged or incomplete, and name them.")
@click.option(
    "-o", "--output", type=PATH, help="Result file (JSON).  [default: runs/evaluate/WEIGHTS-DATA-SETTINGS.json]"
)
def evaluate(weights: str | None, **options: Any) -> None:
    """Score a model on a data set.

    The scores are uSDR, cSDR, SI-SDR, bleedless and fullness, per track and over tracks. DATA holds one folder per song
    (<song>/vocals.wav and the other sources), or is MUSDB18-HQ, MUSDB18, its 7 s sample or MIR-1K. The command stops at
    the first bad song. With --skip-bad it reads every song first, and skips and names the bad ones. Each track's scores
    are kept in RESULT.tracks.jsonl as soon as they are known. The same command again scores only the missing tracks. A
    result file named with -o is refused if it holds the scores of other settings.
    """
    from bsm.study.evaluation import COLUMNS, evaluate_weights

    found = evaluate_weights(_find_weights(weights), **options)
    click.echo(found.table.to_string(float_format="%.2f"))
    click.echo(f"{COLUMNS}\nwritten to {found.result}", err=True)
    if found.skipped:
        click.echo(f"skipped, not scored: {', '.join(found.skipped)}", err=True)


@click.command()
@click.argument("references", type=click.Path(path_type=Path, exists=True))
@click.argument("estimates", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--name", "names", multiple=True, help="Name of a system, once for each.  [default: its folder's]")
@click.option(
    "--threshold-db",
    default=-40.0,
    type=click.FloatRange(max=0),
    help="Level above which a voice counts as singing, dB relative to the loudest frames.",
)
@click.option(
    "-o", "--output", type=PATH, default=Path("regions.json"), help="Result file; the figure is written next to it."
)
def regions(
    references: Path, estimates: tuple[Path, ...], names: tuple[str, ...], threshold_db: float, output: Path
) -> None:
    """Score any system's estimated vocals by vocal region.

    The scores are SDR, by the region's duration and by the gap before it, and leakage outside the regions. REFERENCES
    is a data set, a folder of songs, or one song's folder. ESTIMATES is a folder of one system's files, or one file.
    If there are several systems, the first is compared with each of the others. Intervals are clustered by song.
    """
    from bsm.study.estimates import score_regions
    from bsm.study.records import check_result_path

    names = names or tuple(path.stem if path.is_file() else path.name for path in estimates)
    if len(set(names)) != len(estimates):
        raise click.UsageError(f"{len(estimates)} systems need as many different names; give --name once for each")
    check_result_path(output)
    click.echo(score_regions(references, dict(zip(names, estimates, strict=True)), output, threshold_db=threshold_db))
    click.echo(f"written to {output} and {output.with_suffix('.png')}", err=True)


def _find_weights(path_or_name: str | None) -> Path:
    """Return the file of weights; print what named weights are, and their licence."""
    from bsm.weights.registry import entry, locate

    if path_or_name is None:
        path_or_name = "demo"
        click.echo(f"weights 'demo': {entry('demo').title}; name others with --weights", err=True)
    path = locate(path_or_name)
    if path != Path(path_or_name):
        click.echo(entry(path_or_name).terms, err=True)
    return path
