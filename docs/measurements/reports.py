"""Reports of ``lrqk bench --output json``, all of one state of the sources, and the commit of that state."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lrqk_cli.bench.environment import digest

_COMMITS = 200  # to look for the sources in
_NAMES = {"qwen2.5-coder-0.5b": "Qwen2.5-Coder 0.5B", "smollm2-135m": "SmolLM2 135M"}

Row = tuple[str, ...]
Report = dict[str, Any]
Reports = Mapping[str, Report]


class MixedReportsError(Exception):
    """The reports are not all of one state of the sources, or one is missing or not complete."""


@dataclass(frozen=True)
class Table:
    """How a table is made.

    Attributes:
        pattern: a regular expression that the names of its reports match.
        rows: gives the headings and the lines from these reports.
    """

    pattern: str
    rows: Callable[[Reports], Iterator[Row]]

    def made_from(self, reports: Reports) -> list[Row]:
        """Return the headings and the lines.

        Raises:
            MixedReportsError: none of the reports is for this table.
        """
        own = {name: report for name, report in reports.items() if re.fullmatch(self.pattern, name)}
        if not own:
            raise MixedReportsError(f"There is no report {self.pattern}.")
        return list(self.rows(own))


def read(folder: Path) -> dict[str, Report]:
    """Return the reports by the names of their files; none if there is no folder.

    Raises:
        MixedReportsError: they are not of the same sources, or one was ended early.
    """
    reports = {
        file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))
    }
    if cut := [name for name, report in reports.items() if not report["complete"]]:
        raise MixedReportsError(f"Ended early: {', '.join(cut)}.")
    states: dict[str, list[str]] = {}
    for name, report in reports.items():
        states.setdefault(report["environment"]["sources"], []).append(name)
    if len(states) > 1:
        listed = "; ".join(f"{state}: {', '.join(names)}" for state, names in states.items())
        raise MixedReportsError(f"Reports of {len(states)} states of the sources ({listed}).")
    return reports


def sources(reports: Reports) -> str:
    """Return the digest of the sources that all reports are of."""
    return str(next(iter(reports.values()))["environment"]["sources"])


@cache
def commit_of(state: str, root: Path = Path(__file__).parents[2]) -> str:
    """Return the newest commit of a repository whose package has that digest.

    Raises:
        MixedReportsError: none has.
    """
    listed = _git(root, "log", f"-{_COMMITS}", "--format=%h", "--", "lrqk_cli").decode().split()
    for commit in listed:
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", commit, "lrqk_cli"))) as archive:
                archive.extractall(folder, filter="data")
            if digest(Path(folder) / "lrqk_cli") == state:
                return commit
    raise MixedReportsError(f"No commit has the sources {state}: were there changes beside it?")


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True).stdout


def model_of(report: Report) -> str:
    """Return the name of a report's model, or shape, as the pages write it."""
    name = Path(str(report["environment"]["model"]).removesuffix(" (random weights)")).name
    return _NAMES.get(name.removesuffix(".gguf"), name.removesuffix(".gguf"))


def of_suite(reports: Reports, suite: str) -> Reports:
    """Return the reports, which must be of that suite.

    Raises:
        MixedReportsError: one is of another.
    """
    for name, report in reports.items():
        if report["suite"]["name"] != suite:
            raise MixedReportsError(f"{name} is of the suite {report['suite']['name']}, not of {suite}.")
    return reports


def context_name(tokens: int) -> str:
    """Return a number of tokens as the pages write it: 64K, or 40,000."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else f"{tokens:,}"


def provenance(reports: Reports, commit: str) -> Iterator[Row]:
    """Give where and of what everything was measured."""
    yield ("commit", "sources", "device", "torch", "triton", "transformers", "reports")
    where: dict[Row, list[str]] = {}
    for name, report in reports.items():
        facts = report["environment"]
        named = tuple(str(facts[key] or "none") for key in ("torch", "triton", "transformers"))
        device = facts["device"] if facts["device_type"] != "cpu" else f"a CPU, {facts['threads']} threads"
        where.setdefault((device, *named), []).append(name)
    for facts, names in where.items():
        yield (commit, sources(reports), *facts, ", ".join(names))
