"""Options that several commands share, as click decorators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


def combine(*options: Callable) -> Callable:
    """Return one decorator that adds several options to a command, in the given order."""

    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def device_option(default: str = "auto", choices: tuple[str, ...] = ()) -> Callable:
    """Return the option ``--device``. It checks that the device works, and passes its name on."""

    def check(_: click.Context, __: click.Parameter, name: str) -> str:
        from bsm.devices import choose_device  # slow to import

        return choose_device(name)

    kind: dict[str, Any] = (
        {"type": click.Choice(choices), "help": "Device."} if choices else {"help": "Device: auto, cpu or cuda."}
    )
    return click.option("--device", default=default, callback=check, **kind)


def seconds(text: str) -> float:
    """Parse a time in seconds, above 0 and at most a day. NaN is refused, too."""
    value = float(text)
    if not 0 < value <= 86400:
        raise ValueError
    return value
