"""Ctrl-C at random moments, once and twice: a clean end, or a chat that goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")
pytest.importorskip("pyte")
if not hasattr(pexpect, "spawn"):
    pytest.skip("signals and pseudo-terminals as of a Unix system are needed", allow_module_level=True)

from screen import Terminal  # noqa: E402

TESTS = Path(__file__).parents[1]
# Python itself ends by the signal where Ctrl-C came within an exec() of an import; shells call both 130.
INTERRUPTED = (130, -signal.SIGINT)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("seed", range(4))
def test_a_question_ends_in_130_at_any_moment(tiny_model, tmp_path, seed, twice):
    """While Python imports, a document is read, a model is loaded, or text goes in and comes out."""
    document = tmp_path / "long.txt"
    document.write_text("All work and no play. " * 120, encoding="utf-8")
    command = [sys.executable, "-m", "lrqk_cli", "chat", "--model", tiny_model, "--file", document]
    moment = random.Random(seed)
    with subprocess.Popen(
        [*map(str, command), "--prompt", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A test runner in the background may have been told to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        time.sleep(moment.uniform(0.2 + seed, 1.2 + seed))
        process.send_signal(signal.SIGINT)
        if twice:
            time.sleep(moment.uniform(0.0, 0.1))
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in INTERRUPTED, errors
    assert "Traceback" not in errors
    assert errors.endswith("Interrupted.\n")


@pytest.mark.parametrize("seed", range(6))
def test_a_chat_goes_on_after_ctrl_c_at_any_moment(seed, tmp_path):
    """While the documents are read, a question goes in and an answer comes; then it all works as before."""
    moment = random.Random(seed)
    variables = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [TESTS / "fake_terminal.py", "--pause", "0.005", "--read-pause", "0.02"]
    terminal = Terminal([*command, "--history", tmp_path / "history"], variables=variables)
    terminal.wait("Reading|Ask")
    for question in ("", "What is it?\r", "And then?\r"):
        terminal.type(question)
        time.sleep(moment.uniform(0.0, 1.2))
        terminal.type("\x03")
        terminal.wait(r"\n>[^\n]*$|\n>[^\n]*\n\n")
        terminal.idle()
    terminal.type("/clear\r")
    terminal.wait("Cleared")
    terminal.type("At last?\r")
    terminal.wait(r"(?s)Cleared.*That is all.*peak")
    terminal.idle()
    terminal.type(f"/export {tmp_path / 'out.md'}\r")
    terminal.wait("Written to")
    terminal.idle()
    terminal.type("\x04")
    assert terminal.end() == 0
    exported = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert exported.count("## Question") == 1
    assert "> At last?" in exported
    assert exported.endswith("That is all.\n")
