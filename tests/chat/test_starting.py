"""An engine that does not fit any more gets the settings that do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrqk_cli.chat import starting
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import HostMemoryError, OutOfMemoryError, PinningError
from lrqk_cli.memory.budget import Budget
from lrqk_cli.models.placement import Placement
from lrqk_cli.models.shapes import shapes
from lrqk_cli.models.support import spec_from_config

GIB = 2**30


class Card:
    """Stands for ``Engine``: refuses more hot rows than it has room for, and all rows on the device.

    The host has room for ``rows`` rows, of which it pins ``pinned``.
    """

    def __init__(self, hot: int, rows: int = 1 << 20, pinned: int = 1 << 20) -> None:
        self._hot, self._rows, self._pinned = hot, rows, pinned
        self.tried: list[LrqkConfig] = []
        self.contexts: list[int] = []

    def __call__(
        self, _: object, __: object, config: LrqkConfig, context: int, *, least_hot: int, may_page: bool
    ) -> SimpleNamespace:
        self.tried.append(config)
        self.contexts.append(context)
        if config.attention == "dense" or config.hot > self._hot:
            raise OutOfMemoryError("The device has not enough free memory for this.")
        if context > self._rows:
            raise HostMemoryError("A layer needs memory that is not there.")
        if context > self._pinned and not may_page:
            raise PinningError("Host memory cannot be pinned.")
        return SimpleNamespace(config=config, least_hot=least_hot, is_pageable=context > self._pinned)


class Notes(list[str]):
    note = list.append


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch):
    spec = spec_from_config(shapes()["llama-3.2-1b"], "llama-3.2-1b")

    def begin(
        card: Card, context: int, wanted: dict[str, Any], vram: int = 5 * GIB, least: int | None = None
    ) -> tuple[Any, Notes]:
        placement = Placement(spec, torch.device("cpu"), torch.bfloat16, Budget(vram, 64 * GIB))
        plan = placement.plan(context, wanted)
        monkeypatch.setattr(starting, "Engine", card)
        notes, loaded = Notes(), SimpleNamespace(model=None, spec=spec)
        engine, chosen = starting.start_engine(loaded, plan, placement, wanted, notes, least)
        assert engine.config is chosen.config
        assert engine.least_hot == wanted.get("hot", 1024)
        assert chosen.context == card.contexts[-1]
        return chosen, notes

    return begin


def test_with_room_the_plan_stands(start) -> None:
    card = Card(10_000)
    chosen, notes = start(card, 65_536, {})
    assert (card.tried, notes) == ([chosen.config], [])


def test_fewer_hot_rows_are_chosen_and_that_is_said_once(start) -> None:
    card = Card(6000)
    chosen, notes = start(card, 65_536, {})
    assert card.tried[0].hot > 6000 >= chosen.config.hot
    assert len(notes) == 1
    assert notes[0].startswith("Less memory is free than a moment ago. ")


def test_full_attention_gives_way_to_lrqk(start) -> None:
    card = Card(10_000)
    chosen, notes = start(card, 32_768, {})
    assert card.tried[0].attention == "dense"
    assert chosen.config.attention == "lrqk"
    assert len(notes) == 1


@pytest.mark.parametrize("wanted", [{"hot": 8384}, {"attention": "dense"}])
def test_what_the_user_asked_for_stays(start, wanted: dict[str, Any]) -> None:
    card = Card(6000)
    with pytest.raises(OutOfMemoryError):
        start(card, 32_768, wanted)
    assert all(getattr(tried, name) == value for tried in card.tried for name, value in wanted.items())


def test_where_the_host_is_short_the_context_shrinks_as_far_as_the_text_allows(start) -> None:
    card = Card(10_000, rows=20_000)
    chosen, notes = start(card, 65_536, {}, least=5120)
    assert (card.contexts, chosen.context) == ([65_536, 32_768, 16_384], 16_384)
    assert notes == ["Less memory is free than a moment ago. The context is now 16,384 tokens."]
    assert len(set(card.tried)) == 1
    with pytest.raises(HostMemoryError) as caught:
        start(Card(10_000, rows=5000), 65_536, {}, least=5120)
    assert "`context`" in caught.value.hint


def test_a_context_that_the_user_set_is_not_shorter(start) -> None:
    card = Card(10_000, rows=20_000)
    with pytest.raises(HostMemoryError, match="A layer needs"):
        start(card, 65_536, {})
    assert card.contexts == [65_536]


def test_rows_are_pageable_only_where_none_of_the_contexts_can_be_pinned(start) -> None:
    card = Card(10_000, pinned=8000)
    chosen, notes = start(card, 65_536, {}, least=5120)
    assert (chosen.context, len(notes)) == (5120, 1)
    card = Card(10_000, pinned=5000)
    chosen, notes = start(card, 65_536, {}, least=5120)
    assert card.contexts == [65_536, 32_768, 16_384, 8192, 5120, 5120]
    assert [note.startswith("Host memory cannot be pinned") for note in notes] == [False, True]
