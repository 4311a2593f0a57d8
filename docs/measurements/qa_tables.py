"""The table of docs/quality.md about questions that people asked, from the suite qa."""

from __future__ import annotations

from collections.abc import Iterator

from reports import Reports, Row, Table, model_of, of_suite

_METRICS = {"choice": "right choices", "f1": "F1", "rouge_l": "ROUGE-L"}


def scores(reports: Reports) -> Iterator[Row]:
    """Give one line for each set, model and mode beside full attention, with the suite's own figures."""
    yield (
        "set",
        "model",
        "documents",
        "questions",
        "tokens of each",
        "full attention",
        "hot rows",
        "share",
        "score",
        "difference",
        "same answers",
        "metric",
    )
    for report in of_suite(reports, "qa").values():
        results = {(line["name"], line["mode"], line["ctx"]): line for line in report["results"]}
        for beside in report.get("summary", ()):
            line = results[beside["name"], beside["mode"], beside["ctx"]]
            metrics = dict.fromkeys(answer["metric"] for answer in line["answers"])
            bounds = f"{beside['difference_low']:+.1f} to {beside['difference_high']:+.1f}"
            yield (
                beside["name"],
                model_of(report),
                str(line["documents"]),
                str(line["questions"]),
                f"{line['prompt_tokens']:,.0f}",
                f"{beside['full_score']:.1f}",
                f"{report['modes'][beside['mode']]['hot']:,}",
                f"{line['device_share']:.1%}",
                f"{beside['score']:.1f}",
                f"{beside['difference']:+.1f} ({bounds})",
                f"{beside['same']:.0%}",
                ", ".join(_METRICS.get(metric, metric) for metric in metrics),
            )


TABLES = {"qa": Table(r"qa-.*", scores)}
