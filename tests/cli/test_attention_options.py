"""The options of the attention, which a decorator gives to commands."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import pytest
import typer

from lrqk_cli.cli.attention_options import ALS_OPTIONS, AttentionChoices, with_attention_options
from lrqk_cli.cli.bench import bench
from lrqk_cli.cli.chat import chat
from lrqk_cli.cli.info import info
from lrqk_cli.config import AlsConfig, LrqkConfig
from lrqk_cli.errors import UsageError

# Nobody is asked how weights become one score.
FIELDS = {field.name for field in fields(LrqkConfig)} - {"als", "aggregate"}
ALS_FIELDS = {f"als_{field.name}" for field in fields(AlsConfig)}


@pytest.fixture
def choices():
    """What a command is given for its arguments."""
    found: list[AttentionChoices] = []
    app = typer.Typer()

    @app.command()
    @with_attention_options()
    def command(context: typer.Context, *, before: int = 1, chosen: AttentionChoices, after: int = 2) -> None:
        assert (before, after) == (1, 2)
        found.append(chosen)

    def parse(*arguments: str) -> AttentionChoices:
        app(list(arguments), standalone_mode=False)
        return found.pop()

    return parse


@pytest.mark.parametrize(
    ("command", "without"), [(chat, set()), (bench, {"attention"}), (info, set(ALS_OPTIONS))]
)
def test_every_setting_is_an_option_in_the_place_of_the_parameter(command, without):
    names = list(signature(command).parameters)
    asked = [name for name in names if name in FIELDS | ALS_FIELDS]
    assert set(asked) == (FIELDS | ALS_FIELDS) - without
    first = names.index(asked[0])
    assert names[first : first + len(asked)] == asked
    assert names[first + len(asked)] == "device"


def test_defaults_are_those_of_the_settings_and_say_nothing(choices):
    chosen = choices()
    assert chosen.config == LrqkConfig()
    assert chosen.said == {}


def test_what_is_said_is_told_from_defaults(choices, monkeypatch):
    monkeypatch.setenv("LRQK_RANK", "32")
    chosen = choices("--hot", "64", "--als-init", "top", "--attention", "auto")
    assert chosen.config == LrqkConfig(rank=32, hot=64, top_k=16, als=AlsConfig(init="top"))
    assert chosen.said == {"rank": 32, "hot": 64, "als": AlsConfig(init="top")}
    assert choices("--attention", "dense").said == {"rank": 32, "attention": "dense"}


def test_a_contradiction_is_refused_where_the_settings_are_asked_for(choices):
    chosen = choices("--hot", "8", "--top-k", "16")
    with pytest.raises(UsageError, match="cannot be resident"):
        _ = chosen.config
