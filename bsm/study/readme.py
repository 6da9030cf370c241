"""The parts of the README that are made from results: everything between a marker and ``<!-- end -->``.

Markers are ``<!-- claims: ID ID -->``, a table of these claims; ``<!-- tally -->``, the number of claims by verdict;
``<!-- commands -->``, time and memory of the README's two commands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bsm.errors import known
from bsm.files import write_text
from bsm.study import commands
from bsm.study.assay import INSENSITIVE
from bsm.study.claims import ledger
from bsm.study.figures import table_markdown
from bsm.study.profiles import Profile
from bsm.study.records import ROOT

README = ROOT / "README.md"
WORDS = 15
"""The most words of a cell."""
_PART = re.compile(r"(<!-- (claims|tally|commands):? ?([^>]*?) ?-->\n).*?(?=<!-- end -->)", re.DOTALL)


def refresh_readme(settings: Profile, readme: Path = README) -> bool:
    """Write the README's parts again; tell whether anything changed.

    Raises:
        InputError: there is no such claim.
    """
    before = readme.read_text(encoding="utf-8")
    text = _PART.sub(lambda part: part[1] + _made(settings, part[2], part[3]), before)
    if text != before:
        write_text(readme, text)
    return text != before


def _made(settings: Profile, kind: str, what: str) -> str:
    if kind == "commands":
        return commands.table(settings)
    judged = ledger.lines()
    return f"{ledger.tally(judged)}.\n" if kind == "tally" else claims_table(judged, what.split())


def claims_table(judged: Sequence[ledger.Line], ids: Sequence[str]) -> str:
    """Return some claims as a table whose cells have at most :data:`WORDS` words.

    Of a claim with several tests, the table shows the first that settles it, or else the first that is not blocked; if
    possible, one whose assay is sensitive.
    """
    how_open = {ledger.Verdict.INCONCLUSIVE: 1, ledger.Verdict.BLOCKED: 2}
    found = ledger.by_claim(judged)
    tests = [found[known("claim", name, found)] for name in ids]
    chosen = [
        min(own, key=lambda x: (how_open.get(x.finding.verdict, 0), x.finding.measured.startswith(INSENSITIVE)))
        for own in tests
    ]
    shown = ledger.frame(chosen)[["claim", "verdict", "evidence", "measured"]].map(shorten, na_action="ignore")
    return table_markdown(shown.rename(columns={"measured": "measured here"}), caption="").removesuffix("\n*.*\n")


def shorten(text: str) -> str:
    """Cut a text to at most :data:`WORDS` words, if possible at a comma or semicolon outside of brackets."""
    if len(text.split()) <= WORDS:
        return text
    ends = [found.start() for found in re.finditer(r"[;,] (?![^()]*\))", text)]
    fitting = [end for end in ends if len(text[:end].split()) <= WORDS]
    return text[: fitting[-1]] if fitting else " ".join(text.split()[:WORDS]) + " ..."
