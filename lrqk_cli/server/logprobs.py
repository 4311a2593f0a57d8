"""Log probabilities in the protocol's form."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence

from lrqk_cli.engine.events import TokenLogprobs
from lrqk_cli.server.protocol import ChatLogprobs, ChosenEntry, LogprobEntry, TextLogprobs
from lrqk_cli.server.vocabulary import Vocabulary

# JSON has no infinity; the protocol's number for what is all but impossible.
_LEAST = -9999.0


def chat_logprobs(noted: Sequence[TokenLogprobs], vocabulary: Vocabulary) -> ChatLogprobs:
    """Return the tokens of an answer, or of a part of it."""
    return ChatLogprobs(content=[_chosen(each, vocabulary) for each in noted])


class TextOffsets:
    """Counts the characters of a text before each of its tokens, which may hold parts of characters."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("ignore")
        self._characters = 0

    def place(self, content: Sequence[int]) -> int:
        """Return the offset of the next token, by its bytes."""
        before = self._characters
        self._characters += len(self._decoder.decode(bytes(content)))
        return before


def text_logprobs(
    noted: Sequence[TokenLogprobs], vocabulary: Vocabulary, offsets: TextOffsets
) -> TextLogprobs:
    """Return the tokens of a continuation, or of its next part.

    Args:
        offsets: of the continuation so far.
    """
    entries = [_chosen(each, vocabulary) for each in noted]
    return TextLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[{top.token: top.logprob for top in entry.top_logprobs} for entry in entries],
        text_offset=[offsets.place(entry.bytes) for entry in entries],
    )


def _chosen(noted: TokenLogprobs, vocabulary: Vocabulary) -> ChosenEntry:
    top = [_entry(token, logprob, vocabulary) for token, logprob in noted.top]
    return ChosenEntry(**dict(_entry(noted.token, noted.logprob, vocabulary)), top_logprobs=top)


def _entry(token: int, logprob: float, vocabulary: Vocabulary) -> LogprobEntry:
    content = vocabulary.bytes_of(token)
    return LogprobEntry(
        token=content.decode("utf-8", "replace"), logprob=max(logprob, _LEAST), bytes=[*content]
    )
