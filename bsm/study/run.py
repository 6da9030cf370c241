"""Run the study's notebooks with papermill, under a profile of parameters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from bsm.errors import InputError, known
from bsm.files import replacing
from bsm.study.notebook import Notebook
from bsm.study.profiles import load_profile
from bsm.study.records import ROOT, place_of
from bsm.study.saving import results_folder
from bsm.weights import registry as weights

PATHS = ("out", "run", "dataset", "weights")
"""Parameters that hold a path, or a mapping of names to paths."""

log = logging.getLogger(__name__)


class NotebookFailed(RuntimeError):
    """Report that a notebook stopped: in which cell, by which exception, and where its partial copy is."""


def run_notebook(
    name_or_path: str | Path, output: str | Path, *, profile: str | Path, parameters: Mapping[str, Any] | None = None
) -> Path:
    """Execute a notebook in the repository's root; return the path of the executed copy.

    The notebook gets the values of the profile that it declares as parameters; ``parameters`` override them. The kernel
    is ``bsm`` if that is registered, or else ``python3``. After a failure the partial copy is
    ``<output>.failed.ipynb``.

    Raises:
        InputError: no such notebook or profile, or a parameter is not declared or does not fit its default.
        NotebookFailed: a cell raised, or the kernel died.
    """
    source, output = Notebook.find(name_or_path), Path(output).resolve()
    name = source.path.name
    shared = load_profile(profile)
    kernel = "bsm" if "bsm" in KernelSpecManager().find_kernel_specs() else "python3"
    values = source.fitting({k: v for k, v in shared.items() if k in source.parameters}, f"profile {profile}")
    given = {known(f"parameter of {name}:", k, source.parameters): v for k, v in (parameters or {}).items()}
    values |= source.fitting(given, name)
    content = nbformat.read(source.path, as_version=4)
    # papermill needs a kernel and a language, and tools that strip notebooks may remove them
    content.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    failed = output.with_suffix(".failed.ipynb")
    log.info("running %s with the kernel %s and the profile %s", name, kernel, profile)
    with replacing(output) as temporary:
        try:
            executed = papermill.execute_notebook(
                content,
                str(temporary).replace("{", "{{").replace("}", "}}"),  # papermill fills in {names} in paths
                parameters=values,
                kernel_name=kernel,
                language="python",
                progress_bar={"desc": source.name},
                cwd=ROOT,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no warning about local sockets per notebook
            )
        except (PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
            if temporary.stat().st_size:  # a kernel that never started leaves nothing
                with replacing(failed) as partial:
                    nbformat.write(_signed(nbformat.read(temporary, as_version=4), source.path, failed), partial)
            raise NotebookFailed(f"{name} failed {_why(error)}; its partial copy is {failed}") from error
        nbformat.write(_signed(executed, source.path, output), temporary)
    failed.unlink(missing_ok=True)
    return output


def executed_copy(notebook: str, profile: str, values: Mapping[str, Any]) -> Path:
    """Return the default path of an executed notebook, in the folder of its results."""
    found = Notebook.find(notebook)
    out = results_folder(found, values) or ROOT / "reports" / Path(profile).stem
    return Path(out) / "notebooks" / f"{found.name}.ipynb"


def read_parameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse parameters written in YAML; make paths absolute, since the kernel runs in another folder.

    Raises:
        InputError: A value is not YAML.
    """
    try:
        values = {name: yaml.safe_load(text) for name, text in texts.items()}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"a parameter's value is not YAML: {error}") from error
    return {name: _absolute(name, value) if name in PATHS else value for name, value in values.items()}


def _absolute(parameter: str, value: Any) -> Any:
    """Make a path, or each path of a mapping, absolute; return names of weights and other values unchanged."""
    if isinstance(value, dict):
        return {name: _absolute(parameter, path) for name, path in value.items()}
    if not value or not isinstance(value, str) or (parameter == "weights" and value in weights.entries()):
        return value
    return str(Path(value).absolute())


def _signed(notebook: nbformat.NotebookNode, source: Path, output: Path) -> nbformat.NotebookNode:
    """Name source and output in the metadata, where papermill has put the whole notebook and a temporary file."""
    notebook.metadata["papermill"].update(input_path=place_of(source), output_path=place_of(output))
    return notebook


def _why(error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        message = f"{error.ename}: {error.evalue}".strip(": ")
        line = next(iter(error.source.strip().splitlines()), "")
        return f"in cell [{error.exec_count}], {line!r}: {' '.join(message.split())}"
    return f"({type(error).__name__}: {' '.join(str(error).split())})"
