"""The fidelity suite: distributions compared with full attention's, along full attention's answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrqk_cli.bench.collect import collect
from lrqk_cli.bench.fidelity.cases import ALL_TASKS, QA, TEXT, PromptInputs
from lrqk_cli.bench.qa.data import read_set
from lrqk_cli.bench.report import Report
from lrqk_cli.bench.ruler.suite import PROMPT_OPTIONS, prompt_facts, task_inputs
from lrqk_cli.bench.ruler.tasks import READ_BY, check_tasks, refuse_idle_inputs
from lrqk_cli.bench.suite import READING, OnProgress, Suite, SuiteOptions
from lrqk_cli.bench.text import file_name, text_tokens

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.models.loading import LoadedModel

_READ_BY = {**READ_BY, "qa_data": (*READ_BY["qa_data"], QA), "text": (TEXT,)}


class FidelitySuite(Suite):
    """See ``Suite``."""

    name = "fidelity"
    known_modes = ("lrqk", "resident", "paper")
    default_modes = ("lrqk", "resident")
    options = (
        PROMPT_OPTIONS
        | READING
        | {"new_tokens", "text", "tasks", "samples", "turns", "vary", "layers", "plot"}
    )

    def __init__(self, asked: SuiteOptions) -> None:
        super().__init__(asked)
        tasks = check_tasks(asked.tasks or (TEXT,), ALL_TASKS)
        refuse_idle_inputs(asked.given, tasks, _READ_BY)
        self.asked = replace(self.asked, tasks=tasks)
        self._require_positive("new_tokens", "samples", "turns")
        # L-Eval's and LongBench's files hold one JSON object a line, those of RULER's tasks are one object.
        by_line = [path for path in asked.qa_data if path.suffix == ".jsonl"]
        self._sets = [read_set(path) for path in by_line]
        others = tuple(path for path in asked.qa_data if path not in by_line)
        self._sources = task_inputs(replace(asked, qa_data=others))

    def measure(self, loaded: LoadedModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        """See ``Suite``."""
        from lrqk_cli.bench.fidelity import results, run, table
        from lrqk_cli.models.prompt import ChatPrompt

        asked = self.asked
        modes = self._modes(planned)
        most = max(asked.contexts) * asked.samples if TEXT in asked.tasks else 0
        text = text_tokens(asked.text, loaded.tokenizer, most, asked.limits)
        material = PromptInputs(ChatPrompt(loaded.tokenizer), text, self._sources, self._sets)
        found, ended_by = collect(run.run_fidelity(loaded, modes, asked, material, on_progress))
        together = results.overall(found)
        return Report(
            {
                "name": self.name,
                "tasks": asked.tasks,
                "samples": asked.samples,
                "new_tokens": asked.new_tokens,
                "turns": asked.turns,
                "text": file_name(asked.text),
                **prompt_facts(asked),
            },
            found,
            table.table(found, together),
            together,
            table.notes(found, together),
            modes,
            table.chart(together),
            ended_by,
        )
