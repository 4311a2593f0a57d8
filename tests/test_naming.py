"""Settings have one name in Python, and each surface calls them as people set them there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest

import lrqk_cli
from lrqk_cli.cli.bench import bench
from lrqk_cli.cli.chat import chat
from lrqk_cli.cli.serve import serve
from lrqk_cli.errors import LrqkError
from lrqk_cli.naming import COMMAND_LINE, Surface, flag
from lrqk_cli.server.failures import body_of
from lrqk_cli.terminal.commands.settings import HOT_SET, IN_A_CHAT, SAMPLING

PACKAGE = Path(lrqk_cli.__file__).parent
# Those that people use; below them nobody knows where a failure will be read.
SURFACES = {"cli", "terminal", "server", "bench", "webpage", "naming.py"}
BELOW = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in SURFACES)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Raise `context`.", "Raise --ctx."),
        ("`top_k` is above `hot`.", "--top-k is above --hot."),
        ("There is no `als.init` 'x'.", "There is no --als-init 'x'."),
        ("It says `A b` and `1`.", "It says `A b` and `1`."),
        ("There is no `model_type` in it.", "There is no `model_type` in it."),
    ],
)
def test_a_setting_in_backticks_is_shown_as_its_option(said, shown):
    assert COMMAND_LINE.message(said) == COMMAND_LINE.hint(said) == shown


def test_every_option_that_is_named_is_one_of_a_command() -> None:
    options = {name for command in (chat, serve, bench) for name in signature(command).parameters}
    options.add("context")
    named = {name.replace(".", "_") for name, option in COMMAND_LINE.names.items() if option.startswith("--")}
    assert named - options == {"als", "aggregate", "continue"}
    assert "continue_" in options
    assert COMMAND_LINE.names["context"] == "--ctx"


def test_what_a_chat_sets_is_called_as_there() -> None:
    assert IN_A_CHAT.message("`sample_top_k` and `tail`") == "/set sample-top-k and /set tail"
    assert {flag(name) for name in (*SAMPLING, *HOT_SET)} & set(IN_A_CHAT.names.values()) == set()
    hint = IN_A_CHAT.hint("Choose `pages`, or raise `context`. A question is given with `prompt`.")
    assert hint == "Choose /pages, or raise --ctx. Options are given when a chat starts."
    assert IN_A_CHAT.hint("Lower `top_k`.") == "Lower /set top-k."


def test_a_sentence_about_what_is_not_there_is_left_out() -> None:
    surface = Surface({"hot": "--hot", "undo": ""})
    assert surface.hint("Lower `hot`. `undo` helps too. So does `rank`.") == "Lower --hot. So does `rank`."
    assert surface.hint("`undo` helps.") == ""


def test_a_client_of_the_server_reads_fields_of_requests() -> None:
    def said(message: str, hint: str = "") -> str:
        return body_of(LrqkError(message, hint)).error.message

    assert said("`max_new_tokens` and `sample_top_k`.") == "max_tokens and top_k."
    assert said("It is encrypted.", "Give its password with `password`.") == "It is encrypted."
    assert said("It is slow.", "Raise `read_timeout`.") == (
        "It is slow. Raise --read-timeout. Options are given when the server starts."
    )


def texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module that are no documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain:
            yield node.value


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_failure_below_a_surface_names_an_option(path: Path) -> None:
    options = {option.split()[0] for option in COMMAND_LINE.names.values() if option}
    for text in texts(path):
        # A whole command may be named.
        loose = re.sub(r"(lrqk|pip) [a-z]+( --?[a-z-]+)*", "", text)
        assert not options & set(re.findall(r"--[a-z-]+", loose)), text
        # A name that no surface knows would be shown with its backticks. (``dense`` is a value.)
        assert set(re.findall("`([a-z_.]+)`", text)) <= COMMAND_LINE.names.keys() | {"dense"}, text
