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
    assert {arguments[0] for arguments in COMMANDS} == {"chat", "info", "models", "bench"}
    assert ["chat", "-", "--prompt", "Who was absent?"] in COMMANDS


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_is_taken_by_the_parser(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    parsed = []
    for command in group.commands.values():  # type: ignore[attr-defined]
        command.callback = lambda *_, **options: parsed.append(options)
    group(arguments, standalone_mode=False)
    assert len(parsed) == 1


@pytest.mark.parametrize("arguments", [a for a in COMMANDS if a[0] in ("info", "models")], ids=" ".join)
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
        longest = {model["name"]: model["longest_context"] for model in report["models"]}
        for clause in cell.split(";"):
            (tokens,) = re.findall(r": ([\d,]+\d)", clause)
            names = re.findall(r"(?:Llama|Qwen|Mistral)[\w. ]*?B\b", clause)
            assert names
            for name in names:
                assert longest[name.lower().replace(" ", "-")] == int(tokens.replace(",", ""))


def test_times_are_those_of_the_performance_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+K) tokens \| \d+ \| ([\d.]+) s \| (\d+) tokens/s \|$", README, re.M)
    assert [context for context, *_ in rows] == ["64K", "128K", "256K"]
    for context, first_token, speed in rows:
        (found,) = re.findall(
            rf"^\| {context} \| lrqk \| ([\d.]+) \|(?: [^|]+ \|){{3}} ([\d.]+) \|", page, re.M
        )[:1]
        assert (round(float(found[0])), round(float(found[1]), 1)) == (int(speed), float(first_token))
