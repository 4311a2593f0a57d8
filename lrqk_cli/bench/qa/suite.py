"""The QA suite: questions about long documents that people wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrqk_cli.bench.collect import collect
from lrqk_cli.bench.qa.data import read_set
from lrqk_cli.bench.report import Report
from lrqk_cli.bench.suite import OnProgress, Suite, SuiteOptions
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.models.loading import LoadedModel


class QaSuite(Suite):
    """See ``Suite``."""

    name = "qa"
    known_modes = ("lrqk", "resident", "paper", "dense", "offload")
    default_modes = ("lrqk", "dense")
    options = frozenset({"qa_data", "samples", "vary", "lookup", "plot"})

    def __init__(self, asked: SuiteOptions) -> None:
        super().__init__(asked)
        self._require_positive("samples")
        if not asked.qa_data:
            raise UsageError(
                "--suite qa needs documents with questions.",
                "Give --qa-data a JSONL file of L-Eval or LongBench.",
            )
        self._sets = [read_set(path) for path in asked.qa_data]
        names = [found.name for found in self._sets]
        if len(set(names)) < len(names):
            raise UsageError("Two files of --qa-data have the same name.", "Rename one of them.")

    def measure(self, loaded: LoadedModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        """See ``Suite``."""
        from lrqk_cli.bench.qa import results as summary
        from lrqk_cli.bench.qa import run

        modes = self._modes(planned)
        results, ended_by = collect(run.run_sets(loaded, modes, self.asked, self._sets, on_progress))
        differences = summary.differences(results)
        return Report(
            {
                "name": self.name,
                "samples": self.asked.samples,
                "qa_data": [path.name for path in self.asked.qa_data],
            },
            results,
            summary.table(results),
            differences,
            [summary.sentence(difference) for difference in differences],
            modes,
            summary.chart(results),
            ended_by,
        )
