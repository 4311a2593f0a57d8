"""What happens on a real terminal: progress, Ctrl-C and the interactive loop."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from lrqk_cli.chat.journal import SessionStore

pexpect = pytest.importorskip("pexpect")
if not hasattr(pexpect, "spawn"):
    pytest.skip("pseudo-terminals need a Unix system", allow_module_level=True)

COLUMNS = 80
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()=>].?|\r")


class Terminal:
    """``lrqk`` on a pseudo-terminal of 80 columns."""

    def __init__(self, *arguments: object) -> None:
        command = ["-m", "lrqk_cli", *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm-256color"}
        self.child = pexpect.spawn(
            sys.executable, command, env=environment, dimensions=(24, COLUMNS), encoding="utf-8", timeout=60
        )
        self.seen = ""

    def until(self, pattern: str) -> str:
        """Wait for a pattern; return what was shown up to it, without escape sequences."""
        self.child.expect(pattern)
        shown = self.child.before + self.child.after
        self.seen += shown
        return _ESCAPE.sub("", shown)

    def at_prompt(self) -> None:
        """Wait for the prompt, and tell it where the cursor is, as a terminal does."""
        self.child.expect_exact("\x1b[6n")
        self.seen += self.child.before
        self.child.send("\x1b[3;1R")

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        self.child.expect(pexpect.EOF)
        self.seen += self.child.before
        self.child.close()
        assert "Traceback" not in self.seen
        return self.child.exitstatus


@pytest.fixture
def long_document(tmp_path):
    file = tmp_path / "long.txt"
    file.write_text("All work and no play. " * 120, encoding="utf-8")
    return file


def test_ctrl_c_while_reading_ends_in_130(tiny_model, long_document):
    terminal = Terminal(
        "chat", "--model", tiny_model, "--file", long_document, "--prompt", "x", "--segment", 1
    )
    terminal.until(r"Reading .*?[1-9]\d*/2,\d\d\d")
    terminal.child.sendintr()
    terminal.until("Interrupted.")
    assert terminal.end() == 130


def test_ctrl_c_ends_an_answer_in_130_and_keeps_what_is_there(tiny_model):
    command = [sys.executable, "-m", "lrqk_cli", "chat", "--model", str(tiny_model), "--prompt", "x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 16)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first
    assert rest.endswith(b"\n")
    assert errors.decode().endswith("Interrupted.\n")
    assert b"Traceback" not in errors


def test_a_chat_needs_a_terminal_on_both_sides(tiny_model):
    outer, inner = os.openpty()
    command = [sys.executable, "-m", "lrqk_cli", "chat", "--model", str(tiny_model)]
    done = subprocess.run(command, stdin=inner, capture_output=True, text=True, timeout=60, check=False)
    os.close(outer)
    os.close(inner)
    assert done.returncode == 2
    assert "terminal" in done.stderr
    assert "--prompt" in done.stderr


def test_a_conversation(tiny_model, long_document):
    terminal = Terminal(
        "chat", "--model", tiny_model, "--file", long_document, "--ctx", 3500, "--max-new-tokens", 400
    )
    terminal.until("Ask a question.")
    terminal.at_prompt()
    terminal.until(r"2,\d\d\d/3,500 tokens")  # the toolbar at the prompt
    terminal.child.send("/halp\r")
    terminal.until("Did you mean /help")
    terminal.at_prompt()
    terminal.child.send("half a question")
    terminal.child.sendintr()  # clears the line
    terminal.at_prompt()
    terminal.child.send("What?\r")
    terminal.until("What")
    terminal.until(r"tok/s")  # the status below the answer
    terminal.child.sendintr()
    terminal.until("Stopping after this step.")
    interrupted = terminal.until(r"in · first after .* out")
    assert "half a question" not in interrupted
    terminal.at_prompt()
    terminal.child.send("And?\r")
    terminal.until(r"400 out")
    terminal.at_prompt()
    terminal.child.send("x" * 600 + "\r")
    terminal.until("The text needs")
    terminal.at_prompt()
    terminal.child.sendeof()
    assert terminal.end() == 0


@pytest.mark.parametrize(
    ("flags", "shown"), [((), "auto, which chose lrqk"), (("--attention", "offload"), "offload")]
)
def test_a_conversation_shows_the_attention_that_was_asked_for(tiny_model, flags, shown):
    terminal = Terminal("chat", "--model", tiny_model, *flags)
    terminal.at_prompt()
    terminal.child.send("/set attention\r")
    terminal.until(f"attention {shown}")
    terminal.at_prompt()
    terminal.child.send("/quit\r")
    assert terminal.end() == 0


def test_quit_leaves(tiny_model):
    terminal = Terminal("chat", "--model", tiny_model)
    terminal.at_prompt()
    terminal.child.send("/quit\r")
    assert terminal.end() == 0


def test_the_password_is_asked_for_and_not_shown(tiny_model, shared_data):
    file = shared_data / "pdfs" / "libreoffice-writer-password.pdf"
    terminal = Terminal("chat", "--model", tiny_model, "--file", file, "--prompt", "x", "--max-new-tokens", 4)
    terminal.until(f"Password of {re.escape(file.name)}:")
    terminal.child.send("wrong\r")
    terminal.until("Wrong. Password of")
    terminal.child.send("openpassword\r")
    terminal.until(r"4 out")
    assert terminal.end() == 0
    assert "openpassword" not in terminal.seen


def ask(terminal, question):
    """Type a question, and wait for its statistics and the next prompt."""
    terminal.at_prompt()
    terminal.child.send(question + "\r")
    terminal.until(r"\d out")


def test_a_chat_that_is_killed_goes_on_after_its_last_finished_turn(tiny_model, long_document):
    options = ("--model", tiny_model, "--max-new-tokens", 8)
    terminal = Terminal("chat", *options, long_document)
    ask(terminal, "One?")
    ask(terminal, "Two?")
    terminal.at_prompt()
    terminal.child.kill(signal.SIGKILL)
    terminal.child.close()

    terminal = Terminal("chat", "--continue", "--max-new-tokens", 8)
    ask(terminal, "Three?")
    terminal.at_prompt()
    terminal.child.send("/undo\r")
    terminal.until("Forgotten: Three")
    ask(terminal, "Four?")
    terminal.at_prompt()
    terminal.child.send("\x04")
    terminal.until("Go on with it: lrqk chat --continue")
    assert terminal.end() == 0
    (info,) = SessionStore().list()
    recorded = SessionStore().archive(info.name)
    assert [entry.question for entry in recorded.entries[1:]] == ["One?", "Two?", "Four?"]
    assert info.documents == ("long.txt",)


def test_a_chat_without_history_is_not_recorded(tiny_model):
    terminal = Terminal("chat", "--model", tiny_model, "--max-new-tokens", 8, "--no-history")
    ask(terminal, "One?")
    terminal.at_prompt()
    terminal.child.send("\x04")
    assert terminal.end() == 0
    assert SessionStore().list() == []


def test_a_conversation_that_fills_its_context_is_opened_again(tiny_model, run):
    base = ("chat", "--model", tiny_model, "--session", "full", "--ctx", 400, "--max-new-tokens", 20)
    question, answered = "Is this a rather long question, or is it not?", 0
    while (result := run(*base, "--prompt", question)).code == 0:
        answered += 1
    assert result.code == 6, result.err
    assert answered > 2
    terminal = Terminal(*base)
    terminal.at_prompt()
    assert "Error" not in terminal.seen
    terminal.child.send(f"{question}\r")
    terminal.until("/undo takes back the last one")
    terminal.at_prompt()
    terminal.child.send("/undo\r")
    terminal.at_prompt()
    terminal.child.send("Who?\r")
    terminal.until("stopped at /set max-new-tokens")
    terminal.at_prompt()
    terminal.child.send("/quit\r")
    assert terminal.end() == 0
    recorded = [entry.question for entry in SessionStore().archive("full").entries]
    assert recorded == [question] * (answered - 1) + ["Who?"]
