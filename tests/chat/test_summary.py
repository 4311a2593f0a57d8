"""Sources of an answer in one line."""

from __future__ import annotations

from dataclasses import replace

from lrqk_cli.chat.events import AnswerSources, DocumentUse, SourcePage
from lrqk_cli.chat.summary import sources_line


def test_without_documents_the_line_is_empty():
    assert sources_line(AnswerSources([], [])) == ""


def test_the_line_names_the_best():
    page = SourcePage(DocumentUse("a.pdf", "a.pdf", 2, 0, 90), 2, 1.0, "It employs 412 people.")
    assert sources_line(AnswerSources([page], [])) == "Sources: a.pdf, page 2 (100%)"
    scan = replace(page, by_ocr=True)
    assert sources_line(AnswerSources([scan], [])) == "Sources: a.pdf, page 2, read by OCR (100%)"


def test_the_line_names_each_document_once():
    first, second = DocumentUse("a.pdf", "a.pdf", 9, 0, 5), DocumentUse("b", "b", 0, 5, 9)
    pages = [SourcePage(first, 4, 0.5, ""), SourcePage(second, None, 0.3, ""), SourcePage(first, 2, 0.2, "")]
    assert sources_line(AnswerSources(pages, [])) == "Sources: a.pdf, page 4 (50%), page 2 (20%); b (30%)"
