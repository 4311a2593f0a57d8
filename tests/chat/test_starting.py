"""An engine that does not fit any more gets the settings that do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrqk_cli.chat import starting
from lrqk_cli.config import LrqkConfig
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.budget import Budget
from lrqk_cli.models.placement import Placement
from lrqk_cli.models.shapes import shapes
from lrqk_cli.models.support import spec_from_config

GIB = 2**30


class Card:
    """Stands for ``Engine``: refuses more hot rows than it has room for, and all rows on the device."""

    def __init__(self, hot: int) -> None:
        self._hot = hot
        self.tried: list[LrqkConfig] = []

    def __call__(self, model: object, spec: object, config: LrqkConfig, context: int) -> LrqkConfig:
        self.tried.append(config)
        if config.attention == "dense" or config.hot > self._hot:
            raise OutOfMemoryError("The device has not enough free memory for this.")
        return config


class Notes(list[str]):
    note = list.append


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch):
    spec = spec_from_config(shapes()["llama-3.2-1b"], "llama-3.2-1b")

    def begin(card: Card, context: int, wanted: dict[str, Any], vram: int = 5 * GIB) -> tuple[Any, Notes]:
        placement = Placement(spec, torch.device("cpu"), torch.bfloat16, Budget(vram, 64 * GIB))
        plan = placement.plan(context, wanted)
        monkeypatch.setattr(starting, "Engine", card)
        notes, loaded = Notes(), SimpleNamespace(model=None, spec=spec)
        engine, chosen = starting.start_engine(loaded, plan, placement, wanted, notes)
        assert engine is chosen.config
        assert chosen.context == context
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


@pytest.mark.parametrize("wanted", [{"hot": 8128}, {"attention": "dense"}])
def test_what_the_user_asked_for_stays(start, wanted: dict[str, Any]) -> None:
    card = Card(6000)
    with pytest.raises(OutOfMemoryError):
        start(card, 32_768, wanted)
    assert all(getattr(tried, name) == value for tried in card.tried for name, value in wanted.items())
