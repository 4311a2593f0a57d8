"""Sources of an answer as a table on the terminal, and as one line."""

from __future__ import annotations

import io
from dataclasses import replace

from lrqk_cli.chat.events import AnswerSources, DocumentUse, SourcePage, Strip
from lrqk_cli.terminal.console import CleanConsole
from lrqk_cli.terminal.sources_view import sources_line, sources_view


def shown(sources: AnswerSources, **options: object) -> str:
    file = io.StringIO()
    console = CleanConsole(file=file, width=80, **options)
    console.print(sources_view(sources, console))
    return file.getvalue()


def test_the_view_fits_80_columns_and_steers_no_terminal():
    title = "a report with a title that is very long indeed, longer than a third of the screen.pdf"
    use = DocumentUse(title, title, 2, 0, 90)
    page = SourcePage(use, 2, 1.0, "It employs 4\x1b[2J12 people.")
    view = shown(AnswerSources([page], [Strip(use, [0.0, 1.0])]))
    assert "\x1b" not in view
    assert max(map(len, view.splitlines())) <= 80
    assert "100%" in view
    assert "█" in view
    assert r"employs 4\x1b[2J12 people." in " ".join(view.split())


def test_without_documents_the_view_says_so_and_the_line_is_empty():
    assert "no documents" in shown(AnswerSources([], []))
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
