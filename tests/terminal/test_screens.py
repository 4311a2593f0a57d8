"""Sessions on a real terminal with a fake engine, as they look; set LRQK_RECORD=1 to record them anew."""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")
pytest.importorskip("pyte")
if not hasattr(pexpect, "spawn"):
    pytest.skip("pseudo-terminals need a Unix system", allow_module_level=True)

from screen import Terminal  # noqa: E402

TESTS = Path(__file__).parents[1]
TRANSCRIPTS = Path(__file__).parent / "transcripts"
PROGRAM = TESTS / "fake_terminal.py"


@pytest.fixture
def start(tmp_path):
    """Start a chat; its state is kept in a folder of the test."""

    def run(
        columns: int = 80,
        *,
        pause: float = 0.0,
        read_pause: float = 0.0,
        long_after: float = 30.0,
        think: bool = False,
        shell: str | None = None,
        then: str = "",
        **settings,
    ) -> Terminal:
        variables = {
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "EDITOR": f"{sys.executable} {tmp_path / 'editor.py'}",
        }
        pauses = "--pause", pause, "--read-pause", read_pause, "--long-after", long_after
        command = [PROGRAM, *pauses, *["--think"] * think, "--history", tmp_path / "state" / "history"]
        if shell is not None:
            command = ["-c", shell, f"{shlex.join(map(str, [sys.executable, *command]))}; {then}"]
        terminal = Terminal(command, columns, variables=variables, **settings)
        if settings.get("term") != "dumb" and not read_pause:
            terminal.wait("Ask a question")
            terminal.idle()
        return terminal

    return run


def say(terminal: Terminal, text: str, shows: str) -> None:
    terminal.type(text + "\r")
    terminal.wait(shows)
    terminal.idle()


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("columns", [80, 120])
def test_a_session_looks_as_recorded(start, columns, colour):
    terminal = start(columns, colour=colour)
    say(terminal, "/hepl", "Did you mean /help")
    say(terminal, "/help", "Ctrl-D")
    say(terminal, "How many people work there?", r" out at .*peak")
    say(terminal, "/stats", "by layer")
    say(terminal, "/file more.txt", "Added more.txt")
    say(terminal, "/files", "From token")
    say(terminal, "/pages", "Tokens a page")
    say(terminal, "/drop", "Forgotten: more.txt")
    say(terminal, "/set temperature 0.5", r"temperature 0\.5")
    say(terminal, "/set rank 3", "cannot change")
    say(terminal, "/system Be short.", "read again")
    say(terminal, "/undo", "Forgotten: How many")
    say(terminal, "/clear", "1 document stays")
    say(terminal, "/load none.json", "cannot be read")
    terminal.type("/quit\r")
    assert terminal.end() == 0
    shown = terminal.transcript()
    recorded = TRANSCRIPTS / f"{columns}-{'colour' if colour else 'plain'}.txt"
    if os.environ.get("LRQK_RECORD"):
        recorded.parent.mkdir(exist_ok=True)
        recorded.write_text(shown, encoding="utf-8")
    assert shown == recorded.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("term", "colour"), [("xterm-256color", True), ("xterm-256color", False), ("dumb", False)]
)
def test_reasoning_stands_above_the_answer_behind_a_rule(start, colour, term):
    terminal = start(colour=colour, term=term, think=True)
    if term == "dumb":
        terminal.wait("Ask a question")
    say(terminal, "How many?", "cpu peak")
    lines = terminal.text().splitlines()
    begin = lines.index("Reasoning:")
    assert lines[begin + 1 : begin + 9] == [
        "│ The user asks how many people work at the plant. Page 8 has a table of the",
        "│ plants, and the first row says Brannock, 412.",
        "│",
        "│ - Brannock: 412",
        "│ - Hale: 97, which is not asked for",
        "│",
        r"│ \x1b[31mSo the answer is 412.",
        "",
    ]
    assert lines[begin + 9].endswith("Findings")
    terminal.type("/quit\r")
    assert terminal.end() == 0


def test_several_lines_by_alt_enter_quotes_and_paste(start):
    terminal = start()
    terminal.type("first\x1b\rsecond\r")
    terminal.wait(r" out at .*peak")
    terminal.idle()
    terminal.type('"""one\rtwo"""\r')
    terminal.wait(r"(?s)peak.* out at .*peak")
    terminal.idle()
    terminal.type("\x1b[200~pasted\nlines\x1b[201~")
    terminal.idle()
    terminal.type("\r")
    terminal.wait(r"(?s)peak.*peak.* out at .*peak")
    terminal.idle()
    terminal.type("/export out.json\r")
    terminal.wait("Written to")
    terminal.idle()
    terminal.type("\x04")
    assert terminal.end() == 0
    exported = Path("out.json").read_text(encoding="utf-8")
    for question in (r"first\nsecond", r"one\ntwo", r"pasted\nlines"):
        assert f'"{question}"' in exported


def test_edit_retry_and_copy(start):
    terminal = start()
    say(terminal, "What?", r" out at .*peak")
    terminal.type("/edit\r")
    terminal.wait(r"> What\?\s*$|> What\?\n")
    terminal.idle()
    terminal.type(" Really?\r")
    terminal.wait(r"(?s)Really.* out at .*peak")
    terminal.idle()
    say(terminal, "/retry", r"(?s)drawn at 0\.7.* out at .*peak")
    say(terminal, "/copy", "OSC 52")
    assert "\x1b]52;c;" in terminal.raw
    terminal.type("/export out.md\r")
    terminal.wait("Written to")
    terminal.idle()
    terminal.type("/quit\r")
    assert terminal.end() == 0
    exported = Path("out.md").read_text(encoding="utf-8")
    assert exported.count("## Question") == 1
    assert "> What? Really?" in exported


def test_the_editor_is_opened_by_ctrl_x_ctrl_e(start, tmp_path):
    (tmp_path / "editor.py").write_text(
        "import sys, pathlib\npathlib.Path(sys.argv[1]).write_text('from the editor')\n"
    )
    terminal = start()
    terminal.type("\x18\x05")
    terminal.wait("from the editor")
    terminal.wait(r" out at .*peak")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_tab_completes_commands_settings_and_paths(start):
    Path("a-long-file-name.txt").write_text("x")
    terminal = start()
    terminal.type("/dr\t")
    terminal.wait("> /drop")
    terminal.type("\x03")
    terminal.idle()
    terminal.type("/set rep\t")
    terminal.wait("/set repetition-penalty")
    terminal.type("\x03")
    terminal.idle()
    terminal.type("/file a-lo\t")
    terminal.wait("/file a-long-file-name.txt")
    terminal.type("\x03")
    terminal.idle()
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_menu_of_completions_leaves_no_second_status_line(start):
    terminal = start()
    terminal.type("/set \t\t")
    terminal.wait("repetition-penalty")
    terminal.idle()
    assert terminal.text().count("tiny · 803") == 1
    terminal.type("\x03")
    terminal.idle()
    assert "repetition-penalty" not in terminal.text()
    terminal.type("\x04")
    assert terminal.end() == 0


def test_questions_are_remembered_for_their_owner_only(start, tmp_path):
    terminal = start()
    say(terminal, "Remember me?", r" out at .*peak")
    terminal.type("\x04")
    assert terminal.end() == 0
    history = tmp_path / "state" / "history"
    assert "Remember me?" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    again = start()
    again.type("\x1b[A")
    again.wait(r"> Remember me\?")
    again.type("\x03\x04")
    assert again.end() == 0


def test_ctrl_c_stops_an_answer_keeps_what_is_there_and_goes_on(start):
    terminal = start(pause=0.01)
    terminal.type("What?\r")
    terminal.wait("Brannock")
    terminal.type("\x03")
    terminal.wait(r" out at .*peak")
    terminal.idle()
    assert terminal.text().count("Findings") == 1
    say(terminal, "/export out.md", "Written")
    terminal.type("And?\r")
    terminal.wait("That is all")
    terminal.wait(r"(?s)peak.* out at .*peak")
    terminal.type("\x04")
    assert terminal.end() == 0
    exported = Path("out.md").read_text(encoding="utf-8")
    assert "**Brannock**" in exported
    assert "interrupted" in exported
    assert "That is all" not in exported


def test_ctrl_c_stops_reading_and_the_rest_is_read_with_the_question(start):
    terminal = start(read_pause=0.6)
    # A segment has 16 tokens; half of one is told of too.
    terminal.wait(r"Reading .* (8|24)/803")
    terminal.type("\x03")
    terminal.wait("Stopping after this step")
    terminal.wait("The rest is read with your next question")
    terminal.idle()
    assert "Reading" not in terminal.text()
    terminal.type("\x04")
    assert terminal.end() == 0


def test_what_is_typed_during_an_answer_comes_after_it(start):
    terminal = start(pause=0.01)
    terminal.type("What?\r")
    terminal.wait("Brannock")
    terminal.type("/set seed 3\r")
    terminal.wait("seed 3\n>")
    before, after = terminal.text().split("That is all.")
    assert "/set" not in before
    assert "> /set seed 3\nseed 3" in after
    terminal.idle()
    terminal.type("\x04")
    assert terminal.end() == 0


def test_what_is_typed_while_reading_is_not_shown_before_the_prompt(start):
    terminal = start(read_pause=0.05)
    terminal.wait(r"Reading .* \d+/803")
    terminal.type("\x1b[1;1Rtyped ahead")
    terminal.wait("> typed ahead")
    assert "\x1b[1;1R" not in terminal.raw
    assert "^[" not in terminal.raw
    assert terminal.raw.count("typed ahead") == 1
    terminal.type("\x03\x04")
    assert terminal.end() == 0


def test_a_stopped_chat_gives_the_terminal_back_and_goes_on_without_echo(start):
    # A shell with job control that leaves the terminal's modes to its jobs.
    in_shell = "import os, sys; os.execvp('sh', ['sh', '-mc', sys.argv[1]])"
    terminal = start(read_pause=0.3, shell=in_shell, then='echo st""opped; read go; fg')
    terminal.wait(r"Reading .* \d+/803")
    assert not terminal.child.getecho()
    terminal.type("\x1a")
    terminal.wait("stopped")
    assert terminal.child.getecho()
    assert not terminal.screen.cursor.hidden
    terminal.type("\r")
    terminal.wait(r"(?s)stopped.*Reading .* \d+/803")
    assert not terminal.child.getecho()
    terminal.type("\x03")
    terminal.wait("The rest is read with your next question")
    terminal.idle()
    terminal.type("\x04")
    assert terminal.end() == 0


def test_the_bell_rings_after_long_work_only(start):
    terminal = start()
    say(terminal, "What?", r" out at .*peak")
    assert "\x07" not in terminal.raw
    terminal.type("\x04")
    assert terminal.end() == 0
    terminal = start(long_after=0.0)
    say(terminal, "What?", r" out at .*peak")
    assert "\x07" in terminal.raw
    terminal.type("\x04")
    assert terminal.end() == 0


def test_ctrl_c_twice_leaves_with_130(start):
    terminal = start(read_pause=3.0)
    terminal.wait(r"Reading .* 8/803")
    terminal.type("\x03")
    terminal.wait("Stopping after this step")
    terminal.type("\x03")
    assert terminal.end() == 130


def test_a_dumb_terminal_gets_plain_text(start):
    terminal = start(term="dumb")
    terminal.wait(">$")
    terminal.type("What?\r")
    terminal.wait("That is all")
    terminal.wait("peak")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "**Brannock** employs `412`" in terminal.text()
    # Neither colours nor movements of the cursor.
    assert not re.search(r"\x1b\[[0-9;]*[A-HJKfm]", terminal.raw)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
