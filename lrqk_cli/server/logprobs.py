"""Log probabilities in the protocol's form."""

from __future__ import annotations

from collections.abc import Sequence

from lrqk_cli.engine.events import TokenLogprobs
from lrqk_cli.server.protocol import ChatLogprobs, ChosenEntry, LogprobEntry, TextLogprobs
from lrqk_cli.server.vocabulary import Vocabulary

# JSON has no infinity; the protocol's number for what is all but impossible.
_LEAST = -9999.0


def chat_logprobs(noted: Sequence[TokenLogprobs], vocabulary: Vocabulary) -> ChatLogprobs:
    """Return the tokens of an answer, or of a part of it."""
    return ChatLogprobs(content=[_chosen(each, vocabulary) for each in noted])


def text_logprobs(noted: Sequence[TokenLogprobs], vocabulary: Vocabulary, offset: int) -> TextLogprobs:
    """Return the tokens of a continuation, or of a part of it.

    Args:
        offset: characters of the continuation before them.
    """
    entries = [_chosen(each, vocabulary) for each in noted]
    offsets = [offset]
    for entry in entries:
        offsets.append(offsets[-1] + len(entry.token))
    return TextLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[{top.token: top.logprob for top in entry.top_logprobs} for entry in entries],
        text_offset=offsets[:-1],
    )


def _chosen(noted: TokenLogprobs, vocabulary: Vocabulary) -> ChosenEntry:
    top = [_entry(token, logprob, vocabulary) for token, logprob in noted.top]
    return ChosenEntry(**dict(_entry(noted.token, noted.logprob, vocabulary)), top_logprobs=top)


def _entry(token: int, logprob: float, vocabulary: Vocabulary) -> LogprobEntry:
    content = vocabulary.bytes_of(token)
    return LogprobEntry(
        token=content.decode("utf-8", "replace"), logprob=max(logprob, _LEAST), bytes=[*content]
    )
