"""Which settings may change while a conversation goes on."""

from __future__ import annotations

from dataclasses import fields

from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import UsageError


def refuse_changes(before: LrqkConfig, after: LrqkConfig) -> None:
    """Raise if more than ``tail`` and, with a sticky hot set, ``top_k`` differs.

    Raises:
        UsageError: another setting differs, which needs a new cache; the message names it.
    """
    free = {"tail"} if before.hot_policy != "sticky" else {"tail", "top_k"}
    for field in fields(LrqkConfig):
        name = field.name
        if name not in free and getattr(after, name) != getattr(before, name):
            raise UsageError(
                f"`{name}` cannot change while the conversation goes on: the cache was made for it.",
                f"Start again with another `{name}`.",
            )
