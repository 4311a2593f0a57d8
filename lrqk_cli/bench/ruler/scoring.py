"""Scores by string match, and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrqk_cli.bench.ruler.questions import QA_FORMS

# The standard normal quantile of a two-sided 95% interval.
_Z = 1.959964


def recall(task: str, answer: str, references: Sequence[str]) -> float:
    """Return the share of the references that the answer contains, ignoring case, in [0, 1].

    For questions the references are alternatives, and one of them is enough.
    """
    found = [reference.lower() in answer.lower() for reference in references]
    return float(any(found)) if task in QA_FORMS else sum(found) / len(found)


def wilson_interval(recalls: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean recall, in [0, 1].

    It is Wilson's interval of a proportion, with the mean as the proportion. For graded recalls it is wider
    than necessary, because no values in [0, 1] vary more than zeros and ones of the same mean. Unlike a
    bootstrap it does not shrink to a point if all samples agree.
    """
    n, mean = len(recalls), math.fsum(recalls) / len(recalls)
    centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(mean * (1 - mean) / n + (_Z / (2 * n)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)
