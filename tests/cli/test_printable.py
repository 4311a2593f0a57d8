"""Names and answers reach no terminal as they are, nor a file that may end on one."""

from __future__ import annotations

import json
import os

import pytest

from lrqk_cli.chat import session

NAME = "\x1b]52;c;RVZJTA==\x1b\\.txt"
# In the title of a document, which the model reads too, what is no character has been replaced.
SHOWN = NAME.replace("\x1b", "\ufffd")
SPELLED = r"\x1b]52;c;RVZJTA==\x1b\.txt"
ANSWER = "It is \x1b]52;c;RVZJTA==\x07\x9b2J\u202egpj and \udc80."


@pytest.fixture
def steering_model(tiny_model, monkeypatch):
    """The tiny model, whose answers are made up of what steers a terminal."""

    class Stream:
        def push(self, _: int) -> str:
            return ANSWER

        def flush(self) -> str:
            return ""

    made = session.Session.__init__

    def make(self, *arguments, **settings):
        made(self, *arguments, **{**settings, "new_stream": lambda _: Stream()})

    monkeypatch.setattr(session.Session, "__init__", make)
    return tiny_model


def test_an_answer_is_spelled_out_in_a_pipe_and_whole_in_json(run, steering_model):
    arguments = ("chat", "--model", steering_model, "--prompt", "x", "--max-new-tokens", "2")
    piped = run(*arguments)
    assert piped.code == 0, piped.err
    assert piped.out == r"It is \x1b]52;c;RVZJTA==\x07\x9b2J\u202egpj and \udc80." * 2 + "\n"
    printed = run(*arguments, "--json").out
    assert json.loads(printed)["answer"] == ANSWER * 2
    assert not set("\x1b\x07\x9b\u202e\udc80") & set(printed)


@pytest.mark.parametrize("flags", [(), ("--debug",)])
def test_a_name_in_an_error_is_spelled_out(run, tiny_model, tmp_path, flags):
    file = tmp_path / "notes.txt"
    file.write_text("Some text.")
    result = run("chat", "--model", tmp_path / NAME, "--file", file, "--prompt", "x", *flags)
    assert result.code == 4
    assert SPELLED in result.err
    assert "\x1b" not in result.err


def test_a_name_in_sources_is_spelled_out_and_no_markup(run, tiny_model, tmp_path):
    for name in (NAME, "b[bold]x[red].txt"):
        (tmp_path / name).write_text("Some text to rest on. " * 4)
        result = run(
            "chat", "--model", tiny_model, "--file", tmp_path / name, "--prompt", "x", "--sources",
            "--max-new-tokens", "4",
        )  # fmt: skip
        assert result.code == 0, result.err
        assert (SHOWN if name == NAME else name) in result.err
        assert "\x1b" not in result.err


def test_a_name_that_is_not_utf_8_is_read(run, tiny_model, tmp_path):
    file = tmp_path / os.fsdecode(b"caf\xe9.txt")
    file.write_text("Some text.")
    result = run(
        "chat", "--model", tiny_model, "--file", file, "--prompt", "x", "--max-new-tokens", "2", "--json"
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["documents"][0]["path"] == str(file)
