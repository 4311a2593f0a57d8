"""Finds the pages that an answer rests on, by the attention weights of their tokens.

A model gives every token some weight, the first and newest tokens more, and the tokens that it quotes much.
So only the weight of a token above ten times the mean over all documents counts.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.events import AnswerSources, DocumentUse, SourcePage, Strip

if TYPE_CHECKING:
    from lrqk_cli.models.prompt import Detokenizer

# Measured on questions whose page is known; 5 to 20 give nearly the same pages. See docs/sources.md.
_FLOOR = 10.0
_WINDOW = 16
_MOST_SOURCES = 8
_LEAST_SHARE = 0.02
# Tokens of the stretches into which a document without pages is cut.
_STRETCH = 512
_CELLS = 60
_MOST_CHARACTERS = 200
# Tokens on each side of a passage's middle: enough for a whole passage even at one character a token.
_NEIGHBOURS = 160
_HEADER, _FOOTER = re.compile(r'<document title="[^"\n]*">\n'), "</document>"
# The mark at the start of a page does not belong to its first sentence.
_SENTENCE_END = re.compile(r"\A\[[^\]\n]*\]\n|[.!?][\"'”’)\]]*\s+|\n\s*\n")


def find_sources(
    weights: Sequence[float], conversation: Conversation, new_stream: Callable[[bool], Detokenizer]
) -> AnswerSources:
    """Attribute an answer to the pages of the conversation's documents.

    Args:
        weights: attention weights, one a token of the conversation.
        new_stream: makes a decoder for tokens that go on with a text, or do not.
    """
    places = _places(conversation)
    read = [place for place in places if place.end <= len(weights)]
    count = sum(place.end - place.start for place in read)
    if not count:
        return AnswerSources([], [])
    everything = _sum_over(read, weights)
    floor = _FLOOR * everything / count
    credit = [max(0.0, weight - floor) for weight in weights]
    total = _sum_over(read, credit)
    if not total:
        # A short text, or even attention over it, has no token above the floor.
        credit, total = list(weights), everything
    sums = [*accumulate(credit, initial=0.0)]
    found = [_Found((sums[place.end] - sums[place.start]) / total if total else 0.0, place) for place in read]
    documents = conversation.documents
    sources = [
        SourcePage(
            documents[best.place.document],
            best.place.page,
            share,
            _passage(conversation.tokens, best.place, sums, new_stream(False)),
            best.place.by_ocr,
        )
        for share, best in _best_pages(found)
    ]
    strips = [_strip(use, sums) for use in documents if use.end <= len(weights)]
    return AnswerSources(sources, strips)


@dataclass(frozen=True, slots=True)
class _Place:
    """A page, a part of a page, or a stretch of a document without pages; see ``PageSpan``."""

    document: int
    page: int | None
    start: int
    end: int
    by_ocr: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    share: float
    place: _Place


def _places(conversation: Conversation) -> list[_Place]:
    spans = conversation.page_spans
    places = [_Place(span.document, span.page, span.start, span.end, span.by_ocr) for span in spans]
    paged = {span.document for span in spans}
    for index, use in enumerate(conversation.documents):
        if index not in paged:
            for start in range(use.start, use.end, _STRETCH):
                places.append(_Place(index, None, start, min(start + _STRETCH, use.end)))
    return places


def _sum_over(places: Sequence[_Place], values: Sequence[float]) -> float:
    return sum(sum(values[place.start : place.end]) for place in places)


def _best_pages(found: Sequence[_Found]) -> Iterator[tuple[float, _Found]]:
    """Yield pages by descending share, each with its best part; leave out pages below the least share."""
    pages: dict[tuple[int, int | None, int], list[_Found]] = {}
    for part in found:
        place = part.place
        stretch = place.start if place.page is None else 0
        pages.setdefault((place.document, place.page, stretch), []).append(part)
    shares = [(sum(part.share for part in parts), parts) for parts in pages.values()]
    shares.sort(key=lambda item: -item[0])
    for number, (share, parts) in enumerate(shares[:_MOST_SOURCES]):
        if number == 0 or share >= _LEAST_SHARE:
            yield share, max(parts, key=lambda part: part.share)


def _passage(tokens: Sequence[int], place: _Place, sums: Sequence[float], stream: Detokenizer) -> str:
    """Return the sentence in the middle of the window with the highest sum, shortened if it is long."""
    last = max(place.start, place.end - _WINDOW)
    first = max(
        range(place.start, last + 1),
        key=lambda start: sums[min(start + _WINDOW, place.end)] - sums[start],
    )
    middle = min(first + _WINDOW // 2, place.end - 1)
    # Decoding takes time, so decode only the tokens that a passage can need.
    begin, end = max(place.start, middle - _NEIGHBOURS), min(place.end, middle + _NEIGHBOURS)
    pieces = [stream.push(token) for token in tokens[begin:end]]
    pieces.append(stream.flush())
    ends, text = [*accumulate(map(len, pieces))], "".join(pieces)
    # A document without pages is a place with its header and its footer.
    mark = _HEADER.match(text)
    first = mark.end() if mark is not None else 0
    return sentence_at(text[first:].partition(_FOOTER)[0], ends[middle - begin] - 1 - first)


def sentence_at(text: str, position: int) -> str:
    """Return the sentence around a character, on one line, of about 200 characters at most."""
    bounds = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    position = min(max(position, 0), max(len(text) - 1, 0))
    number = min(bisect_right(bounds, position), len(bounds) - 1)
    start, end = bounds[number - 1], bounds[number]
    if end - start <= _MOST_CHARACTERS:
        return " ".join(text[start:end].split())
    half = _MOST_CHARACTERS // 2
    first = min(max(start, position - half), end - _MOST_CHARACTERS)
    stop = first + _MOST_CHARACTERS
    cut = text[first:stop]
    before, after = "", ""
    if first > start:
        before, cut = "… ", cut.split(maxsplit=1)[-1]
    if stop < end:
        after, cut = " …", cut.rsplit(maxsplit=1)[0]
    return before + " ".join(cut.split()) + after


def _strip(use: DocumentUse, sums: Sequence[float]) -> Strip:
    """Return the sum of each cell of a document; a short document has fewer cells."""
    cells = min(_CELLS, use.tokens)
    bounds = [use.start + use.tokens * cell // cells for cell in range(cells + 1)]
    return Strip(use, [sums[end] - sums[start] for start, end in pairwise(bounds)])
