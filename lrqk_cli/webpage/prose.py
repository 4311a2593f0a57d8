"""Markdown of a model as HTML that loads and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from lrqk_cli.chat.printable import printable


def to_html(text: str) -> Markup:
    """Return HTML of an answer: tags in it are shown as text, pictures by their description alone.

    Links lead to web addresses only, and only when they are followed.
    """
    return Markup(_parser().render(printable(text)))


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.validateLink = _is_web_address  # type: ignore[assignment]
    parser.add_render_rule("image", _described)
    return parser


def _is_web_address(address: str) -> bool:
    try:
        return urlsplit(address).scheme in ("http", "https")
    except ValueError:
        return False


def _described(_: Any, tokens: Sequence[Token], index: int, *__: Any) -> str:
    """Render a picture, which would be loaded from the network."""
    return f"<em>{escape(tokens[index].content)}</em>"
