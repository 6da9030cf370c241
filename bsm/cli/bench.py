"""``bsm bench`` and ``bsm plan``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from bsm.cli.options import COUNT, PATH, combine, device_option, seconds

_preset = click.option("--preset", default="paper", help="Size of the network.")
_device = device_option("cpu", ("cpu", "cuda"))


def _seconds(name: str, default: tuple[float, ...], text: str) -> Callable:
    return click.option(name, multiple=True, type=seconds, default=default, help=text)


def _shared(*seconds: float, repeats: int = 3) -> Callable:
    """Return a decorator that adds the options that subcommands share, with a subcommand's own defaults."""
    return combine(
        click.option("--json", "output", type=PATH, help="Result file."),
        _seconds("--seconds", seconds, "Length of the audio, s; may be repeated."),
        click.option("--repeats", type=COUNT, default=repeats, help="Number of rounds."),
    )


@click.group()
def bench() -> None:
    """Measure speed and memory. Cases that are compared take turns within one run."""


@bench.command("scan")
@_shared(1.0, 4.0, 8.0)
@_device
def bench_scan(output: Path | None, **options: Any) -> None:
    """Measure the scan backends: error, time and memory."""
    from bsm.study.speed import scan

    _run("scan", output, options, lambda: scan.measure(**options))


@bench.command("block")
@_shared(1.0, 4.0, 8.0)
@_device
def bench_block(output: Path | None, **options: Any) -> None:
    """Measure the convolution backends and one block of the network."""
    from bsm.study.speed import blocks

    _run("block", output, options, lambda: blocks.measure(**options))


@bench.command("model")
@_shared(8.0, 16.0)
@_preset
@_seconds("--profile-seconds", (8.0,), "Length of the audio, s, for the list of costs by operation; may be repeated.")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(["BSMamba2", "BS-RoFormer"]),
    default=("BSMamba2", "BS-RoFormer"),
    help="Network; may be repeated. Measure one alone if the other runs out of memory.",
)
@click.option("--threads", default=2, type=COUNT, help="CPU threads.")
def bench_model(output: Path | None, **options: Any) -> None:
    """Compare whole networks on the CPU: BSMamba2 and BS-RoFormer."""
    from bsm.study.speed.model import separation

    _run("model", output, options, lambda: separation(**options))


@bench.command("step")
@_shared(1.0)
@click.option("--preset", help="Size of the network.  [default: paper; with --against, all that it compares]")
@click.option("--batch", default=1, type=COUNT, help="Segments per batch.")
@click.option(
    "--precision", default="32-true", type=click.Choice(["32-true", "bf16-mixed"]), help="Precision of the training."
)
@_device
@click.option(
    "--against",
    type=PATH,
    help="Checkout of another revision: compare steps of both on the CPU, with fixed batches and lengths.",
)
def bench_step(output: Path | None, against: Path | None, **options: Any) -> None:
    """Measure a training step part by part.

    With --against, compare the steps of two revisions instead.
    """
    if against:
        from bsm.study.speed import against as compare

        preset, repeats = options["preset"], options["repeats"]
        pairs = compare.cases([preset] if preset else compare.SIZES)
        settings = {"against": against, "preset": preset, "repeats": repeats, "device": "cpu"}
        values = _run(
            "steps of two revisions", output, settings, lambda: compare.measure(against, pairs, repeats=repeats)
        )
        click.echo(compare.table(values).to_string(index=False, float_format="%.1f"), err=True)
        return
    from bsm.study.step_profile import measure

    preset, spans = options["preset"] or "paper", options.pop("seconds")
    options |= {"preset": preset, "seconds": spans[0], "sizes": [(preset, span, options["batch"]) for span in spans]}
    _run("step", output, options, lambda: measure(**options))


@bench.command("gpu")
@click.argument("parts", nargs=-1)
@click.option("--deadline", type=seconds, help="Time for all parts, s.  [default: 8 minutes]")
def bench_gpu(parts: tuple[str, ...], deadline: float | None) -> None:
    """Measure what needs a GPU.

    Each of PARTS, by default all, runs in a process of its own. A part's result is saved in reports/gpu/results when
    the part ends. The exit status is 1 if a part failed.
    """
    from bsm.study import gpu
    from bsm.study.figures import table_markdown

    wanted = gpu.chosen(parts)
    gpu.check()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # exiting also ends the process of the running part
    outcomes = gpu.run(wanted, deadline=deadline or gpu.DEADLINE)
    caption = "Results are in reports/gpu/results; `bsm claims render` judges them"
    click.echo(table_markdown(gpu.table(outcomes), caption=caption))
    if any(outcome.status in (gpu.FAILED, gpu.STOPPED) for outcome in outcomes):
        sys.exit(1)


@bench.command("data")
@_shared(1.0, repeats=9)
@click.option("--data", "root", type=PATH, help="Folder of a data set.  [default: the demo profile's songs]")
def bench_data(root: Path | None, output: Path | None, **options: Any) -> None:
    """Measure the loading of training segments on the CPU."""
    from bsm.data.layouts import open_tracks
    from bsm.study.profiles import default_songs
    from bsm.study.speed.data import loading

    root = root or default_songs()
    layout, tracks = open_tracks(root, "train")
    source = str(root) if layout == "songs" else layout
    _run("data", output, options, lambda: loading(tracks, **options), data=source, inputs=[root])


def _run(
    subject: str,
    output: Path | None,
    parameters: dict[str, Any],
    measure: Callable[[], Any],
    *,
    data: str = "random inputs, official initial values",
    inputs: Iterable[Path] = (),
) -> Any:
    """Measure, print the values, write the result file if ``output`` names one, and return the values."""
    from bsm.files import check_writable
    from bsm.study.records import mark, plain, write_result
    from bsm.study.speed.timer import SEED

    started = mark()
    if output:
        check_writable(output)
    values = measure()
    click.echo(json.dumps(plain(values), indent=2))  # before writing: if that fails, the values are not lost
    if output:
        write_result(
            output,
            measured=f"speed and memory: {subject}",
            parameters=parameters,
            values=values,
            seed=SEED,
            started=started,
            data=data,
            inputs=inputs,
        )
    return values


@click.command()
@_preset
@click.option("--device", default="cpu", type=click.Choice(["cpu", "cuda"]), help="Device of the measured steps.")
@click.option(
    "--from",
    "source",
    type=PATH,
    help="Result of `bsm bench step --json`.  [default: the closest match under reports/]",
)
@click.option("--profile", default="demo", help="Profile whose training is planned, too.")
def plan(preset: str, device: str, source: Path | None, profile: str) -> None:
    """Predict hours and memory of trainings.

    The prediction extrapolates from measured steps, and names them. It covers the paper's training and the
    100 epochs of the unofficial implementation's documents, both at the size --preset, and the training of --profile.
    """
    from bsm.config import ModelConfig
    from bsm.study.profiles import Profile

    ModelConfig.preset(preset)
    settings = Profile.load(profile)
    from bsm.study.figures import table_markdown
    from bsm.study.speed import plan as study  # slow to import: a wrong name is reported first

    table, sources = study.plan(study.works(preset, settings), source, device)
    click.echo(table_markdown(table, caption=" ".join(sources), digits=1))
