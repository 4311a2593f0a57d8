"""``lrqk cache`` through its real entry point."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from cached import add, damage, label
from refused import fails_with

from lrqk_cli.chat.document_cache import document_cache
from lrqk_cli.models.store import cache_root

pytestmark = pytest.mark.short

HOSTILE = "\x1b]52;c;RVZJTA==\x07\u202e[red]x.pdf\nError: \udc80"
SPELLED = r"\x1b]52;c;RVZJTA==\x07\u202e[red]x.pdf Error: \udc80"


@pytest.fixture
def store(clean_environment):
    return document_cache()


@pytest.fixture
def report(store):
    """A text of two documents, 60 tokens."""
    return add(store, range(60), [20, 60], text=label("report.pdf", "notes.md"), used=1e9, states=["some"])


@pytest.fixture
def essay(store):
    """A text that was used later, 5 tokens."""
    return add(store, [3] * 5, [5], text=label("essay.txt", model="other"), used=1.1e9)


def listed(run, *arguments):
    return json.loads(run("cache", "list", "--json", *arguments).out)


def test_the_folder_is_below_that_of_the_models(store):
    assert store.folder == cache_root() / "documents"
    assert document_cache(5000).limit == 5000


def test_an_empty_cache_is_listed(run, store):
    result = run("cache")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("0 B of at most ")
    assert result.out.endswith(f" in {store.folder}\n")
    assert listed(run)["entries"] == []
    assert not store.folder.exists()


def test_the_list_shows_the_last_used_first(run, report, essay, store):
    result = run("cache")
    assert (result.code, result.err) == (0, "")
    head, first, second, last = result.out.splitlines()
    assert head.split() == ["key", "documents", "model", "tokens", "size", "last", "used"]
    assert first.split()[:4] == [essay[-1].key[:8], "essay.txt", "other", "5"]
    assert second.split()[:5] == [report[-1].key[:8], "report.pdf,", "notes.md", "tiny", "60"]
    assert "2001-09-" in second
    assert last.endswith(f" in {store.folder}")
    assert result.out == run("cache", "list").out


def test_the_list_as_json(run, report, essay, store):
    found = listed(run, "--cache-size", "1MiB")
    assert (found["folder"], found["limit_bytes"], found["total_bytes"]) == (
        str(store.folder),
        1 << 20,
        store.size(),
    )
    assert [entry["key"] for entry in found["entries"]] == [essay[-1].key, report[-1].key]
    entry = found["entries"][1]
    assert entry["documents"][0] == {"title": "report.pdf", "pages": 2, "tokens": 30}
    assert (entry["model"], entry["tokens"], entry["is_damaged"]) == ("tiny", 60, False)
    assert (
        entry["disk_bytes"] == entry["own_bytes"] == found["total_bytes"] - found["entries"][0]["disk_bytes"]
    )
    assert entry["last_used"].startswith("2001-09-")
    assert json.loads(run("cache", "--json", "--cache-size", "1MiB").out) == found
    assert json.loads(run("cache", "show", "report.pdf", "--json").out) == entry


def test_many_documents_are_counted(run, store):
    add(store, [1], [1], text=label("a", "b", "c", "d", "e"))
    assert "a, b, c, 2 more" in run("cache").out


def test_an_entry_is_shown(run, report):
    result = run("cache", "show", report[-1].key[:5])
    assert (result.code, result.err) == (0, "")
    for words in (report[-1].key, "tiny", "60", "report.pdf", "notes.md", "for it alone"):
        assert words in result.out
    assert "Damaged" not in result.out


def test_damaged_entries_are_listed_shown_and_removed(run, report, essay, store):
    damage(store.path(report[0]))
    (store.folder / "wrong.block").write_bytes(b"")
    listing = run("cache").out
    assert listing.count("(damaged)") == 2
    assert "unknown (damaged)" in listing
    assert f"lrqk cache remove {report[-1].key[:8]}" in run("cache", "show", "report.pdf").out
    assert run("cache", "remove", "report.pdf", "wrong").code == 0
    assert {file.key for file in store.files()} == {essay[-1].key}


def test_entries_are_removed_and_what_others_need_stays(run, report, essay, store):
    longer = add(store, range(80), [20, 60, 80], text=label("longer.pdf"))
    result = run("cache", "remove", "longer.pdf", "essay.txt", longer[-1].key)
    assert (result.code, result.out) == (0, "")
    assert "essay.txt" in result.err
    assert result.err.count("are free again") == 2
    assert {file.key for file in store.files()} == {block.key for block in report}


def test_a_wrong_name_removes_nothing(run, report, essay, store):
    before = store.files()
    fails_with(run("cache", "remove", "report.pdf", "esay.txt"), 2, "no 'esay.txt'", "mean essay.txt?")
    fails_with(run("cache", "show", "nothing-like-it"), 2, "lrqk cache list")
    fails_with(run("cache", "remove"), 2, "NAME")
    assert store.files() == before


def test_pruning_keeps_to_the_limit_and_says_what_was_freed(run, report, essay, store):
    size = store.size()
    result = run("cache", "prune", "--cache-size", f"{size}B")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("0 B are free again; ")
    result = run("cache", "prune", "--cache-size", f"{size - 1}B")
    assert result.code == 0
    assert not result.err.startswith("0 B")
    assert [file for file in store.files() if file.is_state] == []
    assert run("cache", "prune", "--cache-size", "1B").code == 0
    assert store.size() == 0


def test_the_limit_comes_from_a_variable_or_the_config_file(run, report, monkeypatch, tmp_path, store):
    file = tmp_path / "lrqk.toml"
    file.write_text('[cache]\ncache-size = "2KiB"\n')
    monkeypatch.setenv("LRQK_CONFIG", str(file))
    assert json.loads(run("cache", "--json").out)["limit_bytes"] == listed(run)["limit_bytes"] == 2048
    monkeypatch.setenv("LRQK_CACHE_SIZE", "1B")
    assert listed(run)["limit_bytes"] == 1
    assert run("cache", "prune", "--cache-size", "1TiB").code == 0
    assert store.size()
    monkeypatch.setenv("LRQK_CACHE_SIZE", "1")
    fails_with(run("cache", "prune"), 2, "LRQK_CACHE_SIZE")
    monkeypatch.delenv("LRQK_CACHE_SIZE")
    file.write_text('[cache]\ncache-size = "1B"\n')
    assert run("cache", "prune").code == 0
    assert not store.size()


def test_options_of_the_list_belong_behind_it(run):
    fails_with(run("cache", "--cache-size", "8GiB", "prune"), 2, "--cache-size before prune")
    fails_with(run("cache", "--json", "list"), 2, "--json before list")


def test_clearing_needs_a_yes_where_there_is_no_terminal(run, report, store):
    part = store.folder / "in-work.part"
    part.write_bytes(b"x")
    fails_with(run("cache", "clear", stdin="y\n"), 2, "--yes")
    assert store.has(part)
    result = run("cache", "clear", "--yes")
    assert (result.code, result.out) == (0, "")
    assert "are free again" in result.err
    assert not list(store.folder.iterdir())
    assert run("cache", "clear").err == "The cache is empty.\n"


def answer(keys: str, reply: str) -> int:
    """Type ``keys`` at the question of ``lrqk cache clear``, wait for ``reply``; return the exit code."""
    pexpect = pytest.importorskip("pexpect")
    if not hasattr(pexpect, "spawn"):
        pytest.skip("pseudo-terminals need a Unix system")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "lrqk_cli", "cache", "clear"],
        encoding="utf-8",
        timeout=60,
        # Where the tests run in the background, Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    child.expect_exact("? [y/N] ")
    child.send(keys)
    child.expect_exact(reply)
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


@pytest.mark.parametrize("keys", ["y\r", "YES\r"])
def test_clearing_asks_on_a_terminal(report, store, keys):
    assert answer(keys, "are free again") == 0
    assert store.size() == 0


@pytest.mark.parametrize(
    ("keys", "reply", "code"),
    [
        ("\r", "Nothing was deleted.", 0),
        ("no\r", "Nothing was deleted.", 0),
        ("\x04", "Nothing was deleted.", 0),
        ("\x03", "Interrupted.", 130),
    ],
    ids=["enter", "no", "end", "interrupt"],
)
def test_any_other_answer_deletes_nothing(report, store, keys, reply, code):
    before = store.size()
    assert answer(keys, reply) == code
    assert store.size() == before


def test_names_cannot_control_the_terminal(run, store):
    key = add(store, [1], [1], text=label(HOSTILE, model=HOSTILE))[-1].key
    add(store, [2], [1], text=label(HOSTILE))
    assert SPELLED in "".join(run("cache", "show", key).out.split("\n")).replace("  ", "")
    for result in (
        run("cache"),
        run("cache", "--json"),
        run("cache", "show", key, "--json"),
        run("cache", "show", "x]52;c;RVZJTA==[red]x.pdf Error:"),
        run("cache", "remove", key),
    ):
        assert not set("\x1b\x07\u202e\udc80") & set(result.out + result.err)
        assert "\nError: \\" not in result.out + result.err
    assert SPELLED in result.err


def test_a_time_without_a_date_is_left_out(run, report, store, monkeypatch):
    from lrqk_cli.terminal import moments

    class NoDates:
        @staticmethod
        def fromtimestamp(_: float) -> None:
            raise OverflowError

    monkeypatch.setattr(moments, "datetime", NoDates)
    assert run("cache").code == 0
    assert listed(run)["entries"][0]["last_used"] is None


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("show", "x"), ("remove", "x"), ("prune",), ("clear", "--yes")],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_cannot_be_read_is_told(run, report, monkeypatch, arguments):
    monkeypatch.setattr(os, "scandir", refuse)
    fails_with(run("cache", *arguments), 1, "cannot be read: permission denied", "LRQK_CACHE_DIR")


@pytest.mark.parametrize(
    "arguments",
    [("remove", "report.pdf"), ("prune", "--cache-size", "1B"), ("clear", "--yes")],
    ids=lambda arguments: arguments[0],
)
def test_files_that_cannot_be_deleted_are_told(run, report, store, monkeypatch, arguments):
    monkeypatch.setattr(Path, "unlink", refuse)
    fails_with(run("cache", *arguments), 1, "cannot be deleted", "permissions")
    assert store.size()
