"""Sources of an answer as a table on the terminal."""

from __future__ import annotations

import io

from lrqk_cli.chat.events import AnswerSources, DocumentUse, SourcePage, Strip
from lrqk_cli.terminal.console import CleanConsole
from lrqk_cli.terminal.sources_view import sources_view


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


def test_without_documents_the_view_says_so():
    assert "no documents" in shown(AnswerSources([], []))
