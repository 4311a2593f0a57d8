"""Needles in a haystack: one or more values to be found by their keys."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lrqk_cli.bench.ruler.essay import Essay, insert_between_sentences
from lrqk_cli.bench.ruler.sample import Build, Sample
from lrqk_cli.bench.ruler.words import word_pair

NOISE = "The field is wide. The rain is soft. The lamp is low. Off we walk. Then home once more."
_MAX_NEW_TOKENS = 128
# The most other keys that later turns can ask about.
_FOLLOW_UPS = 8
_DEPTHS = tuple(step / 39 for step in range(40))


@dataclass(frozen=True, slots=True)
class NeedleTask:
    """The needles and the haystack of a task.

    Attributes:
        haystack: one repeated line of noise, an essay, or needles that the question does not ask for.
        keys: number of different keys, at least ``queries``.
        values: needles of each key.
        queries: keys that the question asks for.
    """

    haystack: Literal["noise", "essay", "needles"]
    key_kind: Literal["words", "UUIDs"] = "words"
    value_kind: Literal["numbers", "UUIDs"] = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


NEEDLE_TASKS = {
    "niah_single_1": NeedleTask("noise"),
    "niah_single_2": NeedleTask("essay"),
    "niah_single_3": NeedleTask("essay", value_kind="UUIDs"),
    "niah_multikey_1": NeedleTask("essay", keys=4),
    "niah_multikey_2": NeedleTask("needles"),
    "niah_multikey_3": NeedleTask("needles", key_kind="UUIDs", value_kind="UUIDs"),
    "niah_multivalue": NeedleTask("essay", values=4),
    "niah_multiquery": NeedleTask("essay", keys=4, queries=4),
}


def needle_builder(name: str, key: str, essay: Essay) -> tuple[Build, int]:
    """Return the builder of a sample, and the fewest units of haystack: lines, or words of the essay.

    Args:
        name: one of ``NEEDLE_TASKS``.
        key: seed of every random choice.
    """
    task = NEEDLE_TASKS[name]
    count = task.keys * task.values

    def build(units: int) -> Sample:
        rng = random.Random(key)
        new_key, new_value = _distinct(rng, task.key_kind), _distinct(rng, task.value_kind)
        values = {new_key(): [new_value() for _ in range(task.values)] for _ in range(task.keys)}
        hay: dict[str, str] = {}
        needles = [_needle(task, k, v) for k, of_key in values.items() for v in of_key]
        rng.shuffle(needles)
        asked = rng.sample(sorted(values), task.queries)
        if task.haystack == "essay":
            depths = sorted(rng.sample(_DEPTHS, count))
            words = essay.passage(rng.choice(essay.starts), units)
            context = insert_between_sentences(words, needles, depths)
        else:
            lines = [NOISE] * units
            if task.haystack == "needles":
                hay = {new_key(): new_value() for _ in range(units)}
                lines = [_needle(task, k, v) for k, v in hay.items()]
            for at, needle in zip(sorted(rng.sample(range(units + 1), count)), needles, strict=True):
                lines.insert(at, needle)
            context = "\n".join(lines)
        others = [k for k in (*values, *hay) if k not in asked]
        others = random.Random(f"{key}:others").sample(others, min(len(others), _FOLLOW_UPS))
        references = tuple(v for k in asked for v in values[k])
        return _worded(name, task, context, asked, references, others)

    return build, max(8, count)


def _needle(task: NeedleTask, key: str, value: str) -> str:
    return f"One of the secret {task.value_kind} for {key} is: {value}."


def _worded(
    name: str,
    task: NeedleTask,
    context: str,
    asked: list[str],
    references: tuple[str, ...],
    others: list[str],
) -> Sample:
    what, verb, question, prefix = _question(task, asked)
    some = "A" if len(references) == 1 else "Some"
    prompt = (
        f"{some} {what} {verb} hidden in the text below. Read it with care, because you will be asked about "
        f"the {what} afterwards.\n{context}\n{question}"
    )
    follow_ups = tuple(_question(task, [other])[2:] for other in others)
    return Sample(name, prompt, prefix, references, _MAX_NEW_TOKENS, follow_ups)


def _question(task: NeedleTask, asked: list[str]) -> tuple[str, str, str, str]:
    """Return the noun of the needles, its verb, the question, and the beginning of the answer."""
    whose = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
    if len(asked) * task.values == 1:
        what, verb, every = f"secret {task.value_kind[:-1]}", "is", ""
    else:
        what, verb, every = f"secret {task.value_kind}", "are", " all"
    question = f"What {verb}{every} the {what} for {whose} that the text above mentions?"
    return what, verb, question, f"The {what} for {whose} that the text above mentions {verb}"


def _distinct(rng: random.Random, kind: str) -> Callable[[], str]:
    """Return a function that never returns a value twice."""
    draw = {"words": word_pair, "numbers": _number, "UUIDs": _uuid}[kind]
    seen: set[str] = set()

    def new() -> str:
        while (value := draw(rng)) in seen:
            pass
        seen.add(value)
        return value

    return new


def _number(rng: random.Random) -> str:
    return str(rng.randrange(10**6, 10**7))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
