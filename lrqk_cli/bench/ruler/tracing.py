"""Variable tracking: a chain of assignments among noise."""

from __future__ import annotations

import random
import string

from lrqk_cli.bench.ruler.needles import NOISE
from lrqk_cli.bench.ruler.sample import Build, Sample

_HOPS = 4
_MAX_NEW_TOKENS = 30
# The worked example before the question has shorter names and little noise.
_NAME_LETTERS, _EXAMPLE_LETTERS = 5, 3
_EXAMPLE_LINES = 10


def tracking_builder(name: str, key: str) -> tuple[Build, int]:
    """Return the builder of a sample, and the fewest units of haystack; a unit is a line of noise.

    Args:
        key: seed of every random choice.
    """

    def build(units: int) -> Sample:
        rng = random.Random(key)
        value, example_value = (str(number) for number in rng.sample(range(10_000, 100_000), 2))
        variables, example_variables = _names(rng, _NAME_LETTERS), _names(rng, _EXAMPLE_LETTERS)
        example, example_prefix = _worded(
            _hidden(rng, example_variables, example_value, _EXAMPLE_LINES), example_value
        )
        question, prefix = _worded(_hidden(rng, variables, value, units), value)
        shown = f"{example} {example_prefix} {' '.join(example_variables)}"
        return Sample(name, f"{shown}\n\n{question}", prefix, tuple(variables), _MAX_NEW_TOKENS)

    return build, 2 * (_HOPS + 1)


def _names(rng: random.Random, letters: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) <= _HOPS:
        names["".join(rng.choices(string.ascii_uppercase, k=letters))] = None
    return list(names)


def _hidden(rng: random.Random, variables: list[str], value: str, units: int) -> str:
    """Return lines of noise, with the assignments among them in the order of the chain."""
    right_hands = [value, *(f"VAR {variable}" for variable in variables)]
    chain = [f"VAR {left} = {right}" for left, right in zip(variables, right_hands, strict=False)]
    lines = [NOISE] * units
    for number, at in enumerate(sorted(rng.sample(range(units), len(chain)))):
        lines.insert(at + number, chain[number])
    return "\n".join(lines)


def _worded(context: str, value: str) -> tuple[str, str]:
    question = (
        "Follow the chain of variable assignments that is hidden in the text below.\n\n"
        f"{context}\n"
        f"Question: Which variables have the value {value} in the text above? Find all of them."
    )
    found = f"By the assignments in the text above, {_HOPS + 1} variables have the value {value}."
    return question, f"Answer: {found} They are:"
