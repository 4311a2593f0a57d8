"""What is advised where a text does not fit."""

from __future__ import annotations

import pytest

from lrqk_cli.chat import fitting
from lrqk_cli.chat.events import DocumentUse, PageSpan
from lrqk_cli.chat.fitting import check_fit
from lrqk_cli.errors import ContextLengthError
from lrqk_cli.models.catalog import CatalogEntry, HubRepository


def advice(needed: int, context: int, limit: int, pages: int = 0, start: int = 10) -> str:
    """Return the hint about one document, which all but 20 of the needed tokens are of."""
    document = DocumentUse("tiny.md", "tiny.md", pages or 1, start, needed - 10)
    size = document.tokens // max(1, pages)
    spans = [PageSpan(0, n + 1, start + n * size, start + (n + 1) * size) for n in range(pages)]
    with pytest.raises(ContextLengthError) as refusal:
        check_fit(needed, 1, context, limit, [document], spans)
    return refusal.value.hint


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A catalog of four models, of which one is here."""
    entries = [
        CatalogEntry(f"holds-{size}", "", "", size, 1, huggingface=HubRepository("a/b"))
        for size in (1000, 5000, 9000, 20_000)
    ]
    monkeypatch.setattr(fitting, "catalog", lambda: {entry.alias: entry for entry in entries})
    monkeypatch.setattr(fitting.store, "path", lambda alias: "here" if alias == "holds-9000" else None)


@pytest.mark.parametrize(
    ("needed", "context", "start"),
    [(4000, 100, "About the first 2%"), (4000, 30, "Less than 1%"), (4000, 20, "Not even the question")],
)
def test_little_or_nothing_is_not_called_a_percentage(needed, context, start):
    hint = advice(needed, context, limit=8000)
    assert hint.startswith(start)
    assert "0%" not in hint


def test_a_longer_context_is_advised_within_the_limit_only():
    assert advice(4000, 1000, limit=4001).endswith(", or raise `context` to 4001.")
    assert "`context`" not in advice(4000, 1000, limit=4000)


def test_a_model_that_is_here_is_named_before_others():
    hint = advice(4000, 1000, limit=1000, pages=5)
    assert hint == (
        "Only page 1 of tiny.md would fit: try `pages` 1, or choose `model` holds-9000, "
        "which holds 9,000 tokens."
    )
    assert "holds-20000" in advice(12_000, 1000, limit=1000)


def test_where_no_known_model_holds_it_that_is_said():
    assert advice(30_000, 1000, limit=1000).endswith("shorten it; no model of the catalog holds all of it.")


def test_without_documents_a_new_chat_is_advised():
    with pytest.raises(ContextLengthError) as refusal:
        check_fit(4000, 1, 1000, 8000, [], [])
    assert refusal.value.hint == (
        "Leave out earlier questions or shorten this one, or raise `context` to 4001. "
        "`undo` takes back the last one."
    )
