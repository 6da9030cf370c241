"""``bsm bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("subject", type=click.Choice(["scan", "block", "model", "step", "data"]))
@click.option("--json", "output", type=click.Path(path_type=Path), help="Result file.")
@click.option(
    "--seconds",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Length of the audio; may be repeated. Default: 1, 4 and 8; for model, 8 and 16; for step and data, 1.",
)
@click.option("--repeats", type=click.IntRange(min=1), help="Rounds. Default: 3; for data, 9.")
@click.option("--preset", default="paper", show_default=True, help="Of model and step: the size.")
@click.option(
    "--profile-seconds",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    default=(8.0,),
    show_default=True,
    help="Of model: length whose costs are listed by operation; may be repeated.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(["BSMamba2", "BS-RoFormer"]),
    default=("BSMamba2", "BS-RoFormer"),
    show_default=True,
    help="Of model: which; one alone for a length that the other has no memory for.",
)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1), help="Of model: CPU threads.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(min=1), help="Of step: segments.")
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda"]),
    help="Of scan, block and step; the others measure on the CPU.",
)
@click.option(
    "--precision",
    default="32-true",
    show_default=True,
    type=click.Choice(["32-true", "bf16-mixed"]),
    help="Of step.",
)
@click.option("--compile", "compile_step", is_flag=True, help="Of step: time torch.compile, too, which takes minutes.")
@click.option(
    "--data",
    "root",
    type=click.Path(path_type=Path),
    default=Path("data/demo"),
    show_default=True,
    help="Of data: a data set, of which the training songs are read.",
)
def bench(
    subject: str,
    output: Path | None,
    seconds: tuple[float, ...],
    repeats: int | None,
    preset: str,
    profile_seconds: tuple[float, ...],
    models: tuple[str, ...],
    threads: int,
    batch: int,
    device: str,
    precision: str,
    compile_step: bool,
    root: Path,
) -> None:
    """Measure speed as ratios within one run.

    Scan backends, the block around them, the model beside BS-RoFormer, a training step, or the loading of training
    data.
    """
    import torch

    from bsm.errors import InputError
    from bsm.files import check_writable
    from bsm.study.bench import SEED, model, scan
    from bsm.study.records import mark, plain, write_result

    started = mark()
    if device != "cpu" and subject in ("model", "data"):
        raise click.UsageError(f"'{subject}' is measured on the CPU alone; leave out --device {device}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not here; use --device cpu")
    if output:
        check_writable(output)
    seconds = seconds or {"model": (8.0, 16.0), "step": (1.0,), "data": (1.0,)}.get(subject, (1.0, 4.0, 8.0))
    repeats = repeats or (9 if subject == "data" else 3)
    source = "random inputs, official initial values"
    parameters: dict[str, Any] = {"seconds": seconds, "repeats": repeats}
    if subject == "scan":
        parameters["device"] = device
        values = {
            "speed": scan.speed(seconds, repeats=repeats, device=device),
            "memory": scan.memory(seconds, device=device),
            "scaling": scan.scaling(repeats=repeats, device=device),
            "matmul_share": scan.matmul_share(repeats=repeats, device=device),
            "directions": scan.directions(repeats=repeats, device=device),
        }
    elif subject == "block":
        parameters["device"] = device
        values = {
            "conv": model.conv(seconds, repeats=repeats, device=device),
            "block": model.block(repeats=repeats, device=device),
        }
    elif subject == "step":
        from bsm.study.step_profile import BACKENDS, MEMORY_SECONDS, measure

        options = {"preset": preset, "batch": batch, "precision": precision, "device": device}
        values = measure(
            seconds=seconds[0],
            repeats=repeats,
            sizes=[(preset, span, batch) for span in seconds],
            backends=BACKENDS[device],
            memory_presets=[preset],
            memory_seconds=MEMORY_SECONDS,
            compile_step=compile_step,
            **options,
        )
        parameters |= options
    elif subject == "data":
        from bsm.data.layouts import open_tracks
        from bsm.study.bench.data import loading

        layout, tracks = open_tracks(root, "train")
        source = str(root) if layout == "songs" else layout
        values = loading(tracks, seconds, repeats=repeats)
    else:
        from bsm.study.bench.separation import separation

        options = {"preset": preset, "threads": threads, "profile_seconds": profile_seconds, "models": models}
        values = separation(seconds, repeats=repeats, **options)
        parameters |= options
    click.echo(json.dumps(plain(values), indent=2))  # before the file, which may fail: what took hours is not lost
    if output:
        write_result(
            output,
            measured=f"speed and memory: {subject}",
            parameters=parameters,
            values=values,
            seed=SEED,
            started=started,
            data=source,
            inputs=[root] if subject == "data" else [],
        )
