"""Scores of free answers, each in [0, 1], as the authors of the sets compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rapidfuzz.distance import LCSseq

from lrqk_cli.bench.qa.data import Metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# "(B) They were", "B.", "The answer is (A) and (C)"; a single letter within a word is none.
_OPTION = re.compile(r"\(([A-D])\)|\b([A-D])\b(?!')")


def score(metric: Metric, answer: str, references: Sequence[str]) -> float:
    """Return the best score of an answer over the references."""
    return max((_METRICS[metric](answer, reference) for reference in references), default=0.0)


def _choice(answer: str, reference: str) -> float:
    """Return 1 if the answer begins with the options of the reference, and names no others there."""
    right = _options(reference)
    return float(bool(right) and _options(answer.strip().partition("\n")[0]) == right)


def _options(text: str) -> set[str]:
    """Return the options that a text begins with: up to the first words that are not options."""
    found = set[str]()
    place = 0
    for match in _OPTION.finditer(text):
        if found and re.search(r"\w", re.sub(r"\band\b", "", text[place : match.start()])):
            break
        found.add(match[1] or match[2])
        place = match.end()
    return found


def _f1(answer: str, reference: str) -> float:
    """Return the F1 of the words of SQuAD (Rajpurkar et al., 2016), with counts."""
    said, right = _words(answer), _words(reference)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L's F1: the longest common subsequence of words (Lin, 2004)."""
    said, right = answer.lower().split(), reference.lower().split()
    common = LCSseq.similarity(said, right)
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


_METRICS: Mapping[Metric, Callable[[str, str], float]] = {
    "choice": _choice,
    "f1": _f1,
    "rouge_l": _rouge_l,
}
