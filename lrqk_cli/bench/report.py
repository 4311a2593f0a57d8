"""Write results as JSON, CSV and Markdown, with the environment of the measurement."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lrqk_cli.bench.plot import Chart, LineChart
from lrqk_cli.config import LrqkConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# The facts that a reader needs about a measurement, by name.
Facts = Mapping[str, str | int | Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Table:
    """The results for a person.

    Attributes:
        columns: headings.
        lines: cells, one per column.
    """

    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a suite.

    Attributes:
        suite: its name and options.
        results: one dataclass instance per line; the CSV leaves out the tuples in it.
        table: the same for a person.
        summary: figures over all results; ``notes``: sentences about them.
        modes: the settings of the modes by name; a mode that is not in it has the common settings with its
            own attention mode.
        chart: the results as a picture; None without one.
        ended_by: the exception that ended the run early, after these results.
    """

    suite: Facts
    results: Sequence[DataclassInstance]
    table: Table
    summary: Sequence[DataclassInstance] = ()
    notes: Sequence[str] = ()
    modes: Mapping[str, LrqkConfig] = field(default_factory=dict)
    chart: Chart | LineChart | None = None
    ended_by: BaseException | None = None


def to_json(where: Facts, config: LrqkConfig, report: Report) -> str:
    """Return one object with ``environment``, ``settings``, ``suite``, ``results`` and any further parts."""
    whole = {
        "environment": where,
        "settings": asdict(config),
        "suite": report.suite,
        "complete": report.ended_by is None,
        "results": [asdict(result) for result in report.results],
    }
    if report.modes:
        whole["modes"] = {name: asdict(of_mode) for name, of_mode in report.modes.items()}
    if report.notes:
        whole["notes"] = list(report.notes)
    if report.summary:
        whole["summary"] = [asdict(summary) for summary in report.summary]
    return json.dumps(whole, indent=2)


def to_csv(where: Facts, config: LrqkConfig, report: Report) -> str:
    """Return one line per result, which ends with the environment and the settings of its mode."""
    rows = []
    for result in report.results:
        line = flat(result)
        of_mode = flat(report.modes.get(line["mode"], config))
        del of_mode["attention"]
        figures = {name: value for name, value in line.items() if not isinstance(value, tuple)}
        rows.append({**figures, **where, **of_mode})
    # A result that lacks a part, such as its worst step, has fewer columns.
    columns = max(rows, key=len)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def to_markdown(where: Facts, config: LrqkConfig, report: Report) -> str:
    """Return a table, and under it the notes, the suite, the environment and the settings."""
    columns = report.table.columns
    lines = [columns, tuple("---" for _ in columns), *report.table.lines]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    common = flat(config)
    del common["attention"]
    known = {name: value for name, value in where.items() if value is not None}
    facts_by_name = (("Suite", report.suite), ("Environment", known), ("Settings", common))
    facts = [f"{name}: {_listed(facts)}" for name, facts in facts_by_name]
    differing = ((name, _differences(of_mode, config)) for name, of_mode in report.modes.items())
    modes = [f"Mode {name}: {_listed(own)}" for name, own in differing if own]
    return "\n\n".join([table, *report.notes, *facts, *modes])


def flat(values: DataclassInstance) -> dict[str, Any]:
    """Return the fields by name; fields of a nested instance have names such as ``als.init``."""
    return dict(_flattened(asdict(values), ""))


def _flattened(facts: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _differences(config: LrqkConfig, base: LrqkConfig) -> dict[str, Any]:
    own, common = flat(config), flat(base)
    return {name: value for name, value in own.items() if value != common[name]}


def _listed(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in facts.items()) + "."


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return "auto" if value is None else str(value)
