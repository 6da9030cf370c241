"""Versions of the code that results depend on, raised by hand.

Songs, runs, scores and the workflow record these numbers instead of checksums of source files. Whoever changes the
results raises the number and adds a line of history. Earlier results are then set aside or made again.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

RECIPE = 1
"""Version of the training: network, initial weights, loss, sampling and optimisation.

``tests/train/test_recipe.py`` compares losses with recorded ones, and fails if they change without a new version.

1: the first version. Before it, a checksum of source files identified a run.
"""

SCORING = 1
"""Version of the scores: separation with a trained network, and the metrics.

1: the first version. Before it, a checksum of source files identified a score.
"""

GENERATOR_VERSION = 3
"""Version of the demo songs: what a seed sounds like. Songs of another version are rendered again.

3: a voice of its own in every song, a lead instrument that resembles the voice, splits that share no words or
instruments, gaps up to 20 s. 2: six voices, stratified lengths.
"""


def git_revision(root: Path) -> dict[str, Any]:
    """Return the ``revision`` of a checkout, and whether any file outside ``reports/`` differs from it (``dirty``).

    Without git or a repository, they are ``"unknown"`` and None.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    unknown = {"revision": "unknown", "dirty": None}
    if not (root / "pyproject.toml").is_file():  # installed: a repository around it is another project's
        return unknown
    try:
        return {
            "revision": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".", ":!reports")),
        }
    except (OSError, subprocess.SubprocessError):
        return unknown
