"""Sphinx configuration of the site: `make site` calls it with the repository's root as source folder.

PROFILE in the environment names the profile whose executed notebooks the site shows.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
profile = os.environ.get("PROFILE", "demo")
sys.path.insert(0, str(ROOT / "docs"))

project = "bsm: BSMamba2, reproduced"
html_title = project
copyright = "the bsm authors; MIT licence"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "site_pages",
]

# The sources keep their places in the repository, so that a link works on the site as it does in a checkout.
root_doc = "docs/README"
include_patterns = [
    "*.md",
    "docs/**",
    "notebooks/README.md",
    "reports/CLAIMS.md",
    "reports/*/report.md",
    f"reports/{profile}/notebooks/*.ipynb",
    "build/api/*",
]
exclude_patterns = [".*", "**/.*", "data", "runs", "site", "tests", "bsm", "build/site", "workflow", "*.egg-info"]
html_additional_pages = {"index": "redirect.html"}  # site/index.html leads to the first page
templates_path = ["_templates"]

# Notebooks come executed, and stay as they were executed.
nb_execution_mode = "off"
nb_output_stderr = "remove"  # progress bars and log
nb_render_markdown_format = "gfm"  # tables
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]  # progress bars of a kernel
nb_ipywidgets_js = {}  # a page must load nothing from elsewhere

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"  # drawn by the browser itself: no script, no fonts to fetch

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a dataclass's attributes once: in the class's own docstring

html_theme = "furo"
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(ROOT / "docs" / "_static" / "search_scores.js")  # opened from where Sphinx was started
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses to one that was opened from disk
