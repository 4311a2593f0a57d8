"""lrqk where the modules and names of Unix are missing, as on Windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="takes away what only a Unix system has")

from fuzz.command_line import lrqk, own_folders
from fuzz.system_calls import run_child
from other_system import import_all, take_away
from tiny import save_tiny_chat_model


def test_every_module_is_imported() -> None:
    def count() -> bytes:
        take_away()
        return str(import_all()).encode()

    assert int(run_child(count)) > 250


def test_commands_answer_as_ever(tmp_path: Path) -> None:
    own_folders(tmp_path)
    (tmp_path / "notes.txt").write_text("The plant employs 412 people.")
    asked = ("--max-new-tokens", 3, "--prompt", "How many?", "--json")
    model = save_tiny_chat_model(tmp_path / "tiny")
    commands = (
        ("sessions",),
        ("cache", "list", "--json", "--cache-size", "1GiB"),
        ("chat", tmp_path / "notes.txt", "--model", model, "--session", "talk", *asked),
        ("sessions", "show", "talk"),
    )

    def answers() -> list[str]:
        said = []
        for command in commands:
            run = lrqk(*command)
            assert run.code == 0, run
            said.append(json.loads(run.out)["answer"] if "chat" in command else run.out)
        return said

    def compared() -> bytes:
        here = answers()
        (tmp_path / "state" / "lrqk" / "sessions.sqlite3").unlink()
        take_away()
        assert answers() == here
        return b"done"

    assert run_child(compared) == b"done"
