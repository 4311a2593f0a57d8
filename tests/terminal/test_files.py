"""What a chat writes and reads: saved conversations, transcripts, and names of files on the screen."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_chat import FakeEngine
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from talk import Talk

from lrqk_cli.chat.archive import SavedExchange
from lrqk_cli.chat.chat_session import ChatSession
from lrqk_cli.chat.journal import Journal, SessionStore
from lrqk_cli.chat.session_database import sessions_path
from lrqk_cli.errors import ContextLengthError, LrqkError, UsageError
from lrqk_cli.terminal.commands import COMMANDS
from lrqk_cli.terminal.completion import ChatCompleter
from lrqk_cli.terminal.interactive import _open_history
from lrqk_cli.terminal.line_reader import open_history

CLIPBOARD = "\x1b]52;c;RVZJTA==\x1b\\.txt"
# In the title of a document, which the model reads too, what is no character has been replaced.
SHOWN = CLIPBOARD.replace("\x1b", "\ufffd")
SPELLED = r"\x1b]52;c;RVZJTA==\x1b\.txt"


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


@pytest.fixture
def chats(tmp_path) -> Path:
    return tmp_path / "state" / "lrqk" / "chats"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("talk", "talk"),
        ("my chat", "my chat"),
        ("'my chat'", "my chat"),
        ('"my chat"', "my chat"),
        ("my\\ chat", "my chat"),
        ("O'Brien", "O'Brien"),
        ("v1.2", "v1.2"),
        ("über ünïcödé", "über ünïcödé"),
    ],
)
def test_a_name_is_the_rest_of_the_line(typed, name):
    with Talk() as talk:
        assert f"Recorded as {name} from now on" in talk.say("First?", f"/save {typed}")
    assert [info.name for info in SessionStore().list()] == [name]
    with Talk() as other:
        assert "Documents: 1, questions: 1" in other.say(f"/load {typed}")
        assert name in other.say("/load")


@pytest.mark.parametrize(
    ("typed", "file"),
    [
        ("a b.json", "a b.json"),
        ("./x", "x.json"),
        ("sub/x", "sub/x.json"),
        ("../work/x", "x.json"),
        ("sub/x.txt", "sub/x.txt"),
    ],
)
def test_a_path_stays_a_path_and_gets_a_suffix_where_it_has_none(typed, file, work):
    (work / "sub").mkdir()
    talk = Talk()
    talk.say("First?", f"/save {typed}")
    assert (work / file).is_file()
    assert "questions: 1" in Talk().say(f"/load {typed}")


@pytest.mark.parametrize("typed", ["..", ".", "/", "sub/", "''", "../..", "~", "../work"])
def test_what_names_no_file_is_refused(typed):
    shown = Talk().say(f"/save {typed}")
    assert "Error: " in shown
    assert "Hint: " in shown


def test_what_others_wrote_is_replaced_only_if_that_is_asked_for(work):
    (work / "notes.md").write_text("mine")
    with Talk() as first:
        first.say("First?", "/save talk", "/save talk.json")
    with Talk() as second:
        shown = second.say("Second?", "/save talk", "/save talk.json", "/export notes.md")
        assert "There is a session 'talk' already." in shown
        assert "talk.json is there already." in shown
        assert "Hint: To replace it, type /save! talk; to go on with it, /load talk" in shown
        assert "Hint: To replace it, type /export! notes.md" in shown
        assert questions_of("talk") == ["First?"]
        assert "First?" in (work / "talk.json").read_text()
        assert (work / "notes.md").read_text() == "mine"
        second.say("/save! talk", "/save! talk.json", "/export! notes.md")
    assert questions_of("talk") == ["Second?"]
    assert "Second?" in (work / "talk.json").read_text()
    assert "Second?" in (work / "notes.md").read_text()


def questions_of(name: str) -> list[str]:
    return [
        entry.question for entry in SessionStore().archive(name).entries if isinstance(entry, SavedExchange)
    ]


def test_a_session_that_another_chat_has_open_is_left_to_it():
    with Talk() as first, Talk() as second:
        first.say("First?", "/save talk")
        shown = second.say("Second?", "/save! talk", "/load talk", "Third?")
        assert shown.count("Error: ") == 2
        assert second.questions == ["Second?", "Third?"]
    assert questions_of("talk") == ["First?"]


def test_settings_of_the_attention_that_were_typed_are_recorded_and_stay_with_their_session():
    with Talk() as talk:
        talk.say("First?", "/save talk", "/set top-k 100", "/set tail none", "/set tail both")
        assert SessionStore().archive("talk").wanted == {"top_k": 100, "tail": "none"}
    with Talk() as talk:
        talk.say("/set top-k 50", "Second?", "/save other", "/load talk", "Third?")
        assert SessionStore().archive("talk").wanted == {"top_k": 100, "tail": "none"}
        assert SessionStore().archive("other").wanted == {"top_k": 50}


def test_a_named_conversation_is_recorded_from_then_on():
    with Talk() as talk:
        talk.say("First?", "/save talk", "Second?")
        assert questions_of("talk") == ["First?", "Second?"]
        talk.say("/save other", "Third?")
        assert questions_of("talk") == ["First?", "Second?"]
        assert questions_of("other") == ["First?", "Second?", "Third?"]
        talk.say("/load talk", "Fourth?", "/undo", "Fifth?")
        assert questions_of("talk") == ["First?", "Second?", "Fifth?"]
        assert "This is the session 'talk'." in talk.say("/load talk")
    assert questions_of("other") == ["First?", "Second?", "Third?"]


@pytest.mark.parametrize("is_named", [False, True])
def test_a_file_that_is_loaded_takes_the_place_of_no_session(is_named):
    store = SessionStore()
    with Talk() as writer:
        writer.say("Filed?", "/save a.json")
    with Talk(chat_session=ChatSession(store.open(title="b.pdf"))) as talk:
        talk.say("First?", *["/save talk"] * is_named)
        before = store.list()[0].name
        shown = talk.say("/load a.json")
        assert f"The session {before} stays as it was" in talk.out.getvalue() + shown
        talk.say("Second?")
        assert questions_of(before) == ["First?"]
        (other,) = [info.name for info in store.list() if info.name != before]
        assert questions_of(other) == ["Filed?", "Second?"]
        talk.say(f"/load {before}", "Third?")
        assert questions_of(before) == ["First?", "Third?"]
        assert questions_of(other) == ["Filed?", "Second?"]


def test_a_file_that_does_not_fit_begins_no_session(monkeypatch):
    store = SessionStore()
    with Talk() as writer:
        writer.say("Filed?", "/save a.json")
    with Talk(chat_session=ChatSession(store.open(title="b.pdf"))) as talk:
        talk.say("First?")
        (before,) = store.list()
        failing = UsageError("It is too long.", "Load another.")
        monkeypatch.setattr(talk.ctx.session, "adopt", lambda *_, **__: (_ for _ in ()).throw(failing))
        assert "It is too long." in talk.say("/load a.json", "Second?")
        assert [info.name for info in store.list()] == [before.name]
        assert questions_of(before.name) == ["First?", "Second?"]


def test_a_chat_that_records_nothing_does_not_begin_to_with_a_file():
    with Talk() as talk:
        talk.say("First?", "/save a.json", "/load a.json", "Second?")
    assert SessionStore().list() == []


def test_a_name_takes_the_place_of_the_date():
    store = SessionStore()
    with Talk(chat_session=ChatSession(store.open(title="a.pdf"))) as talk:
        talk.say("First?")
        assert [info.name.endswith("-a") for info in store.list()] == [True]
        talk.say("/save talk")
        assert [info.name for info in store.list()] == ["talk"]


def test_the_date_stays_if_it_was_typed_as_a_name():
    with Talk(chat_session=ChatSession(SessionStore().open(title="a.pdf"))) as talk:
        talk.say("First?")
        name = SessionStore().list()[0].name
        talk.say(f"/save {name}", "/save talk", "Second?")
        assert questions_of(name) == ["First?"]
        assert questions_of("talk") == ["First?", "Second?"]


def test_a_turn_that_could_not_be_recorded_is_before_another_session_is_loaded(monkeypatch):
    with Talk() as talk:
        talk.say("First?", "/save first")

    def fail(*_):
        raise LrqkError("The disk is full.")

    with Talk() as talk:
        talk.say("Second?", "/save second")
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "record", fail)
            shown = talk.say("Third?", "/load first")
            assert "The disk is full." in shown
            assert talk.questions == ["Second?", "Third?"]
        talk.say("Fourth?")
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "record", fail)
            talk.say("Fifth?")
        talk.say("/load first")
        assert talk.questions == ["First?"]
    assert questions_of("second") == ["Second?", "Third?", "Fourth?", "Fifth?"]
    assert questions_of("first") == ["First?"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_what_fails_after_a_change_of_sessions_overwrites_neither(failure, monkeypatch):
    """The lock of the session that is left cannot be released, or Ctrl-C is pressed meanwhile."""
    with Talk() as talk:
        talk.say("First?", "/save first")
    close, left = Journal.close, []

    def fail(journal: Journal) -> None:
        close(journal)
        if not left:
            left.append(journal.name)
            raise failure

    with Talk(chat_session=ChatSession(SessionStore().open("second"), is_named=True)) as talk:
        talk.say("Second?")
        monkeypatch.setattr(Journal, "close", fail)
        talk.say("/load first")
        assert left == ["second"]
        assert talk.questions == ["First?"]
    assert SessionStore().archive("first").said[0] == "First?"
    assert SessionStore().archive("second").said[0] == "Second?"


def test_a_conversation_that_does_not_fit_is_not_loaded(monkeypatch):
    with Talk() as talk:
        talk.say("First?", "/save talk")
    with Talk() as other:
        other.say("Second?", "/save other")

        def refuse(*_):
            raise ContextLengthError("It is too long.")

        monkeypatch.setattr(other.ctx.session, "adopt", refuse)
        assert "It is too long." in other.say("/load talk", "Third?")
        assert questions_of("other") == ["Second?", "Third?"]
    assert questions_of("talk") == ["First?"]


def test_files_of_earlier_versions_are_listed_and_loaded(chats):
    with Talk() as talk:
        talk.say("First?", "/save old.json")
    chats.mkdir(parents=True)
    Path("old.json").rename(chats / "old.json")
    os.utime(chats / "old.json", (1e9, 1e9))
    with Talk() as other:
        assert "2001-09-09" in other.say("/load")
        other.say("/load old")
        assert other.questions == ["First?"]


def test_a_conversation_is_saved_again_to_its_own_file_until_it_is_another(work):
    talk = Talk()
    talk.say("First?", "/save a.json", "/export a.md", "Second?", "/save ../work/a.json", "/export a.md")
    assert "Second?" in (work / "a.json").read_text()
    assert "Second?" in (work / "a.md").read_text()
    loaded = Talk()
    assert "already" not in loaded.say("/load a.json", "Third?", "/save a.json")
    assert "Third?" in (work / "a.json").read_text()
    assert "a.json is there already" in loaded.say("/clear", "/save a.json")
    other = Talk()
    other.say("/load a.json", "/save b.json")
    assert "a.json is there already" in other.say("/load b.json", "/save a.json")


def test_no_folder_is_made_unasked(work):
    shown = Talk().say("First?", "/export deep/er/a.md", "/save deep/er/a.json")
    assert shown.count("there is no folder deep/er.") == 2
    assert list(work.iterdir()) == []


def test_planted_links_are_not_followed(work, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("a.json.part", "a.md.part", "linked.md"):
        (work / name).symlink_to(victim)
    talk = Talk()
    shown = talk.say("First?", "/save a.json", "/export a.md", "/export linked.md")
    assert "linked.md is there already" in shown
    talk.say("/export! linked.md")
    assert victim.read_text() == "mine"
    for name in ("a.json", "a.md", "linked.md"):
        assert not (work / name).is_symlink()
        assert "First?" in (work / name).read_text()
        assert stat.S_IMODE((work / name).stat().st_mode) == 0o600
    assert len(list(work.iterdir())) == 5


def test_saved_conversations_are_private(chats):
    with Talk() as talk:
        talk.say("First?", "/save a", "/save a.json")
    assert stat.S_IMODE(chats.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(sessions_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("a.json").stat().st_mode) == 0o600


def test_halves_of_characters_are_saved_and_come_back(work):
    talk = Talk()
    question = "What is \udc80 and \ud83d?"
    talk.say(question, "/save a.json", "/export b.json", "/export b.md", "/export b.svg")
    assert len(list(work.iterdir())) == 4
    other = Talk()
    other.say("/load a.json")
    assert other.questions == [question]
    assert json.loads((work / "b.json").read_text())["messages"][1]["content"] == question
    assert r"\udc80" in (work / "b.md").read_text()


def test_sessions_are_listed():
    with Talk() as talk:
        assert "There is no other conversation yet." in talk.say("/load")
        assert "There is no session 'old'." in talk.say("/load old")
        talk.say("First?", "/save old", "/save new[bold]")
        shown = talk.say("/load")
        assert shown.index("new[bold]") < shown.index("old")
        assert "a.pdf" in shown
        assert "control characters" in talk.say("/save new\x1b[2J")
        assert "alone: list them" in talk.say("/help")


def completions(line: str) -> list[str]:
    completer = ChatCompleter(COMMANDS, lambda: [])
    return [
        line[: len(line) + item.start_position] + item.text
        for item in completer.get_completions(Document(line), CompleteEvent())
    ]


def test_saved_names_are_completed_first_then_paths(work):
    (work / "talks.txt").write_text("")
    with Talk() as talk:
        talk.say("First?", "/save talk about it")
    for command in ("/load", "/save", "/save!"):
        assert completions(f"{command} ta") == [f"{command} talk about it", f"{command} talks.txt"]
        assert completions(f"{command} talk ab") == [f"{command} talk about it"]
    assert completions("/file ta") == ["/file talks.txt"]


def test_names_cannot_steer_the_terminal_when_they_are_completed(work):
    (work / CLIPBOARD).write_text("x")
    completer = ChatCompleter(COMMANDS, lambda: [])
    [item] = completer.get_completions(Document("/file "), CompleteEvent())
    assert item.display_text == SPELLED


@pytest.mark.parametrize("terminal", [True, False])
def test_a_name_that_writes_the_clipboard_is_spelled_out_everywhere(work, terminal):
    (work / CLIPBOARD).write_text("some text")
    (work / f"empty-{CLIPBOARD}").write_text("")
    engine = FakeEngine(looks_at="some text")
    talk = Talk(engine, terminal=terminal)
    shown = talk.say(
        f"/file '{CLIPBOARD}'", f"/file 'empty-{CLIPBOARD}'", f"/file 'none-{CLIPBOARD}'", "/files",
        "/sources on", "What?", "/sources",
        f"/load none-{CLIPBOARD}", f"/model {CLIPBOARD}", f"/set {CLIPBOARD}",
        f"/save {CLIPBOARD}.json", "/drop", "/drop",
    )  # fmt: skip
    for part in (
        f"Added {SHOWN}",
        f"empty-{SHOWN}",
        f"none-{SHOWN}",
        f"Saved as {SPELLED[:-5]}",
        f"Sources: {SHOWN}",
        f"Forgotten: {SHOWN}",
    ):
        assert part in shown
    assert shown.count(SPELLED) + shown.count(SHOWN) >= 9
    assert "\x1b]" not in shown
    assert "RVZJTA==\x1b" not in shown


@pytest.mark.parametrize("name", ["b[bold]x[red].txt", "m[/red].txt", ":smile:.txt", "[link=x]b[/link].txt"])
def test_names_are_no_markup(work, name):
    (work / name.rpartition("/")[0]).mkdir(exist_ok=True)
    (work / name).write_text("some text")
    engine = FakeEngine(looks_at="some text", context=10_000)
    talk = Talk(engine, terminal=True)
    talk.ctx.read_documents = _reading(talk)
    shown = talk.say(f"/file '{name}'", "/sources on", "What?", "/files", "/sources", f"/file '{name}x'")
    title = name.rpartition("/")[2]
    assert f"Added {title}" in shown
    assert f"Sources: {title}" in shown
    assert shown.count(title) >= 5
    assert "Unexpected" not in shown


def _reading(talk: Talk):
    """Read with the bar that names each file, as ``lrqk chat`` does."""
    from lrqk_cli.documents import read_documents

    def read(paths, pages):
        with talk.ctx.view.reading() as report:
            return read_documents(paths, pages=pages, on_progress=report)

    return read


def test_a_name_that_is_not_utf_8_is_read_listed_and_saved(work):
    name = os.fsdecode(b"caf\xe9.txt")
    (work / name).write_text("some text")
    talk = Talk()
    shown = talk.say(f"/file {name}", "What?", "/files", "/save a.json", "/export a.md", "/export a.svg")
    assert "Added caf\ufffd.txt" in shown
    assert talk.questions == ["What?"]
    assert "Unexpected" not in shown
    other = Talk()
    other.say("/load a.json")
    assert other.titles == ["a.pdf", "caf\ufffd.txt"]


def test_an_answer_cannot_steer_the_terminal(work):
    engine = FakeEngine(answer="It is \x1b]52;c;RVZJTA==\x07**2**\x9b2J \u202egpj\u2066.$")
    talk = Talk(engine)
    talk.say("What?", "/export a.md", "/export a.svg", "/export a.json")
    spelled = (r"\x1b]52;c;RVZJTA==\x07", r"\x9b2J", r"\u202egpj\u2066")
    screen = talk.out.getvalue()
    assert all(part in screen for part in spelled)
    assert not {"\x07", "\x9b", "\u202e", "\u2066"} & set(screen)
    assert "\x1b]" not in screen
    markdown = (work / "a.md").read_text()
    assert all(part in markdown for part in spelled)
    for name in ("a.md", "a.svg", "a.json"):
        assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u2066"} & set((work / name).read_text())
    assert json.loads((work / "a.json").read_text())["messages"][2]["content"] == engine.answer[:-1]


def test_the_history_follows_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "history").symlink_to(victim)
    with pytest.raises(UsageError, match="cannot be kept"):
        open_history(tmp_path / "history")
    assert stat.S_IMODE(victim.stat().st_mode) != 0o600


def test_a_question_that_cannot_be_remembered_ends_no_chat(tmp_path):
    history = open_history(tmp_path / "deep" / "history")
    history.append_string("What is \udc80?")
    assert "What is ??" in (tmp_path / "deep" / "history").read_text()
    (tmp_path / "deep" / "history").unlink()
    (tmp_path / "deep" / "history").mkdir()
    history.append_string("Where?")
    assert history.get_strings()[-1] == "Where?"


def test_where_no_history_can_be_kept_the_chat_begins_all_the_same(tmp_path):
    (tmp_path / "state").write_text("")
    warned = []
    history = _open_history(tmp_path / "state" / "history", SimpleNamespace(warn=warned.append))
    history.append_string("Why?")
    assert history.get_strings() == ["Why?"]
    assert len(warned) == 1
    assert "cannot be kept" in warned[0]


def test_a_history_that_cannot_be_read_is_empty(tmp_path):
    history = open_history(tmp_path / "history")
    (tmp_path / "history").unlink()
    (tmp_path / "history").mkdir()
    assert list(history.load_history_strings()) == []
