"""``bsm data``."""

from __future__ import annotations

import click


@click.group()
def data() -> None:
    """Data sets: list, fetch, verify and describe them; make the songs of a profile."""


@data.command("list")
def data_list() -> None:
    """List the known data sets, their licences, and which are here."""
    from bsm.data import fetch, registry

    for name in registry.names():
        known = registry.load(name)
        sizes = [archive.size for archive in known.files]
        size = f", {sum(sizes) / 1e6:,.0f} MB to fetch" if sizes and None not in sizes else ""
        click.echo(f"{name}: {known.title}\n  {fetch.state(known)}{size}: {known.folder}\n  licence: {known.licence}")
        for more in (f"made by: {known.made_by}" if known.made_by else known.source, known.note):
            if more:
                click.echo(f"  {more}")


@data.command("fetch")
@click.argument("name")
@click.option("--from", "source", help="Another address, or a path, to take the file from.")
def data_fetch(name: str, source: str | None) -> None:
    """Fetch the data set NAME into data/NAME: download, check, unpack.

    A download that broke off goes on where it stopped.
    """
    from bsm.data import fetch, registry

    known = registry.load(name)
    click.echo(f"licence of {name!r}: {known.licence}" + (f"\n{known.note}" if known.note else ""), err=True)
    click.echo(fetch.fetch(name, source))
    click.echo(f"read it through once: bsm data verify {name}", err=True)


@data.command("verify")
@click.argument("name_or_path")
@click.option("--fill", is_flag=True, help="Enter measured sizes and checksums into the manifest where unverified.")
def data_verify(name_or_path: str, fill: bool) -> None:
    """Read the data set NAME, or the songs in a folder, to the end; print what is wrong; exit status 1 if anything is.

    Named are missing, unknown, truncated, damaged, silent, wrong-rate and unequal-length files, NaN, songs without
    vocals, and mixtures that are not the sum of their sources.
    """
    from bsm.data.verify import verify

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
    """Print a table of the tracks of the data set NAME, or of a folder."""
    from bsm.data.describe import table

    click.echo(table(name_or_path).to_string(index=False, float_format="%.2f"))


@data.command("prepare")
@click.argument("profile", default="demo")
def data_prepare(profile: str) -> None:
    """Make or fetch the data of a PROFILE, and check them."""
    from bsm.study.profiles import Profile

    Profile.load(profile).prepare_data()
