"""``bsm data`` and ``bsm weights``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsm.cli.options import PATH

if TYPE_CHECKING:
    from bsm.data.registry import Entry


@click.group()
def data() -> None:
    """List, fetch, verify, describe and prepare data."""


def show(entry: Entry) -> None:
    """Print the entry of a data set or of weights in a list."""
    sizes = [file.size for file in entry.files]
    size = f", {sum(sizes) / 1e6:,.0f} MB to fetch" if sizes and None not in sizes else ""
    click.echo(f"{entry.name}: {entry.title}\n  {entry.state}{size}: {entry.place}\n  licence: {entry.licence}")
    for more in (f"made by: {entry.made_by}" if entry.made_by else entry.source, entry.note):
        if more:
            click.echo(f"  {more}")


@data.command("list")
def data_list() -> None:
    """List the known data sets, their licences, and which are here."""
    from bsm.data import registry

    for name in registry.names():
        show(registry.load(name))


@data.command("fetch")
@click.argument("name")
@click.option("--from", "source", help="Another address of the file, or a local path.")
def data_fetch(name: str, source: str | None) -> None:
    """Fetch the data set NAME into data/NAME: download, check, unpack.

    After an interruption, the same command continues the download.
    """
    from bsm.data.fetch import fetch
    from bsm.data.registry import load

    click.echo(load(name).terms, err=True)
    click.echo(fetch(name, source))
    click.echo(f"check it once: bsm data verify {name}", err=True)


@data.command("verify")
@click.argument("name_or_path")
@click.option(
    "--fill",
    is_flag=True,
    help="Write measured sizes and checksums into the manifest where it marks them as unverified.",
)
def data_verify(name_or_path: str, fill: bool) -> None:
    """Read a data set or a folder of songs, and print every fault.

    Every file is read to its end. The exit status is 1 if there is a fault. Faults are missing and unknown songs;
    missing, damaged and truncated files; wrong rates; unequal lengths; NaN; silent vocals; and mixtures that are not
    the sum of their sources.
    """
    from bsm.data.check import verify

    found = verify(name_or_path, fill=fill)
    for finding in found:
        click.echo(finding if finding.fault else f"note: {finding}")
    faults = sum(finding.fault for finding in found)
    click.echo(f"{name_or_path}: {f'{faults} fault(s)' if faults else 'no fault found'}")
    if faults:
        raise SystemExit(1)


@data.command("describe")
@click.argument("name_or_path")
def data_describe(name_or_path: str) -> None:
    """Print a table of the tracks of a data set or folder."""
    from bsm.data.describe import table

    click.echo(table(name_or_path).to_string(index=False, float_format="%.2f"))


@data.command("prepare")
@click.argument("profile", default="demo")
def data_prepare(profile: str) -> None:
    """Make or fetch the data of a PROFILE, and check them."""
    from bsm.study.profiles import Profile

    Profile.load(profile).prepare_data()


@click.group()
def weights() -> None:
    """List, fetch, locate and convert weights."""


@weights.command("list")
def weights_list() -> None:
    """List the named weights, their licences, and which are here."""
    from bsm.weights.registry import entries

    for entry in entries().values():
        show(entry)


@weights.command("fetch")
@click.argument("name")
@click.option("--from", "source", help="Another address of the file, or a local path.")
def weights_fetch(name: str, source: str | None) -> None:
    """Fetch the weights NAME into the cache, and check them.

    The cache is the folder BSM_CACHE, or the platform's cache. Size and SHA-256 are checked. After an interruption, the
    same command continues the download.
    """
    from bsm.weights.registry import entry, fetch

    click.echo(entry(name).terms, err=True)
    click.echo(fetch(name, source))


@weights.command("path")
@click.argument("name")
def weights_path(name: str) -> None:
    """Print the path of the weights NAME, if they are here."""
    from bsm.weights.registry import entry, locate

    entry(name)  # a name, not a path
    click.echo(locate(name))


@weights.command("convert")
@click.argument("source")
@click.argument("target", type=PATH)
@click.option("--config", type=PATH, help="YAML file that belongs to a checkpoint of Music-Source-Separation-Training.")
def weights_convert(source: str, target: Path, config: Path | None) -> None:
    """Convert weights to or from Music-Source-Separation-Training.

    SOURCE is a file, a folder of a run, or a name. If TARGET ends in .safetensors, it has the layout of bsm, and a JSON
    file describes it. If TARGET ends in .ckpt, it is for that project's inference.py, and a YAML file goes with it. A
    network that the other project cannot build is refused, with the name of each field.
    """
    from bsm.weights.msst import convert

    for path in convert(source, target, config):
        click.echo(path)
