"""``bsm bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
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
