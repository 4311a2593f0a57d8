"""Documents behind URLs, through the command; a scripted server answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from document_server import DocumentServer
from scripted_server import ScriptedServer
from talk import Talk


@pytest.fixture
def web() -> Iterator[DocumentServer]:
    with DocumentServer().running() as running:
        yield running


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().running() as running:
        yield running


@pytest.fixture
def ask(run, server):
    """Ask a question; return the result and all that the server was told."""

    def ask_once(*arguments):
        result = run("chat", *arguments, "--endpoint", server.url, "--prompt", "How long?")
        return result, str(server.asked[-1]["messages"]) if server.asked else ""

    return ask_once


def test_urls_are_documents_like_files(ask, web, monkeypatch, tmp_path):
    (tmp_path / "c.txt").write_text("Gamma", encoding="utf-8")
    first, second = web.put("/a.txt", b"Alpha"), web.put("/b.txt", b"Beta")
    result, told = ask(first, "--file", second)
    assert result.code == 0, result.err
    assert told.index("Beta") < told.index("Alpha")
    assert "Fetching b.txt (1 of 2).\nFetching a.txt (2 of 2).\n" in result.err
    monkeypatch.setenv("LRQK_FILE", os.pathsep.join([first, str(tmp_path / "c.txt")]))
    result, told = ask("--quiet")
    assert result.code == 0, result.err
    assert told.index("Alpha") < told.index("Gamma")
    assert "Fetching" not in result.err


def test_what_fails_ends_in_3_with_one_hint_and_limits_that_are_none_in_2(ask, web):
    url = web.put("/a.txt", b"Alpha" * 100)
    cases = [(f"{url}.gone", "(status 404)"), (url, "--fetch-size allows, 20 B"), ("http://", "no address")]
    for file, message in cases:
        result, told = ask(file, "--fetch-size", "20B")
        assert (result.code, told, result.out) == (3, "", "")
        assert message in result.err
        assert [line.split(" ")[0] for line in result.err.splitlines()[-2:]] == ["Error:", "Hint:"]
    assert ask(url, "--fetch-size", "0")[0].code == 2


def test_a_session_keeps_the_text_and_takes_a_changed_one_when_told(ask, web):
    url = web.put("/a.txt", b"Alpha")
    assert ask(url, "--session", "talk")[0].code == 0
    del web.files["/a.txt"]
    result, told = ask("--session", "talk")
    assert result.code == 0, result.err
    assert "Alpha" in told
    web.put("/a.txt", b"Beta")
    result, told = ask(url, "--session", "talk")
    assert "a.txt has another text than before in this conversation" in result.err
    assert "Alpha" in told
    assert "Beta" in told


def test_in_a_chat_and_a_failure_loses_nothing(web):
    url = web.put("/a%20b.txt", b"Alpha")
    with Talk() as talk:
        shown = talk.say(f"/file {url}", f"/file {web.url('/gone.pdf')}", "/file http://")
        assert "Added a b.txt, " in shown
        assert "There is no document at" in shown
        assert "is followed by no address" in shown
        assert talk.titles == ["a.pdf", "a b.txt"]


def test_no_torch_is_imported_for_a_url_with_an_endpoint(web, server):
    code = (
        "import sys\nfrom lrqk_cli.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'httpx2' in sys.modules and 'torch' not in sys.modules\n"
    )
    arguments = ["chat", web.put("/a.txt", b"Alpha"), "--endpoint", server.url, "--prompt", "x"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
