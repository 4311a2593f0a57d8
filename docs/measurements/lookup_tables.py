"""The table of docs/lookup.md about drafts by lookup, from the suite lookup."""

from __future__ import annotations

from collections.abc import Iterator

from reports import Reports, Row, Table, context_name, model_of, of_suite

_NAMES = {"quote": "quote a passage", "table": "copy a table", "free": "a free answer"}


def lookup(reports: Reports) -> Iterator[Row]:
    """Give one line for each model, context and kind of question."""
    yield (
        "model",
        "context",
        "question",
        "answers",
        "tokens of each",
        "without, tokens/s",
        "with lookup",
        "ratio",
        "drafts accepted",
        "of the answer copied",
        "answers that are the same",
    )
    for report in of_suite(reports, "lookup").values():
        for means in report["summary"]:
            own = [
                line
                for line in report["results"]
                if all(line[key] == means[key] for key in ("kind", "mode", "ctx"))
            ]
            yield (
                model_of(report),
                context_name(means["ctx"]),
                _NAMES[means["kind"]],
                str(means["questions"]),
                f"{means['tokens']:.0f}",
                f"{means['plain_tokens_per_s']:.0f}",
                f"{means['lookup_tokens_per_s']:.0f}",
                f"{means['ratio']:.2f}×",
                f"{means['accepted']:.0%}",
                f"{means['copied']:.0%}" if means["kind"] != "free" else "",
                str(sum(line["identical"] for line in own)),
            )


TABLES = {"lookup": Table(r".*", lookup)}
