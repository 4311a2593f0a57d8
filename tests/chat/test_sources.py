"""Sources of an answer: attribution to pages, passages, and what a session makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_chat import FakeDocument, FakeEngine, FakePrompt, FakeStream, new_session

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.events import Answer, AnswerSources
from lrqk_cli.chat.remote_answer import RemoteAnswer
from lrqk_cli.chat.sources import find_sources, sentence_at
from lrqk_cli.documents.document import Document, Page
from lrqk_cli.endpoint.protocol import Chunk

FIRST = "The plant is in Brannock. It employs 412 people. It was built in 1971. "
SECOND = "The chairman is Tobin Hallgrave. He lives in Oxmere. "
FILLER = "Nothing of note happened on this day in the valley. " * 8


def conversation_about(*documents: FakeDocument) -> Conversation:
    conversation = Conversation(FakePrompt())
    for document in documents:
        conversation.add_document(document)
    conversation.add_question("How many?")
    return conversation


def weigh(conversation: Conversation, *looks: tuple[str, float]) -> list[float]:
    """Return an even weight, and some more where the texts stand."""
    text = "".join(map(chr, conversation.tokens))
    weights = [0.01] * len(text)
    for words, weight in looks:
        start = text.index(words)
        weights[start : start + len(words)] = [weight] * len(words)
    return weights


def find(conversation: Conversation, *looks: tuple[str, float]) -> AnswerSources:
    return find_sources(weigh(conversation, *looks), conversation, FakeStream)


def test_pages_are_named_best_first_with_the_sentence_that_had_most():
    conversation = conversation_about(
        FakeDocument("a.pdf", [FILLER, FIRST + FILLER]),
        FakeDocument("b.pdf", [FILLER, SECOND], first_page=7, by_ocr=True),
    )
    sources = find(conversation, ("412 people", 2.0), ("Tobin Hallgrave", 1.0))
    best, second = sources.pages
    assert (best.document.title, best.page) == ("a.pdf", 2)
    assert best.passage == "It employs 412 people."
    assert (second.document.title, second.page) == ("b.pdf", 8)
    assert second.passage == "The chairman is Tobin Hallgrave."
    assert [best.by_ocr, second.by_ocr] == [False, True]
    assert best.share > second.share > 0
    assert best.share + second.share == pytest.approx(1.0)


def test_an_even_look_however_long_counts_for_nothing_beside_a_peak():
    """A page of many tokens has most of the weight, and none of it is beyond the others'."""
    conversation = conversation_about(FakeDocument("a.pdf", [FILLER * 5, FIRST]))
    weights = weigh(conversation, ("412 people", 1.0))
    page = conversation.page_spans[0]
    assert sum(weights[page.start : page.end]) > sum(weights[page.end :]) / 3
    sources = find_sources(weights, conversation, FakeStream)
    assert [(source.page, source.share) for source in sources.pages] == [(2, 1.0)]


@pytest.mark.parametrize("words", ["<document", "Hallgrave", "</document>"])
def test_a_passage_has_no_marks_of_the_document(words):
    text = SECOND.strip()
    conversation = conversation_about(Document(Path("b.txt"), "b.txt", (Page(None, text),)))  # type: ignore[arg-type]
    (source,) = find(conversation, (words, 2.0)).pages
    expected = "He lives in Oxmere." if words == "</document>" else "The chairman is Tobin Hallgrave."
    assert source.passage == expected


def test_sinks_outside_the_documents_do_not_count():
    conversation = conversation_about(FakeDocument("a.pdf", [FILLER, FIRST + FILLER]))
    weights = weigh(conversation, ("412 people", 1.0))
    weights[0] = weights[-1] = 1e4
    assert find_sources(weights, conversation, FakeStream).pages[0].page == 2


def test_without_peaks_all_weights_count():
    conversation = conversation_about(FakeDocument("a.pdf", ["one two", "three"]))
    sources = find(conversation, ("three", 0.02))
    assert [source.page for source in sources.pages] == [2, 1]
    assert sum(source.share for source in sources.pages) == pytest.approx(1.0)


def test_a_document_without_pages_is_looked_at_in_stretches():
    document = FakeDocument("notes.txt", [FILLER * 3 + FIRST + FILLER], first_page=None)
    sources = find(conversation_about(document), ("412 people", 1.0))
    assert [(source.page, source.passage) for source in sources.pages] == [(None, "It employs 412 people.")]


def test_nothing_is_found_where_there_is_nothing_to_rest_on():
    conversation = conversation_about()
    assert find_sources([1.0] * len(conversation.tokens), conversation, FakeStream) == AnswerSources([], [])
    weightless = conversation_about(FakeDocument("a.pdf", ["one"]))
    assert find_sources([0.0] * len(weightless.tokens), weightless, FakeStream).pages[0].share == 0.0


def test_a_document_that_came_later_is_left_out():
    """Its tokens have no weights yet."""
    conversation = conversation_about(FakeDocument("a.pdf", [FIRST]))
    weights = weigh(conversation, ("412 people", 1.0))
    conversation.add_document(FakeDocument("b.pdf", [SECOND]))
    sources = find_sources(weights, conversation, FakeStream)
    assert [source.document.title for source in sources.pages] == ["a.pdf"]
    assert [strip.document.title for strip in sources.strips] == ["a.pdf"]


def test_the_strip_is_hot_where_the_answer_looked():
    conversation = conversation_about(FakeDocument("a.pdf", [FILLER, FILLER, FILLER + FIRST]))
    (strip,) = find(conversation, ("412 people", 1.0)).strips
    assert len(strip.heat) == 60
    assert strip.heat.index(max(strip.heat)) > 50
    assert sum(1 for heat in strip.heat if heat) <= 3


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (0, "One is here."),
        (12, "One is here."),
        (14, "Is two?"),
        (30, "Three has no end"),
        (99, "Three has no end"),
    ],
)
def test_a_sentence_is_found_by_any_of_its_characters(position, expected):
    assert sentence_at("One is here.\n Is two?  Three\nhas no end", position) == expected


@pytest.mark.parametrize("position", [0, 500, 1198])
def test_a_long_sentence_is_cut_around_the_place_between_words(position):
    text = "".join(f"w{number:03} " for number in range(240))
    cut = sentence_at(text, position)
    assert text[position : position + 5].split()[0] in cut
    assert len(cut) <= 204
    assert cut.startswith("… ") == (position > 0)
    assert cut.endswith(" …") == (position < 1198)


def test_the_mark_of_a_page_is_no_part_of_its_first_sentence():
    assert sentence_at("[Page 5]\nOne is here. Two.", 12) == "One is here."


def test_no_text_has_no_sentence():
    assert sentence_at("", 0) == ""


def ask(session) -> Answer:
    *_, answer = session.ask("How many?")
    assert isinstance(answer, Answer)
    return answer


def test_answers_carry_sources_while_they_are_noted():
    engine = FakeEngine(looks_at="412 people")
    session = new_session(engine, [FakeDocument("a.pdf", [FILLER[:200], FIRST])])
    assert ask(session).sources is None
    assert not engine.tracks
    session.note_sources(True)
    answer = ask(session)
    assert answer.sources is not None
    assert answer.sources.pages[0].page == 2
    assert session.conversation.exchanges[-1].sources is answer.sources
    session.note_sources(False)
    assert ask(session).sources is None


def test_pages_that_this_side_read_by_ocr_are_named_so_by_a_server_too():
    document = FakeDocument("a.pdf", ["one", "two"])
    scan = replace(document.sections()[2], by_ocr=True)
    document.sections = lambda: [*FakeDocument.sections(document)[:2], scan]
    answer = RemoteAnswer(conversation_about(document), 0.0)
    told = [{"number": 0, "page": page, "share": 0.5, "passage": "A passage."} for page in (1, 2)]
    list(answer.take(Chunk("Yes.", "", "stop", None, {"sources": told, "heat": [[1.0]]})))
    sources = answer.result(is_stopped=False).sources
    assert sources is not None
    assert [source.by_ocr for source in sources.pages] == [False, True]
