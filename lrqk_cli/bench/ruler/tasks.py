"""The tasks by name: a sample depends on the task, its number, the context length and the seed alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lrqk_cli.bench.ruler.counting import common_words, frequent_words_builder
from lrqk_cli.bench.ruler.essay import Essay
from lrqk_cli.bench.ruler.needles import NEEDLE_TASKS, needle_builder
from lrqk_cli.bench.ruler.questions import QA_FORMS, QaData, question_builder
from lrqk_cli.bench.ruler.sample import Count, Sample, fill
from lrqk_cli.bench.ruler.tracing import tracking_builder
from lrqk_cli.errors import UsageError, did_you_mean
from lrqk_cli.naming import flag

TASKS: tuple[str, ...] = (*NEEDLE_TASKS, "vt", "cwe", "fwe", *QA_FORMS)
# Option -> the tasks that read it. (Some hide nothing in a haystack, and are measured beside those that do.)
READ_BY: dict[str, tuple[str, ...]] = {"haystack": TASKS, "qa_data": tuple(QA_FORMS), "seed": TASKS}


@dataclass(frozen=True, slots=True)
class TaskInputs:
    """The sources of the samples.

    Attributes:
        essay: the haystack of the tasks that hide needles in a text.
        qa: questions; a task without its file has no samples.
    """

    essay: Essay
    qa: Mapping[str, QaData] = field(default_factory=dict)


def check_tasks(names: Sequence[str], known: tuple[str, ...] = TASKS) -> tuple[str, ...]:
    """Return the named tasks; ``all`` names all of them.

    Args:
        known: the names of all tasks.

    Raises:
        UsageError: there is no such task.
    """
    if tuple(names) == ("all",):
        return known
    for name in names:
        if name not in known:
            raise UsageError(f"There is no task '{name}'.", did_you_mean(name, (*known, "all")))
    return tuple(names)


def refuse_idle_inputs(
    given: Collection[str], tasks: Sequence[str], read_by: Mapping[str, tuple[str, ...]] = READ_BY
) -> None:
    """Raise if an option on the command line is for other tasks only.

    Args:
        given: the options on the command line, by the names of their parameters.

    Raises:
        UsageError: there is one.
    """
    for option in sorted(read_by.keys() & set(given)):
        if not set(tasks) & set(read_by[option]):
            raise UsageError(
                f"{flag(option)} has no meaning for --tasks {','.join(tasks)}.",
                f"Leave it out, or add one of {', '.join(read_by[option])}.",
            )


def reason_to_skip(task: str, sources: TaskInputs) -> str | None:
    """Return the reason for which a task cannot have samples, or None."""
    if task in QA_FORMS and task not in sources.qa:
        return f"no --qa-data in the form of {QA_FORMS[task]}"
    return None


def make_sample(task: str, index: int, context: int, seed: int, sources: TaskInputs, count: Count) -> Sample:
    """Return sample number ``index`` of a task, filled up to ``context`` tokens.

    Args:
        task: one of ``TASKS``, for which there is no ``reason_to_skip``.
        count: tokens of a sample as the model sees it, the room for its answer included.

    Raises:
        ContextLengthError: the context is too short for the task.
    """
    key = f"{seed}:{task}:{index}:{context}"
    if task == "cwe":
        return common_words(task, key, context, count)
    if task in NEEDLE_TASKS:
        build, fewest = needle_builder(task, key, sources.essay)
    elif task == "vt":
        build, fewest = tracking_builder(task, key)
    elif task == "fwe":
        build, fewest = frequent_words_builder(task, key, context)
    else:
        build, fewest = question_builder(task, key, seed, index, sources.qa[task])
    return fill(build, count, context, fewest)
