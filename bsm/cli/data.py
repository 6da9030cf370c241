"""``bsm data``."""

from __future__ import annotations

import click


@click.command()
@click.argument("profile", default="demo")
def data(profile: str) -> None:
    """Make or fetch the data of a PROFILE, and check them."""
    from bsm.study.profiles import Profile

    Profile.load(profile).prepare_data()
