"""Run the study's notebooks with papermill, under a profile of parameters."""

from __future__ import annotations

import ast
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from bsm.errors import InputError
from bsm.files import replacing
from bsm.study.records import ROOT

NOTEBOOKS = ROOT / "notebooks"
_UNKNOWN = object()  # a default that is an expression: its type cannot be told without running it

log = logging.getLogger(__name__)


class NotebookFailed(RuntimeError):
    """A notebook stopped; the message names the cell, the exception and where the partial notebook is kept."""


def profiles() -> list[str]:
    """Return the names of the profiles, ``notebooks/profiles/<name>.yaml``."""
    return sorted(path.stem for path in (NOTEBOOKS / "profiles").glob("*.yaml"))


def load_profile(profile: str | Path) -> dict[str, Any]:
    """Read a profile: a flat mapping of parameters that all notebooks share.

    Args:
        profile: a name from :func:`profiles`, or the path of a ``.yaml`` file.

    Raises:
        InputError: no such profile, or not a flat mapping.
    """
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = NOTEBOOKS / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        raise InputError(f"there is no profile {str(profile)!r}; choose one of: {', '.join(profiles()) or 'none here'}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path}: a profile is a flat mapping, one 'name: value' per line")
    if nested := [name for name, value in values.items() if isinstance(value, dict)]:
        raise InputError(f"{path}: '{nested[0]}' holds a mapping; a profile is flat, one 'name: value' per line")
    return values


def run_notebook(
    name_or_path: str | Path, output: str | Path, *, profile: str | Path, parameters: Mapping[str, Any] | None = None
) -> Path:
    """Execute a notebook from the repository's root and keep the executed copy.

    The profile's values are passed where the notebook declares their names in its cell tagged ``parameters``; explicit
    ``parameters`` come on top. The kernel is ``bsm`` if that is registered, else ``python3``. The copy appears under
    its name only when every cell has run; after a failure it is kept as ``<output>.failed.ipynb``.

    Args:
        name_or_path: ``<name>`` for ``notebooks/<name>.ipynb``, or a path ending in ``.ipynb``.
        output: the executed copy, ending in ``.ipynb``.
        profile: see :func:`load_profile`.
        parameters: explicit values; every name must be declared by the notebook.

    Returns:
        The path of the executed copy.

    Raises:
        InputError: no such notebook or profile, or a parameter that the notebook does not declare or whose type does
            not fit its default's.
        NotebookFailed: a cell raised, or the kernel died.
    """
    source, output = _find(name_or_path), Path(output).resolve()
    shared = load_profile(profile)
    kernel = "bsm" if "bsm" in KernelSpecManager().find_kernel_specs() else "python3"
    notebook = _read(source, kernel)
    defaults = _defaults(notebook, source)
    values = {k: _fit(k, v, defaults[k], f"profile {profile}") for k, v in shared.items() if k in defaults}
    for name, value in (parameters or {}).items():
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise InputError(f"{source.name} has no parameter {name!r}; it has: {known}")
        values[name] = _fit(name, value, defaults[name], source.name)

    failed = output.with_suffix(".failed.ipynb")
    log.info("running %s with the kernel %s and the profile %s", source.name, kernel, profile)
    with replacing(output) as temporary:
        try:
            executed = papermill.execute_notebook(
                notebook,
                str(temporary).replace("{", "{{").replace("}", "}}"),  # papermill fills in {names} in paths
                parameters=values,
                kernel_name=kernel,
                language="python",
                progress_bar={"desc": source.stem},
                cwd=ROOT,
                extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no warning about local sockets per notebook
            )
        except (PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
            if temporary.stat().st_size:  # a kernel that never started leaves nothing
                nbformat.write(_signed(nbformat.read(temporary, as_version=4), source, failed), failed)
            raise NotebookFailed(f"{source.name} failed {_why(error)}; its partial copy is {failed}") from error
        nbformat.write(_signed(executed, source, output), temporary)
    failed.unlink(missing_ok=True)
    return output


def parameters(name: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Check a notebook's parameters from inside it, whatever started it: its first call.

    papermill's own command line checks nothing, and passes a list as text. Here text is read as YAML where the default
    is no text, and what does not fit is refused by name.

    Args:
        name: the notebook's, in ``notebooks/``.
        namespace: ``globals()``.

    Returns:
        The declared parameters with the types of their defaults, for ``globals().update``.

    Raises:
        InputError: a parameter that the notebook does not declare, or whose type does not fit its default's.
    """
    source = _find(name)
    defaults = _defaults(_read(source), source)
    for cell in namespace.get("In", []):
        if cell.startswith("# Parameters\n"):  # papermill's, after the cell of defaults
            targets = [t for s in ast.parse(cell).body if isinstance(s, ast.Assign) for t in s.targets]
            for target in targets:
                if isinstance(target, ast.Name) and target.id not in defaults:
                    raise InputError(f"{source.name} has no parameter {target.id!r}; it has: {', '.join(defaults)}")
    values = {}
    for key, default in defaults.items():
        value = namespace[key]
        if isinstance(value, str) and not isinstance(default, str) and default is not _UNKNOWN:
            value = _from_text(value)
        values[key] = _fit(key, value, default, source.name)
    return values


def in_range(least: float, most: float = math.inf, **values: float) -> None:
    """Refuse a notebook's parameters, given by their names, outside of a range: before anything is measured.

    Raises:
        InputError: one that is less than ``least`` or more than ``most``.
    """
    for name, value in values.items():
        if not least <= value <= most:
            bounds = f"at least {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise InputError(f"parameter {name!r} must be {bounds}, not {value!r}")


def _from_text(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # and let the check of its type name it


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix != ".ipynb":
        path = NOTEBOOKS / f"{name_or_path}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(x.stem for x in NOTEBOOKS.glob("*.ipynb"))) or "none here"
        raise InputError(f"there is no notebook {str(name_or_path)!r}; choose one of: {known}")
    return path.resolve()


def _read(path: Path, kernel: str | None = None) -> nbformat.NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:  # nbformat's errors for other JSON, too
        raise InputError(f"{path}: not a notebook ({type(error).__name__}: {error})") from None
    if kernel:  # papermill wants both, and tools that strip notebooks may take them away
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    return notebook


def _defaults(notebook: nbformat.NotebookNode, source: Path) -> dict[str, Any]:
    """Return the declared parameters and their defaults, or :data:`_UNKNOWN` for what is not a literal.

    Python's own parser reads the cell: papermill's inspection skips lines with a second equals sign, and a profile's
    value would then be left out in silence.
    """
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"{source}: one cell must be tagged 'parameters', {len(tagged)} are")
    try:
        statements = ast.parse(tagged[0].source).body
    except SyntaxError as error:
        raise InputError(f"{source}: the cell tagged 'parameters', line {error.lineno}: {error.msg}") from None
    defaults = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        try:
            default = ast.literal_eval(statement.value)
        except ValueError:
            default = _UNKNOWN
        defaults.update({target.id: default for target in targets if isinstance(target, ast.Name)})
    return defaults


def _fit(name: str, value: Any, default: Any, where: str) -> Any:
    """Return ``value`` if its type fits the default's; whole numbers fit a float, lists and tuples fit each other.

    The elements of a list must be of the types that the default's elements have; any fit an empty default.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if default is _UNKNOWN or default is None:
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kinds = (list, tuple) if isinstance(default, list | tuple) else (type(default),)
    if type(value) not in kinds:
        raise InputError(
            f"{where}: parameter {name!r} must be of type {type(default).__name__}, like its default {default!r}, "
            f"not {type(value).__name__} {value!r}"
        )
    if isinstance(default, list | tuple) and default:
        fitting = {type(element) for element in default} | ({int} if float in map(type, default) else set())
        for element in value:
            if type(element) not in fitting:
                known = " or ".join(dict.fromkeys(type(x).__name__ for x in default))
                raise InputError(
                    f"{where}: elements of parameter {name!r} must be of type {known}, like those of its default "
                    f"{default!r}, not {type(element).__name__} {element!r}"
                )
    return value


def _signed(notebook: nbformat.NotebookNode, source: Path, output: Path) -> nbformat.NotebookNode:
    """Name source and output, for which papermill noted the whole notebook and a temporary file."""
    notebook.metadata["papermill"].update(input_path=_relative(source), output_path=_relative(output))
    return notebook


def _why(error: Exception) -> str:
    if isinstance(error, PapermillExecutionError):
        message = f"{error.ename}: {error.evalue}".strip(": ")
        line = next(iter(error.source.strip().splitlines()), "")
        return f"in cell [{error.exec_count}], {line!r}: {' '.join(message.split())}"
    return f"({type(error).__name__}: {' '.join(str(error).split())})"


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
