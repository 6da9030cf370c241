"""Command line ``bsm``, with one module per subject. Commands parse options, call the package and print."""

from __future__ import annotations

import logging
import os
import sys

import click

from bsm import __version__
from bsm.cli.bench import bench, plan
from bsm.cli.claims import claims
from bsm.cli.data import data, weights
from bsm.cli.models import evaluate, regions, separate
from bsm.cli.study import campaign, cue_gap, provenance, readme, repeat, study
from bsm.cli.train import train
from bsm.errors import BackendUnavailable, InputError, lacks_memory


def main() -> None:
    """Run the command line.

    An error that the user can correct is printed as one line, with exit status 2. A study or training that fails prints
    one line, with exit status 1. Characters that the console cannot print are escaped.
    """
    if not sys.stderr.isatty():  # in a log, a progress bar writes a line every 30 s; notebooks inherit this setting
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        cli(prog_name="bsm", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()
        else:
            context = getattr(error, "ctx", None)
            _complain(error.format_message(), context.command_path if context else "bsm")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (InputError, BackendUnavailable, OSError) as error:
        _complain(str(error))
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        _complain("the memory is too small for this; choose smaller sizes or lengths")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "bsm").partition(".")[0] == "bsm":
            raise
        _complain(f"the package {error.name} is missing; install the study's: pip install 'bsm[study]', or make env")
        sys.exit(2)
    except FloatingPointError as error:
        _complain(str(error))
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("bsm: interrupted", err=True)
        sys.exit(130)


def _complain(message: str, who: str = "bsm") -> None:
    """Print an error as one line."""
    click.echo(f"{who}: {' '.join(message.split())}", err=True)


@click.group(context_settings={"show_default": True})
@click.version_option(__version__)
def cli() -> None:
    """Separate vocals with BSMamba2, and reproduce the study of it."""


for _command in (data, train, separate, evaluate, regions, cue_gap, bench, plan, study, campaign):
    cli.add_command(_command)
for _command in (readme, claims, provenance, repeat, weights):
    cli.add_command(_command)
