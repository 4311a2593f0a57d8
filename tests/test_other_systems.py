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

from lrqk_cli.documents.shares import share_count


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


def test_what_needs_unix_says_so_or_is_left_out(tmp_path: Path) -> None:
    def look() -> bytes:
        take_away()
        from lrqk_cli.chat.own_servers import Announcement, _running_servers, announced
        from lrqk_cli.documents.shares import read_pages, share_count
        from lrqk_cli.errors import UsageError
        from lrqk_cli.limited_process import limit_resources
        from lrqk_cli.terminal.console import CleanConsole
        from lrqk_cli.terminal.echo import hidden_typing
        from lrqk_cli.terminal.graphics_query import query_graphics
        from lrqk_cli.terminal.line_reader import open_history

        said = Announcement("http://localhost:1/v1", "t", "tiny", 9, 9, "", {}, False)
        with pytest.raises(UsageError, match="no Unix sockets"), announced(said):
            pass
        assert _running_servers() == []
        assert share_count(100) == 1
        assert read_pages(str, [1, 2], lambda *_: None) == ["1", "2"]
        limit_resources(1, 1)
        with hidden_typing(by_key=True):
            assert query_graphics(CleanConsole(force_terminal=True)) is None
        open_history(tmp_path / "state" / "history").append_string("Why?")
        assert "+Why?" in (tmp_path / "state" / "history").read_text()
        return b"done"

    assert run_child(look) == b"done"


def test_macos_reads_pages_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert share_count(100) == 1
