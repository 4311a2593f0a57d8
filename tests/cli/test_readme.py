"""What the README tells a reader to type is what the command takes, and what it says of cards is computed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from lrqk_cli.cli.app import app

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
_END = ("|", "&&", ">")


def commands() -> Iterator[list[str]]:
    """Yield the arguments of every ``lrqk`` in an indented block or between backticks."""
    blocks = re.findall(r"^    (.*\blrqk .*)$", README, re.M)
    for line in [*blocks, *re.findall(r"`(lrqk [^`]+)`", README)]:
        words = shlex.split(line, comments=True)
        if "lrqk" in words:  # not only in a comment
            arguments = words[words.index("lrqk") + 1 :]
            yield arguments[: next((at for at, word in enumerate(arguments) if word in _END), None)]


COMMANDS = [arguments for arguments in commands() if "NAME" not in arguments]


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 15
    assert {arguments[0] for arguments in COMMANDS} == {
        "chat",
        "info",
        "models",
        "bench",
        "cache",
        "serve",
        "sessions",
    }
    assert ["chat", "-", "--prompt", "Who was absent?"] in COMMANDS


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_is_taken_by_the_parser(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    parsed = []
    below = [*group.commands.values(), *group.commands["models"].commands.values()]  # type: ignore[attr-defined]
    for command in below:
        command.callback = lambda *_, **options: parsed.append(options)
    group(arguments, standalone_mode=False)
    # ``models`` is called itself, and then what stands behind it.
    is_below = arguments[0] == "models" and len(arguments) > 1 and not arguments[1].startswith("-")
    assert len(parsed) == 1 + is_below


NO_MODEL = [a for a in COMMANDS if a[0] in ("info", "models") and a[:2] != ["models", "pull"]]


@pytest.mark.parametrize("arguments", NO_MODEL, ids=" ".join)
def test_what_needs_no_model_runs(run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 0, result.err
    assert result.out


def test_the_config_file_is_taken(run, monkeypatch, tmp_path) -> None:
    block = README.split("# ~/.config/lrqk/config.toml\n")[1].split("\n\n")[0]
    file = tmp_path / "config.toml"
    file.write_text("\n".join(line.strip() for line in block.splitlines()))
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    assert "question is empty" in run("chat").err


def test_what_fits_a_card_is_what_info_says(run) -> None:
    rows = re.findall(r"^\| (\d+ GiB) \| (.+) \|$", README, re.M)
    assert len(rows) == 4
    for card, cell in rows:
        report = json.loads(run("info", "--vram", card, "--json").out)
        models = {model["name"]: model for model in report["models"]}
        named = re.findall(r"`([\w.-]+)` (?:up to )?([\d,]+\d) \((\d+) GiB\)", cell)
        assert len(named) == cell.count("`") // 2 >= 2
        for name, tokens, host in named:
            assert models[name]["longest_context"] == int(tokens.replace(",", ""))
            assert round(models[name]["host_kv_rows"] / 2**30) == int(host)
