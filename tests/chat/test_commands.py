from __future__ import annotations

import pytest

from lrqk_cli.chat.commands import COMMANDS, dispatch, is_command


@pytest.mark.parametrize("line", ["/help", "/quit ", "/HELP", "/nonsense", "/"])
def test_a_slash_and_one_word_is_a_command(line):
    assert is_command(line)


@pytest.mark.parametrize("line", ["", "help", "/etc/hosts", "/etc/hosts says what?", "what is /help?"])
def test_other_lines_are_questions(line):
    assert not is_command(line)


def test_help_lists_every_command_and_the_chat_goes_on():
    said = []
    assert dispatch("/help", said.append)
    assert all(any(line.startswith(name) for line in said) for name in COMMANDS)


def test_quit_ends_the_chat():
    assert not dispatch("/Quit ", print)


@pytest.mark.parametrize(("line", "expected"), [("/qiut", "/quit"), ("/halp", "/help"), ("/xyzzy", "/help")])
def test_an_unknown_command_suggests_the_nearest(line, expected):
    said = []
    assert dispatch(line, said.append)
    assert line in said[0]
    assert expected in said[0]
