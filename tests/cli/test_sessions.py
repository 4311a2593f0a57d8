"""``lrqk sessions`` through its real entry point."""

from __future__ import annotations

import json
import signal
import stat
import sys
from dataclasses import replace

import pytest
from refused import fails_with
from session_processes import talk

from lrqk_cli.chat.archive import SavedDocument, SavedExchange, SavedSection, load
from lrqk_cli.chat.events import Reply
from lrqk_cli.chat.journal import SessionStore

pytestmark = pytest.mark.short

HOSTILE = "\x1b]52;c;RVZJTA==\x07\u202e[red]x\nError: \udc80"


@pytest.fixture
def store(clean_environment):
    return SessionStore()


def record(store, name, archive):
    with store.open(name) as journal:
        journal.record(archive)


@pytest.fixture
def two(store):
    """A session about a document, and a later one about none."""
    pages = (SavedSection("[", None), SavedSection("one", 1), SavedSection("two", 2))
    report = SavedDocument("report.pdf", "/home/report.pdf", pages)
    asked = SavedExchange("What is the\nrevenue?", Reply("It is 5 million.", "length", 5), (7, 8))
    record(store, "first", replace(talk(0), system="Be short.", entries=(report, asked)))
    record(store, "second", replace(talk(2), model="other", entries=talk(2).entries[1:]))
    return store


def test_without_sessions_a_first_one_is_suggested(run, store):
    result = run("sessions")
    assert (result.code, result.out) == (0, "")
    assert "lrqk chat --session NAME" in result.err
    assert json.loads(run("sessions", "--json").out) == {"path": str(store.path), "sessions": []}
    assert run("sessions", "search", "word").err == "Nothing was found.\n"
    assert not store.path.parent.exists()


def test_the_list_shows_the_last_used_first(run, two):
    result = run("sessions")
    assert (result.code, result.err) == (0, "")
    head, second, first = result.out.splitlines()
    assert head.split() == ["name", "documents", "turns", "model", "last", "used"]
    assert second.split()[:4] == ["second", "-", "2", "other"]
    assert first.split()[:4] == ["first", "report.pdf", "1", "tiny"]
    assert result.out == run("sessions", "list").out
    found = json.loads(run("sessions", "list", "--json").out)["sessions"]
    assert json.loads(run("sessions", "--json").out)["sessions"] == found
    assert [session["name"] for session in found] == ["second", "first"]
    assert found[1]["documents"] == ["report.pdf"]
    assert (found[1]["exchanges"], found[1]["model"], found[1]["updated"][:2]) == (1, "tiny", "20")


def test_a_session_is_shown(run, two):
    result = run("sessions", "show", "first")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "# A conversation with tiny\n\nInstructions: Be short.\n\n*report.pdf, 2 pages*\n\n"
        "## Question\n\n> What is the\n> revenue?\n\n## Answer\n\nIt is 5 million.\n\n"
        "*The answer stopped at the limit of new tokens.*\n"
    )
    shown = json.loads(run("sessions", "show", "first", "--json").out)
    assert (shown["name"], shown["system"]) == ("first", "Be short.")
    assert shown["messages"] == [
        {"role": "document", "path": "/home/report.pdf", "title": "report.pdf", "pages": 2},
        {"role": "user", "content": "What is the\nrevenue?"},
        {"role": "assistant", "content": "It is 5 million.", "finish_reason": "length"},
    ]


def test_a_session_is_exported(run, two, tmp_path):
    archive = two.archive("first")
    file = tmp_path / "talk.json"
    result = run("sessions", "export", "first", file)
    assert (result.code, result.out, result.err) == (0, "", f"Written to {file}.\n")
    assert load(file) == archive
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("sessions", "export", "first").out == file.read_text()
    text = tmp_path / "talk.MD"
    assert run("sessions", "export", "first", text).code == 0
    assert text.read_text() == run("sessions", "show", "first").out


def test_an_export_replaces_no_file_unasked(run, two, tmp_path):
    file = tmp_path / "talk.md"
    file.write_text("mine")
    fails_with(run("sessions", "export", "first", file), 2, "is there already", "--yes")
    assert file.read_text() == "mine"
    assert run("sessions", "export", "first", file, "--yes").code == 0
    assert file.read_text().startswith("# A conversation")
    fails_with(run("sessions", "export", "first", tmp_path / "talk.pdf"), 2, "neither a .json nor an .md")
    fails_with(run("sessions", "export", "first", tmp_path / "none" / "x.md"), 2, "there is no folder")


def test_a_session_is_renamed(run, two):
    assert run("sessions", "rename", "first", "third").err == "Renamed first to third.\n"
    assert [info.name for info in two.list()] == ["second", "third"]
    fails_with(run("sessions", "rename", "first", "x"), 2, "no session 'first'")
    fails_with(run("sessions", "rename", "third", "second"), 2, "'second' already")
    fails_with(run("sessions", "rename", "third", "../x"), 2, "not the name of a session")


def test_sessions_are_removed(run, two):
    fails_with(run("sessions", "remove", "first", "secnd", "--yes"), 2, "no session 'secnd'", "mean second?")
    fails_with(run("sessions", "remove", "first", stdin="y\n"), 2, "--yes")
    fails_with(run("sessions", "remove"), 2, "NAME")
    assert len(two.list()) == 2
    result = run("sessions", "remove", "first", "second", "first", "--yes")
    assert (result.code, result.out, result.err) == (0, "", "Removed first.\nRemoved second.\n")
    assert two.list() == []


@pytest.mark.parametrize(("keys", "left"), [("y\r", 1), ("\r", 2), ("no\r", 2), ("\x04", 2), ("\x03", 2)])
def test_removing_asks_on_a_terminal(two, keys, left):
    pexpect = pytest.importorskip("pexpect")
    if not hasattr(pexpect, "spawn"):
        pytest.skip("pseudo-terminals need a Unix system")
    arguments = ["-m", "lrqk_cli", "sessions", "remove", "first"]
    child = pexpect.spawn(
        sys.executable,
        arguments,
        encoding="utf-8",
        timeout=60,
        # Where the tests run in the background, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    child.expect_exact("Delete first? [y/N] ")
    child.send(keys)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == (130 if keys == "\x03" else 0)
    assert len(two.list()) == left


def test_words_are_searched(run, two):
    result = run("sessions", "search", "REVENUE", "million")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == "first, question 1: What is the revenue?"
    assert "million" in result.out.splitlines()[1]
    assert run("sessions", "search", "report").out == "first, document: report.pdf\n"
    (hit,) = json.loads(run("sessions", "search", "million", "--json").out)
    assert (hit["session"], hit["exchange"], hit["question"]) == ("first", 1, "What is the\nrevenue?")
    assert [piece["text"] for piece in hit["snippet"] if piece["is_hit"]] == ["million"]
    assert "".join(piece["text"] for piece in hit["snippet"]) == "It is 5 million."
    assert len(json.loads(run("sessions", "search", "answer", "--limit", 1, "--json").out)) == 1
    assert run("sessions", "search", 'title:"', "OR").code == 0
    fails_with(run("sessions", "search", " "), 2, "nothing to search for")
    fails_with(run("sessions", "search"), 2, "WORDS")
    fails_with(run("sessions", "search", "x", "--limit", 0), 2, "--limit")


def test_the_config_file_can_ask_for_json(run, two, monkeypatch, tmp_path):
    file = tmp_path / "lrqk.toml"
    file.write_text("[sessions]\njson = true\n")
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    for arguments in ((), ("list",), ("show", "first"), ("search", "million")):
        assert json.loads(run("sessions", *arguments).out)
    fails_with(run("sessions", "--json", "list"), 2, "--json before list")


def test_nothing_can_control_the_terminal(run, store):
    document = SavedDocument(HOSTILE, HOSTILE, (SavedSection(HOSTILE, 1),))
    asked = SavedExchange(f"needle {HOSTILE}", Reply(HOSTILE, "stop", 1))
    record(store, "x", replace(talk(0), model=HOSTILE, system=HOSTILE, entries=(document, asked)))
    for arguments in (
        (), ("--json",), ("show", "x"), ("show", "x", "--json"), ("export", "x"), ("search", "needle"),
        ("search", "needle", "--json"), ("search", "evil", "error"), ("show", HOSTILE), ("remove", HOSTILE),
        ("rename", "x", HOSTILE), ("search", HOSTILE),
    ):  # fmt: skip
        result = run("sessions", *arguments)
        assert "Traceback" not in result.err
        assert not set("\x1b\x07\u202e\udc80") & set(result.out + result.err), arguments
    assert "\nError:" not in run("sessions").out + run("sessions", "search", "needle").out


def test_what_cannot_be_read_is_told(run, two):
    with two.open("first"):
        fails_with(run("sessions", "remove", "first", "--yes"), 1, "open in another process")
        assert run("sessions", "show", "first").code == 0
    two.path.write_bytes(b"no database" * 500)
    for arguments in (
        (),
        ("show", "first"),
        ("search", "x"),
        ("remove", "first", "--yes"),
        ("export", "first"),
    ):
        fails_with(run("sessions", *arguments), 1, "are damaged")
