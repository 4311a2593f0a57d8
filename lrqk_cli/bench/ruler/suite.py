"""The RULER suite: free-running answers, scored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrqk_cli.bench.collect import collect
from lrqk_cli.bench.report import Facts, Report
from lrqk_cli.bench.ruler.essay import Essay
from lrqk_cli.bench.ruler.questions import QA_FORMS, QaData, read_qa
from lrqk_cli.bench.ruler.tasks import TaskInputs, check_tasks, refuse_idle_inputs
from lrqk_cli.bench.suite import READING, OnProgress, Suite, SuiteOptions
from lrqk_cli.bench.text import file_name, read_texts
from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.models.loading import LoadedModel

# The options that determine the prompts of these tasks.
PROMPT_OPTIONS = frozenset({"haystack", "qa_data", "seed"})


class RulerSuite(Suite):
    """See ``Suite``."""

    name = "ruler"
    known_modes = ("lrqk", "resident", "paper", "dense", "offload")
    default_modes = ("lrqk", "dense")
    options = PROMPT_OPTIONS | READING | {"tasks", "samples", "vary", "lookup", "plot"}

    def __init__(self, asked: SuiteOptions) -> None:
        super().__init__(asked)
        tasks = check_tasks(asked.tasks or ("all",))
        refuse_idle_inputs(asked.given, tasks)
        self.asked = replace(self.asked, tasks=tasks)
        self._require_positive("samples")
        self._sources = task_inputs(asked)

    def measure(self, loaded: LoadedModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        """See ``Suite``."""
        from lrqk_cli.bench.ruler import run, summary

        modes = self._modes(planned)
        results, ended_by = collect(run.run_ruler(loaded, modes, self.asked, self._sources, on_progress))
        together = summary.averages(results)
        return Report(
            {"name": self.name, "samples": self.asked.samples, **prompt_facts(self.asked)},
            results,
            run.table(results),
            together,
            [summary.sentence(average) for average in together],
            modes,
            summary.chart(results),
            ended_by,
        )


def task_inputs(asked: SuiteOptions) -> TaskInputs:
    """Read the sources of the prompts.

    Raises:
        UsageError: two files hold the same task.
        DocumentError: the haystack or the questions cannot be read.
    """
    qa: dict[str, QaData] = {}
    for path in asked.qa_data:
        task, data = read_qa(path)
        if task in qa:
            raise UsageError(
                f"'{path}' is a second file in the form of {QA_FORMS[task]}.",
                "Give --qa-data one file of each form.",
            )
        qa[task] = data
    if asked.haystack is None:
        return TaskInputs(Essay.made_up(), qa)
    return TaskInputs(Essay("\n".join(read_texts(asked.haystack, asked.limits))), qa)


def prompt_facts(asked: SuiteOptions) -> Facts:
    """Return the facts with which a reader can make the same prompts."""
    return {
        "seed": asked.seed,
        "haystack": file_name(asked.haystack),
        "qa_data": [path.name for path in asked.qa_data],
    }
