"""The ledger: judge every claim from result files, and write the page and the tables that say so.

``bsm claims render`` writes ``reports/CLAIMS.md``; ``bsm claims check`` judges again and names what differs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bsm.errors import InputError
from bsm.files import write_text
from bsm.study import campaign, contributed
from bsm.study.assay import BEATS
from bsm.study.claims import data, exact, learning, learning_regions, probe, published, scan, step  # noqa: F401 (registers the claims)
from bsm.study.claims.claim import CLAIMS, GPU, LONG, Claim, Evidence, Finding, Test, Values, Verdict, undisturbed
from bsm.study.figures import table_markdown
from bsm.study.records import ROOT, on_gpu, read_result

PROFILE = "demo"
"""The profile that the ledger is about, where a test names no other."""
REPORTS = ROOT / "reports"
LINKS = 6  # of result files in a section of the page
SOURCES = (
    "Apart from the paper, the sources are Korean documents of the unofficial implementation "
    "[chynggi/Mamba2MeetsSilence](https://github.com/chynggi/Mamba2MeetsSilence). Their titles are translated."
)

TERMS = f"""\
- **Small models**: small networks that were trained here. `base` is the paper's design at that size.
- **Static equaliser**: one gain per frequency, fitted to the training songs. It has learned nothing about voices.
- **Positive control**: a system that lacks what the question is about, so it must lose. `none` has no time blocks; the
  loss of `loss-blind` compares spectra with silence.
- **The assay is insensitive**: the small models cannot show such a difference, so the measured one counts for nothing.
  They beat the static equaliser by less than {BEATS:g} dB of uSDR (*below the gate*), or are too few, or the control
  does not lose. These limits were stated before the results. Below them, a network has learned little more than which
  frequencies voices have.
- **Long study**: the trainings of `reports/long/campaign.yaml`; other small models are those of `make reproduce`.
- **Described**: rebuilt from the text of the documents and the source of the unofficial implementation.
- **Thresholds**: the limits that the rule of a claim takes. They are not adjusted for the number of claims."""


class Line(NamedTuple):
    """One test of a claim, judged from ``files``, relative to the folder above the reports, and their ``devices``."""

    claim: Claim
    test: Test
    finding: Finding
    files: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The claim's id, with the device where the claim has several tests."""
        return self.claim.id + f" ({self.test.on})" * (len(self.claim.tests) > 1)

    @property
    def evidence(self) -> str:
        """The kind of evidence; none where the test is blocked."""
        return "–" if self.finding.verdict == Verdict.BLOCKED else self.test.evidence


class _Missing(Exception):
    """A result that is not there, or does not count."""


def judge(claim: Claim, test: Test, profile: str = PROFILE, reports: Path = REPORTS) -> Line:
    """Judge a claim by one of its tests, from the first profile that has what the test needs.

    Where the test leaves that open, results of ``profile`` are judged.

    Raises:
        InputError: a damaged result file, or one whose values the rule cannot read.
    """
    own = test.profiles if profile == PROFILE or GPU in test.profiles else ()
    missing = []
    for candidate in own or (profile,):
        try:
            return _judged(claim, test, candidate, reports)
        except _Missing as reason:
            missing.append(f"{reason}.")
    return Line(claim, test, Finding(Verdict.BLOCKED, "", missing))


def _judged(claim: Claim, test: Test, profile: str, reports: Path) -> Line:
    given: dict[str, Any] = {}
    devices: dict[str, str | None] = {}  # by file
    for name, wanted in (test.long if profile == LONG and test.long else test.inputs).items():
        if wanted.optional and wanted.profile == profile:
            continue  # a result does not stand as context of itself
        try:
            given[name], read = _read(test, wanted, wanted.profile or profile, reports)
        except _Missing:
            if not wanted.optional:
                raise
        else:
            devices |= read
    try:
        finding = claim.judge(**given, **claim.thresholds, **test.options)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError) as error:
        raise InputError(f"{claim.id}: cannot read its results ({type(error).__name__}: {error})") from error
    measured_on = dict.fromkeys(device for device in devices.values() if device)
    return Line(claim, test, undisturbed(finding, test), tuple(devices), tuple(measured_on))


def _read(test: Test, wanted: Values, profile: str, reports: Path) -> tuple[Any, dict[str, str | None]]:
    """Return what a test wants of a profile's results, and by file the device that it was measured on."""
    if profile == contributed.FOLDER:
        found = contributed.of_weights(wanted.result, reports)
        records = {_shown(path, reports): record for path, record in found.items()}
        return records, dict.fromkeys(records)
    folder = reports / profile / "results"
    path = folder / f"{wanted.result}.json"
    if wanted.runs:
        read = campaign.finished(folder, wanted.result)
    else:
        read = {path: read_result(path)} if path.is_file() else {}
    files = {_shown(path, reports): record for path, record in read.items()}
    values = [_values(file, record, profile, test, wanted) for file, record in files.items()]
    lacking = campaign.lacking(read, wanted.result, wanted.arms)
    if lacking or not read:
        name = _shown(path, reports)
        absent = f"are no runs of {name.removesuffix('.json')}" if wanted.runs else f"is no {name}"
        raise _Missing(f"There {absent} yet" + f": {', '.join(lacking)}" * bool(lacking))
    devices = {file: record["provenance"].get("device") for file, record in files.items()}
    return [row for rows in values for row in rows] if wanted.runs else values[0], devices


def _shown(path: Path, reports: Path) -> str:
    return path.relative_to(reports.parent).as_posix()


def _values(file: str, record: dict[str, Any], profile: str, test: Test, wanted: Values) -> Any:
    """Return what a test wants of the record of a profile's result file."""
    if profile == GPU and not on_gpu(record["parameters"]):
        device = record["parameters"].get("device", "not given")
        raise _Missing(f"{file} was not measured on a GPU (its parameters.device is {device})")
    if test.comparable_only and not record["comparable_with_paper"]:
        raise _Missing(f"{file} is not comparable with the paper")
    values = record["values"]
    for key in wanted.field.split(".") if wanted.field else ():
        values = values.get(key) if isinstance(values, dict) else None
    if values is None:
        raise _Missing(f"{file} has no {wanted.field}")
    return campaign.of_run(record, values) if wanted.runs else values


def _claims() -> list[Claim]:
    """Return all claims, room by room, whichever room was imported first."""
    return sorted(CLAIMS.values(), key=lambda claim: claim.judge.__module__)


def lines(
    profile: str = PROFILE, reports: Path = REPORTS, wanted: Callable[[Test], bool] = lambda _: True
) -> list[Line]:
    """Judge all claims, a line for each of their tests, or for those that are wanted."""
    return [judge(claim, test, profile, reports) for claim in _claims() for test in claim.tests if wanted(test)]


def by_claim(judged: Iterable[Line]) -> dict[str, list[Line]]:
    """Gather the lines of each claim, by its id, in the given order."""
    found: dict[str, list[Line]] = {}
    for line in judged:
        found.setdefault(line.claim.id, []).append(line)
    return found


def frame(judged: Sequence[Line]) -> pd.DataFrame:
    """Return a row per line: what is claimed, and what was found."""
    rows = [
        (x.name, x.claim.text, x.claim.figure, x.finding.measured or None, x.finding.verdict, x.evidence)
        for x in judged
    ]
    return pd.DataFrame(rows, columns=["id", "claim", "claimed", "measured", "verdict", "evidence"])


def claims_table(profile: str, results: Collection[str], reports: Path = REPORTS) -> pd.DataFrame:
    """Judge the claims that read one of a profile's results, named without suffix, for the notebook that writes it."""

    def reads(test: Test) -> bool:
        read = {v.result for v in test.inputs.values() if not v.optional and v.profile in ("", profile)}
        return GPU not in test.profiles and not read.isdisjoint(results)

    return frame(lines(profile, reports, reads)).drop(columns="claimed")


def tally(judged: Sequence[Line]) -> str:
    """Return how many claims and tests there are, and tests of each verdict, in words."""
    counts = Counter(line.finding.verdict for line in judged)
    verdicts = ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v])
    return f"{len({line.claim.id for line in judged})} claims in {len(judged)} tests: {verdicts}"


def short_table(judged: Sequence[Line]) -> str:
    """Return the lines that are not blocked as a table: claim, claimed and measured figure, verdict, evidence."""
    shown = sorted(judged, key=lambda line: list(Verdict).index(line.finding.verdict))
    found = frame([line for line in shown if line.finding.verdict != Verdict.BLOCKED])
    caption = f"{tally(judged)}. In brackets: 95 % intervals, or the range of fewer than five rounds"
    return table_markdown(
        found.drop(columns="claim").rename(columns={"id": "claim"}), caption=caption, not_comparable=True
    )


def blocked_table(judged: Sequence[Line]) -> str:
    """Return what each blocked test needs, and the one command that then makes its result."""
    blocked = [line for line in judged if line.finding.verdict == Verdict.BLOCKED]
    rows = [(x.name, x.claim.figure, x.test.needs or None, x.test.command and f"`{x.test.command}`") for x in blocked]
    found = pd.DataFrame(rows, columns=["claim", "claimed", "needs", "command, once it is here"]).replace("", None)
    return table_markdown(found, caption=f"{len(rows)} tests are blocked")


def page(judged: Sequence[Line]) -> str:
    """Return ``CLAIMS.md``: what a reader gets in a minute, then every claim with its reasons and files."""
    found = {verdict: [x for x in judged if x.finding.verdict == verdict] for verdict in Verdict}
    settled = by_claim(x for x in judged if x.finding.verdict != Verdict.BLOCKED)
    differ = {name for name, own in settled.items() if len({x.finding.verdict for x in own}) > 1}

    def listed(verdict: str) -> str:
        where = {Evidence.CPU_TIMING: "On a CPU, without a GPU's kernels: "}
        said = dict.fromkeys(
            f"- {where.get(x.evidence, '')}{x.claim.text}{f' ({x.test.on})' * (x.claim.id in differ)}."
            for x in found[verdict]
        )
        return "\n".join(said) or "- None."

    sections = [
        "# Claims",
        f"{tally(judged)}. A claim about a GPU has a test of its own for it, which waits for one.",
        "## In a minute",
        f"Supported:\n\n{listed(Verdict.SUPPORTED)}",
        f"Not supported:\n\n{listed(Verdict.NOT_SUPPORTED)}",
        f"Inconsistent, because the claim contradicts itself:\n\n{listed(Verdict.INCONSISTENT)}",
        f"Inconclusive, because the measurement cannot tell:\n\n{listed(Verdict.INCONCLUSIVE)}",
        "## All tests",
        short_table(judged),
        blocked_table(judged),
        "A verdict follows from result files by a rule (`bsm/study/claims/`). `bsm claims render` writes this page, "
        f"`bsm claims check` judges again. {SOURCES}",
        "## Terms",
        TERMS,
        "## Claim by claim",
        *map(_section, by_claim(judged).values()),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _section(tests: Sequence[Line]) -> str:
    claim = tests[0].claim
    limits = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in claim.thresholds.items())
    head = f"{claim.text}. Claimed: {claim.figure}." + f" Thresholds: {limits}." * bool(limits)
    sources = f"Claimed by {'; '.join(claim.source)}."
    return "\n\n".join([f"### {claim.id}", head, sources, *map(_test, tests)])


def _test(line: Line) -> str:
    found, test = line.finding, line.test
    title = f"**{test.on}: {found.verdict}**" + f", {found.measured}." * bool(found.measured)
    reasons = list(found.reasons)
    if found.verdict == Verdict.BLOCKED:
        steps = [f"It needs {test.needs}."] * bool(test.needs) + [f"Command: `{test.command}`."] * bool(test.command)
        reasons[:0] = steps
    if line.files:
        links = ", ".join(f"[{'/'.join(Path(f).parts[1::2])}]({f.partition('/')[2]})" for f in line.files[:LINKS])
        links += f" and {len(line.files) - LINKS} more" * (len(line.files) > LINKS)
        reasons.append(f"From {links}" + f" ({', '.join(line.devices)})" * bool(line.devices) + ".")
    return "\n".join([title, "", *(f"- {reason}" for reason in reasons)])


def render(reports: Path = REPORTS) -> list[Line]:
    """Judge all claims; write ``CLAIMS.md``."""
    judged = lines(reports=reports)
    write_text(reports / "CLAIMS.md", page(judged))
    return judged


def check(reports: Path = REPORTS) -> list[str]:
    """Judge all claims again; return a line for each section of ``CLAIMS.md`` that says other than the results.

    Where contributed results are not valid, the lines name those.
    """
    if faults := contributed.check(reports):
        return faults
    path = reports / "CLAIMS.md"
    if not path.is_file():
        return [f"{path.name}: not there"]
    said, now = (_sections(text) for text in (path.read_text(encoding="utf-8"), page(lines(reports=reports))))
    names = [name for name in (now | said) if now.get(name) != said.get(name)]
    return [f"{name}: {path.name} differs from what the results say" for name in names]


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
