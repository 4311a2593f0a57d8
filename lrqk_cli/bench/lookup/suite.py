"""The lookup suite: the speed of answers that copy from a document, and of answers that do not."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from lrqk_cli.bench.collect import collect
from lrqk_cli.bench.report import Report
from lrqk_cli.bench.suite import READING, OnProgress, Suite, SuiteOptions
from lrqk_cli.bench.text import file_name, read_texts, sentences
from lrqk_cli.errors import UsageError
from lrqk_cli.memory import accounting

if TYPE_CHECKING:
    from lrqk_cli.bench.planning import BenchPlan
    from lrqk_cli.models.loading import LoadedModel

_NEW_TOKENS = 256


class LookupSuite(Suite):
    """See ``Suite``."""

    name = "lookup"
    known_modes = ("lrqk", "resident")
    default_modes = ("lrqk",)
    options = READING | {"new_tokens", "haystack", "seed", "lookup"}

    def __init__(self, asked: SuiteOptions) -> None:
        super().__init__(asked)
        self._new_tokens = asked.new_tokens if "new_tokens" in asked.given else _NEW_TOKENS
        self._require_positive("new_tokens")
        if asked.haystack is None:
            self._text = "".join(islice(sentences(asked.seed), max(asked.contexts) // 8 + 64))
        else:
            self._text = "\n\n".join(read_texts(asked.haystack, asked.limits))

    def measure(self, loaded: LoadedModel, planned: BenchPlan, on_progress: OnProgress) -> Report:
        """See ``Suite``."""
        from lrqk_cli.bench.lookup import results as summary
        from lrqk_cli.bench.lookup.run import LookupRun, run_context

        drafts = accounting.draft_tokens(loaded.spec, planned.config)
        if not drafts:
            raise UsageError(
                "There are no drafts to measure with this model and these settings.",
                "Give --lookup 3; the model needs full attention in all layers, and at most 16 query heads "
                "for each KV head.",
            )
        modes = self._modes(planned)
        runs = (
            (context, LookupRun(mode, config, self._text, self.asked.seed, self._new_tokens))
            for context in self.asked.contexts
            for mode, config in modes.items()
        )
        results, ended_by = collect(
            result for context, run in runs for result in run_context(loaded, run, context, on_progress)
        )
        means = summary.kind_means(results)
        return Report(
            {
                "name": self.name,
                "haystack": file_name(self.asked.haystack),
                "seed": self.asked.seed,
                "new_tokens": self._new_tokens,
                "drafts": drafts,
            },
            results,
            summary.table(means),
            means,
            modes=modes,
            ended_by=ended_by,
        )
