"""What the site adds to Sphinx: formulas as MathML, links to executed notebooks, and a check of the finished pages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import latex2mathml.converter
from docutils import nodes
from site_check import faults
from sphinx.application import Sphinx
from sphinx.errors import SphinxError


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_config_value("profile", "demo", "env", str)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("source-read", _lead_to_executed)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(writer, node: nodes.math) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext()))
    raise nodes.SkipNode


def _block(writer, node: nodes.math_block) -> None:
    writer.body.append(latex2mathml.converter.convert(node.astext(), display="block"))
    raise nodes.SkipNode


def _lead_to_executed(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to notebooks lead to this profile's executed ones; the text alone stays where there is none.

    An executed notebook lies two folders deeper than its source: its links to the documentation, and to figures beside
    the report, are adapted.
    """
    folder = f"reports/{app.config.profile}/notebooks"

    def executed(found: re.Match) -> str:
        path = f"{folder}/{found[2]}"
        return f"[{found[1]}](/{path})" if Path(app.srcdir, path).is_file() else found[1]

    if page.startswith("build/"):
        return
    if page.startswith(folder):
        source[0] = _fold_defaults(source[0])
        source[0] = re.sub(r"\]\((\.\./[\w-]+/)?figures/", r"](../\1figures/", source[0])
        source[0] = source[0].replace("](../docs/", "](/docs/")
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)?(?:notebooks/)?(\w+\.ipynb)\)", executed, source[0])


def _fold_defaults(notebook: str) -> str:
    """Fold the cell of default parameters where another one follows with the values that were set."""
    content = json.loads(notebook)
    tags = [cell["metadata"].get("tags", []) for cell in content["cells"]]
    if any("injected-parameters" in own for own in tags):
        for own in tags:
            if "parameters" in own:
                own.append("hide-input")
    return json.dumps(content)


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html" and (found := faults(Path(app.outdir))):
        raise SphinxError("\n".join(found))
