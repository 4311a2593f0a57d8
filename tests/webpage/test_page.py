"""The page of a conversation: what it shows, and that nothing in it loads or runs anything."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from fake_chat import FakeDocument, FakeEngine, FileDocument, new_session, report_document

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.session import Session
from lrqk_cli.documents import Document, Page
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.webpage import illustrations
from lrqk_cli.webpage.build import to_page
from lrqk_cli.webpage.prose import to_html

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
# Attributes whose value a browser follows or runs by itself, and those that it follows when they are used.
LOADS, FOLLOWED = {"src", "srcset", "data", "action", "poster", "background"}, {"href", "xlink:href"}


class Parsed(HTMLParser):
    """What a page has that could load or run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.ids, self.links, self.text = list[str](), list[str](), list[str](), ""
        self.loads, self.handlers = list[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.append(name)
            elif name in LOADS or (name in FOLLOWED and tag == "image"):
                self.loads.append(value or "")
            elif name in FOLLOWED:
                self.links.append(value or "")
            elif name == "id":
                self.ids.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def talk(document: FakeDocument, looks_at: str, answer: str = "412$", question: str = "How many?") -> Session:
    session = new_session(FakeEngine(answer, context=20_000, looks_at=looks_at), [document])
    session.note_sources(True)
    list(session.ask(question))
    return session


def page_of(conversation: Conversation) -> tuple[str, Parsed]:
    page = to_page(conversation, HOSTILE, ReadLimits())
    return page, Parsed(page)


def test_an_answer_has_the_picture_of_its_page_with_the_passage_marked() -> None:
    pytest.importorskip("pypdfium2")
    session = talk(report_document(), "plant employs 412")
    # It moves the document on.
    session.set_system("Answer in a word.")
    page, parsed = page_of(session.conversation)
    assert len(parsed.loads) == 1
    assert parsed.loads[0].startswith("data:image/webp;base64,")
    # The sentence stands on two lines; the picture is there small and large.
    assert page.count("<rect ") == 4
    assert parsed.tags.count("use") == 2
    assert "report.pdf, page 8: “The Brannock plant employs 412 people.”" in " ".join(parsed.text.split())
    targets = [link.removeprefix("#") for link in parsed.links]
    assert set(targets) <= {*parsed.ids}
    # A part of the strip leads to the same place as the small picture.
    assert targets.count("source-2-1") >= 2


def test_a_page_that_cannot_be_drawn_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    document = FakeDocument("gone.pdf", ["It rained. The plant employs 412 people. It snowed."])
    conversation = talk(document, "412 people").conversation
    for can_draw in (True, False):
        monkeypatch.setattr(illustrations, "can_draw", lambda can_draw=can_draw: can_draw)
        page, parsed = page_of(conversation)
        assert not parsed.loads
        assert "It rained. <mark>The plant employs 412 people.</mark> It snowed." in page


def test_a_page_that_takes_too_long_to_draw_is_shown_as_text() -> None:
    pytest.importorskip("pypdfium2")
    conversation = talk(FileDocument("report.pdf", ["The plant employs 412 people."]), "412").conversation
    page = to_page(conversation, "m", ReadLimits(timeout=1e-6))
    assert "<mark>The plant employs 412 people.</mark>" in page


def test_nothing_in_a_hostile_conversation_loads_or_runs() -> None:
    answer = (
        f"{HOSTILE} [a](javascript:alert(1)) [b](data:text/html,x) ![c](https://example.org/p.png) "
        "[d](https://example.org/) <https://example.org/e>\n\n```\n</code></pre><script>\n```\n\x1b[2J$"
    )
    document = FakeDocument(f"{HOSTILE}.pdf", [f"{HOSTILE} The plant employs 412 people."])
    session = talk(document, "412 people", answer, f"{HOSTILE}?")
    session.set_system(HOSTILE)
    page, parsed = page_of(session.conversation)
    assert not parsed.handlers
    assert not parsed.loads
    assert not {"script", "img", "iframe", "object", "embed", "form", "link", "base"} & {*parsed.tags}
    outward = [link for link in parsed.links if not link.startswith("#")]
    assert outward == ["https://example.org/", "https://example.org/e"]
    assert parsed.text.count("alert(1)") >= 8
    assert not re.search(r"url\(|@import|\x1b", page)
    assert "default-src 'none'" in page


def test_markdown_of_an_answer_is_rendered() -> None:
    assert "<strong>two</strong>" in to_html("**two**")
    assert "<td>1</td>" in to_html("| a |\n|---|\n| 1 |")
    assert to_html("![a <b>](https://example.org/x.png)").strip() == "<p><em>a &lt;b&gt;</em></p>"


def test_a_conversation_without_sources_has_questions_and_answers() -> None:
    session = new_session(FakeEngine("Yes.$"), [FakeDocument("a.pdf", ["one"])])
    list(session.ask("A?"))
    _, parsed = page_of(session.conversation)
    assert "A?" in parsed.text
    assert "Yes." in parsed.text
    assert "figure" not in parsed.tags


@pytest.mark.parametrize(("page", "count"), [(None, 0), (3, 9)])
def test_text_around_a_passage_has_no_marks_of_the_prompt(page: int | None, count: int) -> None:
    document = Document("a.txt", "a.txt", (Page(page, "First words. The secret is 42. Last words."),), count)
    found = illustrations.excerpt(document, page, "The secret is 42.")
    assert found == illustrations.Excerpt("First words. ", "The secret is 42.", " Last words.")
