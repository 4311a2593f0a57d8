"""Nothing that goes wrong at one line of a chat ends it, or leaves anything changed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from fake_chat import FakeEngine
from pypdf import PdfWriter
from talk import Script, Talk

from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents import read_documents
from lrqk_cli.engine.events import PrefillProgress, Step
from lrqk_cli.terminal import repl
from lrqk_cli.terminal.commands import COMMANDS
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.interrupts import LeaveAtOnce

NASTY = [
    "",
    " ",
    "x" * 5000,
    "/" * 5000,
    "\x00",
    "a\x00b",
    "..",
    "../..",
    "/",
    ".",
    "~",
    "~nouser",
    "~nouser/x",
    "[",
    "[/bold]",
    "m[/red].txt",
    "'",
    '"',
    "a 'b",
    '"a" "b',
    "''",
    "\\",
    "\x1b]52;c;RVZJTA==\x1b\\",
    "\udc80\udcff",
    "\u202egpj.exe",
    "ünïcödé 漢字 🙂",
    "-1",
    "nan",
    "inf",
    "1e999",
    "9" * 5000,
    "top-k 99999999999999999999",
    "seed 99999999999999999999999999",
    "temperature nan",
    "temperature inf",
    "repetition-penalty inf",
    "none",
    "a\nb",
    "--help",
    "/etc/passwd",
    "/dev/null",
    "x.json",
    "x.md/",
]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@dataclass
class FailingEngine(FakeEngine):
    """Raises ``failure`` after some characters of an answer or some segments of a text, if there is one."""

    failure: BaseException | None = None
    reads: bool = False
    after: int = 1

    def prefill(
        self, tokens: Sequence[int], *, finishes: bool = True, **options: object
    ) -> Generator[PrefillProgress, None, None]:
        for number, progress in enumerate(super().prefill(tokens, finishes=finishes)):
            if self.failure is not None and self.reads and number == self.after:
                raise self.failure
            yield progress

    def generate(
        self, generation: GenerationConfig, stop_ids: Collection[int], *demands: object
    ) -> Generator[Step, None, None]:
        for number, step in enumerate(super().generate(generation, stop_ids, *demands)):
            if self.failure is not None and number == self.after:
                raise self.failure
            yield step


@pytest.mark.parametrize("command", list(COMMANDS), ids=lambda command: command.name)
def test_no_argument_ends_the_chat(command: Command, tmp_path):
    talk = Talk(FakeEngine(context=100_000))
    talk.say("/sources on", "First?")
    lines = [f"{name} {argument}" for name in (command.name, *command.aliases) for argument in NASTY]
    for line in lines:
        shown = talk.say(line, "Still there?")
        if talk.chat_exit == talk.ctx.chat_exit is not None:  # only /quit alone leaves
            assert command.name in ("/quit", "/model"), line
            assert talk.chat_exit.model is None
            assert line.split() == [line.strip()]
            talk.ctx.chat_exit = None
            continue
        assert talk.questions[-1] == "Still there?", line
        assert talk.engine.text.endswith("Still there?>Yes."), line
        assert "Unexpected" not in shown, (line, shown)
        assert not {"\x1b", "\u202e", "\udc80"} & set(shown), line
        talk.ctx.session.clear()
        talk.ctx.session.generation = GenerationConfig()
        talk.ctx.pages = None
    assert {path.name for path in tmp_path.iterdir()} <= {"work", "state"}


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        OSError(5, "Input/output error"),
        ValueError("m[/red].txt"),
        UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates not allowed"),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "answering"])
def test_whatever_an_engine_raises_the_chat_goes_on_as_it_was(failure, reads):
    engine = FailingEngine(failure=None, reads=reads)
    talk = Talk(engine)

    def fail() -> None:
        engine.failure = failure

    def heal() -> None:
        engine.failure = None

    shown = talk.say(
        "First?", fail, "A second question that fails?", "/retry", "/edit Another?", heal, "Third?"
    )
    if isinstance(failure, MemoryError):
        assert shown.count("Error: This machine has not enough free memory") == 3
    elif isinstance(failure, OSError):
        assert shown.count("Error: A file cannot be read or written: input/output error.") == 3
    else:
        assert shown.count(f"Error: Unexpected {type(failure).__name__}") == 3
        assert "Hint: The conversation is as it was before." in shown
    assert talk.questions == ["First?", "Third?"]
    assert engine.text == "<[onetwo]First?>Yes.|Third?>Yes."
    assert engine.cached == talk.ctx.session.transcript


def test_a_failure_in_a_command_is_told_and_changes_nothing(monkeypatch):
    talk = Talk()
    talk.say("First?")
    before = talk.engine.text

    def break_down(ctx: object, argument: str) -> None:
        talk.ctx.session.clear(documents=True)
        talk.ctx.session.generation = GenerationConfig(seed=1)
        talk.ctx.own_files = frozenset([os.curdir])  # type: ignore[list-item]
        raise RecursionError("maximum recursion depth exceeded")

    broken = type(COMMANDS)([*COMMANDS, Command("/break", "Fails.", break_down)])
    monkeypatch.setattr(repl, "COMMANDS", broken)
    shown = talk.say("/break", "Second?")
    assert "Error: Unexpected RecursionError: maximum recursion depth exceeded." in shown
    assert talk.ctx.session.generation.seed is None
    assert not talk.ctx.own_files
    assert talk.engine.text == f"{before}|Second?>Yes."
    assert len(talk.titles) == 1


def test_a_question_that_was_taken_back_comes_back_where_the_new_one_does_not_fit():
    talk = Talk(FakeEngine(context=60))
    shown = talk.say("First?", "/edit " + "x" * 100, "/edit", "y" * 100, "Second?")
    assert shown.count("context holds") == 2
    assert talk.script.drafts == ["", "", "", "First?", "", ""]
    assert talk.engine.text == "<[onetwo]First?>Yes.|Second?>Yes."


def test_the_traceback_is_shown_with_debug():
    talk = Talk(FailingEngine(failure=RuntimeError("boom \x1b[2J")))
    repl.Repl(talk.ctx, Script(["A?"]), debug=True).run()  # type: ignore[arg-type]
    shown = talk.err.getvalue()
    assert "Traceback" in shown
    assert "in generate" in shown
    assert "\x1b" not in shown


@pytest.fixture
def _ctrl_c():
    """Let SIGINT interrupt, which a shell makes its jobs in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_interrupts_a_command_and_not_the_chat(tmp_path):
    talk = Talk()

    def read(*_: object) -> list[object]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)  # The interrupt ends it, whenever it comes.
        raise AssertionError("no interrupt came")

    talk.ctx.read_documents = read  # type: ignore[assignment]
    shown = talk.say("First?", "/file x.txt", "Second?")
    assert "Interrupted. The conversation is as it was before." in shown
    assert talk.questions == ["First?", "Second?"]


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_while_a_turn_is_recorded_waits():
    talk, recorded = Talk(), []

    def record() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        recorded.append(len(talk.questions))

    talk.ctx.record = record
    talk.say("First?", "Second?")
    assert recorded == [1, 2]


def test_ctrl_c_twice_leaves():
    talk = Talk(FailingEngine(failure=LeaveAtOnce()))
    with pytest.raises(LeaveAtOnce):
        talk.say("First?")


def test_a_stopped_answer_says_so_on_the_screen_and_in_what_is_written(tmp_path):
    talk = Talk(FailingEngine())

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    steps = talk.engine.generate
    talk.engine.generate = lambda *settings: (stop() or step for step in steps(*settings))  # type: ignore[method-assign]
    shown = talk.say("First?", "/export a.md", "/export a.json", "/save a.json!.json")
    assert "The answer was stopped. What is here of it stays" in shown
    assert "*The answer was interrupted.*" in (tmp_path / "work" / "a.md").read_text()
    for name in ("a.json", "a.json!.json"):
        assert '"interrupted"' in (tmp_path / "work" / name).read_text()


@pytest.mark.usefixtures("_ctrl_c")
def test_a_document_whose_reading_is_stopped_is_read_with_the_next_question(tmp_path, monkeypatch):
    talk, whole = Talk(), tmp_path / "b.txt"
    whole.write_text("text " * 100)
    read = talk.engine.prefill

    def stop_at_first(*arguments: object, **named: object) -> Generator[PrefillProgress, None, None]:
        for number, progress in enumerate(read(*arguments, **named)):  # type: ignore[arg-type]
            if not number:
                os.kill(os.getpid(), signal.SIGINT)
            yield progress

    talk.say("First?")
    monkeypatch.setattr(talk.engine, "prefill", stop_at_first)
    shown = talk.say(f"/file {whole}")
    assert "Stopped. The rest is read with your next question." in shown
    assert talk.ctx.session.unread
    shown = talk.say("Second?")
    assert "Stopped before the answer began." in shown
    assert " in · " not in shown
    monkeypatch.setattr(talk.engine, "prefill", read)
    assert " in · " in talk.say("Third?")


@pytest.mark.parametrize("word", ["/quit", "/exit", "/bye", "quit", "exit", "Bye", " exit "])
def test_words_that_leave(word):
    talk = Talk()
    talk.say(word, "Too late?")
    assert talk.questions == []
    assert talk.chat_exit.model is None


def test_help_alone_shows_the_commands_and_in_a_sentence_is_a_question():
    talk = Talk()
    assert "/save NAME" in talk.say("help")
    talk.say("help me", "exit strategy?")
    assert talk.questions == ["help me", "exit strategy?"]


def test_the_system_text_is_confirmed():
    talk = Talk()
    shown = talk.say("/system Be short.", "/system none")
    assert "The instructions are now: Be short." in shown
    assert "The instructions are removed" in shown


def test_a_model_that_is_not_there_leaves_all_as_it_is():
    talk = Talk()
    shown = talk.say("First?", "/model nope", "/model ~nouser/x", "/model .", "Second?")
    assert shown.count("Error: ") == 3
    assert "There is no model 'nope'" in shown
    assert talk.chat_exit.model is None
    assert (talk.engine.resets, talk.questions) == (0, ["First?", "Second?"])


def test_documents_are_added_all_or_none(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x" * (20 if name == "a.txt" else 2000))
    talk = Talk()
    shown = talk.say(f"/file {tmp_path / 'a.txt'} {tmp_path / 'b.txt'}", "/file ~nouser/x", "First?")
    assert "context holds" in shown
    assert "Added" not in shown
    assert "There is no home folder ~nouser." in shown
    assert talk.titles == ["a.pdf"]
    assert talk.engine.text == "<[onetwo]First?>Yes."


DAMAGE = [
    ("seed", '"x"'), ("seed", "true"), ("seed", "1.5"), ("seed", str(2**70)), ("max_new_tokens", "1.5"),
    ("max_new_tokens", "false"), ("max_new_tokens", "0"), ("temperature", "Infinity"), ("temperature", "NaN"),
    ("temperature", "1e999"), ("temperature", "null"), ("top_p", "true"), ("top_p", "[]"),
    ("sample_top_k", "1.0"), ("repetition_penalty", '"1"'), ("system", "3"), ("model", "null"),
    ("question", "5"), ("title", "{}"), ("page", "true"), ("page", '"1"'), ("by_ocr", "1"),
    ("finish_reason", "[]"), ("finish_reason", '"gone"'), ("new_tokens", "1e3"), ("entries", "{}"),
    ("entries", "[1]"), ("generation", "[]"), ("parts", "[[]]"), ("text", "null"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), DAMAGE)
def test_a_damaged_conversation_is_refused_by_name(field, value, tmp_path):
    talk = Talk()
    talk.say("First?", "/save x.json")
    file = tmp_path / "work" / "x.json"
    damaged = json.dumps(_with(json.loads(file.read_text()), field, "@@"))
    assert '"@@"' in damaged
    file.write_text(damaged.replace('"@@"', value))
    shown = talk.say("/load x.json", "Second?")
    assert "Error: x.json is damaged: " in shown
    assert field in shown.replace("-", "_")
    assert "Hint: " in shown
    assert talk.questions == ["First?", "Second?"]
    assert talk.ctx.session.generation == GenerationConfig()


def _with(plain: object, field: str, value: object) -> object:
    if isinstance(plain, dict):
        return {key: value if key == field else _with(part, field, value) for key, part in plain.items()}
    return [_with(part, field, value) for part in plain] if isinstance(plain, list) else plain


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "\xff", "", "NaN", "{}", "\x00"])
def test_a_file_that_is_no_conversation_is_refused(text, tmp_path):
    (tmp_path / "work" / "x.json").write_bytes(text.encode("latin-1"))
    talk = Talk()
    shown = talk.say("First?", "/load x.json", "Second?")
    assert "Error: x.json is not a saved conversation." in shown
    assert talk.questions == ["First?", "Second?"]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "work" / "pipe.json")
    assert "pipe.json is not a file." in Talk().say("/load pipe.json")


def test_a_document_that_is_refused_says_what_to_type(tmp_path):
    text, locked = tmp_path / "notes.txt", tmp_path / "locked.pdf"
    text.write_text("Something.")
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("right")
    writer.write(locked)
    talk = Talk()
    talk.ctx.read_documents = partial(_read_with, password=lambda _: "wrong")
    assert "Hint: Type /pages all, and then /file again.\n" in talk.say("/pages 1", f"/file {text}")
    shown = talk.say("/pages all", f"/file {text}", f"/file {locked}")
    assert "the password is wrong.\nHint: Check the password. Type /file again.\n" in shown
    assert talk.titles == ["a.pdf", "notes.txt"]


def _read_with(paths, pages, password):
    return read_documents(paths, pages=pages, password=password)
