"""Text to measure with: a file, or made-up sentences that all differ and are the same in every run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.documents.limits import ReadLimits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PEOPLE = ("The surveyor", "A merchant", "The harbour master", "Her cousin", "The clerk", "An old pilot")
_ACTIONS = ("recorded", "disputed", "forgot", "repaid", "promised", "counted", "inherited", "refused")
_THINGS = ("barrels of tar", "letters", "acres of marsh", "silver spoons", "bolts of linen", "sheep")
_PLACES = ("at the mill", "near the chapel", "in the archive", "by the north gate", "on the island")
_WHEN = ("in spring", "after the flood", "before the vote", "during the fair", "in the year of the comet")
_AFTER = (
    "and nobody asked why",
    "which the council noted without comment",
    "although the price had doubled",
    "so the ledger was opened again",
    "but the weather turned that night",
)


def sentences(seed: int) -> Iterator[str]:
    """Yield made-up sentences without end."""
    choose = random.Random(seed)
    while True:
        yield (
            f"{choose.choice(_PEOPLE)} {choose.choice(_ACTIONS)} {choose.randrange(2, 9000)} "
            f"{choose.choice(_THINGS)} {choose.choice(_PLACES)} {choose.choice(_WHEN)}, "
            f"{choose.choice(_AFTER)}. "
        )


def synthetic_tokens(encode: Callable[[str], list[int]], count: int, seed: int = 0) -> list[int]:
    """Return ``count`` tokens of made-up text.

    Args:
        encode: text to token ids.
    """
    tokens: list[int] = []
    source = sentences(seed)
    while len(tokens) < count:
        tokens.extend(encode("".join(next(source) for _ in range(64))))
    return tokens[:count]


def random_tokens(vocabulary: int, count: int, seed: int = 0) -> list[int]:
    """Return ``count`` token ids drawn uniformly from a vocabulary, for a model without a tokenizer."""
    return random.Random(seed).choices(range(vocabulary), k=count)


def text_tokens(
    path: Path | None, tokenizer: PreTrainedTokenizerBase, count: int, limits: ReadLimits
) -> list[int]:
    """Return all tokens of a text, or ``count`` tokens of made-up sentences if ``path`` is None.

    Raises:
        DocumentError: the text cannot be read within the limits.
    """

    def encode(part: str) -> list[int]:
        return list(tokenizer.encode(part, add_special_tokens=False))

    if path is None:
        return synthetic_tokens(encode, count)
    return [token for text in read_texts(path, limits) for token in encode(text)]


def read_texts(path: Path, limits: ReadLimits) -> list[str]:
    """Return the text of each document in a file or a folder.

    Raises:
        DocumentError: one cannot be read within the limits.
    """
    from lrqk_cli.documents import read_documents

    return [document.text for document in read_documents([path], limits=limits)]


def file_name(path: Path | None) -> str:
    """Return the name of a text in reports; ``path`` is None for made-up text."""
    return "made-up sentences" if path is None else path.name
