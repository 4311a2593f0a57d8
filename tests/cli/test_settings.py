from __future__ import annotations

import pytest

from lrqk_cli.cli.settings import config_path, load_defaults
from lrqk_cli.errors import UsageError

OPTIONS = {"chat": {"top-k": "top_k", "json": "as_json", "model": "model"}, "models": {}}


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str):
        file = tmp_path / "config.toml"
        file.write_text(text, encoding="utf-8")
        return load_defaults(file, OPTIONS)

    return write_and_load


def test_keys_are_spelt_as_the_flags(load):
    assert load('[chat]\ntop-k = 5\njson = true\nmodel = "m"') == {
        "chat": {"top_k": 5, "as_json": True, "model": "m"}
    }


def test_underscores_are_read_too(load):
    assert load("[chat]\ntop_k = 5") == {"chat": {"top_k": 5}}


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("[chat]\ntopk = 5", "'topk'", "mean top-k?"),
        ("[chta]\ntop-k = 5", "'chta'", "mean chat?"),
        ('model = "m"', "'model'", "[chat]"),
        ("chat = 3", "'chat'", "[chat]"),
        ("[chat", "TOML", "Correct"),
        pytest.param("[chat]\ntop-k = " + "9" * 5000, "TOML", "Correct", id="digits"),
        pytest.param("[chat]\ntop-k = " + "[" * 5000, "too deeply", "Correct", id="brackets"),
    ],
)
def test_what_is_unknown_is_named_with_a_way_out(load, text, named, hint):
    with pytest.raises(UsageError) as refusal:
        load(text)
    assert named in refusal.value.message
    assert hint in refusal.value.hint


def test_no_file_means_no_defaults_unless_it_was_named(tmp_path, monkeypatch):
    monkeypatch.delenv("LRQK_CONFIG", raising=False)
    assert load_defaults(tmp_path / "absent.toml", OPTIONS) == {}
    (tmp_path / "no-folder").touch()
    assert load_defaults(tmp_path / "no-folder" / "config.toml", OPTIONS) == {}
    monkeypatch.setenv("LRQK_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(UsageError, match="absent"):
        load_defaults(config_path(), OPTIONS)
