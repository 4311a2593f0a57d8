from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import session_processes
from filelock import BaseFileLock
from hypothesis import example, given, settings
from hypothesis import strategies as st
from session_processes import exchange, talk

from lrqk_cli.chat import session_database, session_records, session_search
from lrqk_cli.chat.archive import Archive, SavedDocument, SavedExchange, SavedSection
from lrqk_cli.chat.events import Reply
from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.chat.session_database import DamagedSessionsError, sessions_path
from lrqk_cli.chat.session_names import new_name, session_name
from lrqk_cli.config import GenerationConfig
from lrqk_cli.errors import LrqkError, UsageError

unix = pytest.mark.skipif(os.name != "posix", reason="needs a Unix system")


@pytest.fixture
def store(tmp_path):
    return SessionStore(tmp_path / "state" / "sessions.sqlite3")


def record(store, name, archive):
    with store.open(name) as journal:
        journal.record(archive)


def said(question, answer="", title=None):
    """Return an archive with one exchange, and a document with a title."""
    entries = [SavedDocument(title, "/x", (SavedSection("secret text", None),))] if title else []
    entries.append(SavedExchange(question, Reply(answer, "stop", 1) if answer else None))
    return Archive("tiny", None, GenerationConfig(), {}, tuple(entries))


def change(store, statement, *values):
    connection = sqlite3.connect(store.path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def rows(store, table):
    connection = sqlite3.connect(store.path)
    try:
        return connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
    finally:
        connection.close()


def test_the_database_is_in_the_folder_for_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert sessions_path() == tmp_path / "lrqk" / "sessions.sqlite3"
    assert SessionStore().path == sessions_path()


def test_a_session_comes_back_as_it_was_recorded(store):
    with store.open("talk") as journal:
        assert (journal.name, journal.archive()) == ("talk", None)
        journal.record(talk(1))
        journal.record(talk(2))
    with store.open("talk") as journal:
        assert journal.archive() == talk(2)
    assert store.archive("talk") == talk(2)


TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff\0\x1b\u202e"), max_size=8
)
EXCHANGES = st.builds(
    SavedExchange,
    TEXT,
    st.none() | st.builds(Reply, TEXT, st.sampled_from(["stop", "length", "interrupted"]), st.integers(0, 9)),
    st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple),
)
SECTIONS = st.builds(SavedSection, TEXT, st.none() | st.integers(-(10**30), 10**30), st.booleans())
DOCUMENTS = st.builds(
    SavedDocument, st.sampled_from("ab\udc80"), TEXT, st.lists(SECTIONS, max_size=2).map(tuple)
)
ARCHIVES = st.builds(
    Archive,
    TEXT,
    st.none() | TEXT,
    st.builds(GenerationConfig, seed=st.none() | st.integers(0, 2**64 - 1), temperature=st.floats(0, 9)),
    st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.booleans(), max_size=2),
    st.lists(EXCHANGES | DOCUMENTS, max_size=5).map(tuple),
    st.none() | TEXT,
)


@st.composite
def steps(draw):
    """Yield archives that grow, shrink and are edited, and whether the journal is opened again in between."""
    archive, found = draw(ARCHIVES), []
    for _ in range(draw(st.integers(1, 6))):
        entries = list(archive.entries)
        match draw(st.sampled_from(["grow", "shrink", "edit", "other", "same"])):
            case "grow":
                entries += draw(st.lists(EXCHANGES | DOCUMENTS, min_size=1, max_size=2))
            case "shrink":
                del entries[draw(st.integers(0, len(entries))) :]
            case "edit" if entries:
                entries[draw(st.integers(0, len(entries) - 1))] = draw(EXCHANGES | DOCUMENTS)
            case "other":
                archive = draw(ARCHIVES)
                entries = list(archive.entries)
        archive = replace(archive, entries=tuple(entries))
        found.append((archive, draw(st.booleans())))
    return found


@settings(max_examples=30, deadline=None)
@given(first=steps(), second=steps())
def test_any_sequence_of_records_gives_back_the_last(first, second):
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore(Path(folder) / "sessions.sqlite3")
        for name, todo in (("one", first), ("two", second)):
            journal = store.open(name)
            for archive, opens_again in todo:
                journal.record(archive)
                if opens_again:
                    journal.close()
                    journal = store.open(name)
                assert journal.archive() == archive
            journal.close()
        last = [first[-1][0], second[-1][0]]
        assert [store.archive(name) for name in ("one", "two")] == last
        entries = [entry for archive in last for entry in archive.entries]
        texts = {entry.parts for entry in entries if isinstance(entry, SavedDocument)}
        assert (rows(store, "documents"), rows(store, "entries")) == (len(texts), len(entries))
        assert rows(store, "words") == len(entries)
        assert session_database.is_sound(store.path)
        store.remove("one")
        assert store.archive("two") == last[1]
        store.remove("two")
        assert [rows(store, table) for table in ("sessions", "entries", "documents", "words")] == [0] * 4
        assert session_database.is_sound(store.path)


def test_the_list_shows_the_last_changed_first(store):
    assert (store.list(), store.newest()) == ([], None)
    assert not store.path.parent.exists()
    record(store, "one", talk(2))
    record(store, "two", said("Hello?"))
    record(store, "one", talk(3))
    one, two = store.list()
    assert (one.name, one.model, one.documents, one.exchanges) == ("one", "tiny", ("report.pdf",), 3)
    assert (two.name, two.documents, two.exchanges) == ("two", (), 1)
    assert one.created < two.updated < one.updated <= time.time()
    assert store.newest() == store.find("one") == one
    with pytest.raises(UsageError, match="no session 'ones'") as failure:
        store.find("ones")
    assert failure.value.hint == "Did you mean one?"


def test_nothing_is_written_where_nothing_changed(store, monkeypatch):
    with store.open("talk") as journal:
        journal.record(talk(2))
        before = store.find("talk")
        monkeypatch.setattr(session_database, "_make_file", pytest.fail)
        journal.record(talk(2))
        monkeypatch.undo()
        assert store.find("talk") == before


def test_a_turn_is_one_insert_and_a_document_is_stored_once(store, monkeypatch):
    record(store, "one", talk(2))
    record(store, "two", talk(1))
    assert rows(store, "documents") == 1
    kept = _ids(store)
    with store.open("one") as journal:
        journal.record(talk(3))
    assert set(kept) < set(_ids(store))
    assert len(_ids(store)) == len(kept) + 1
    store.remove("one")
    assert rows(store, "documents") == 1
    record(store, "two", said("No document."))
    assert rows(store, "documents") == 0


def _ids(store):
    with session_database.connected(store.path, writes=False) as connection:
        return [number for (number,) in connection.execute("SELECT id FROM entries")]


def test_sessions_without_a_record_are_not_kept(store):
    with store.open("empty") as journal:
        assert store.list() == []
        assert store.search(["x"]) == []
        with pytest.raises(UsageError):
            store.archive("empty")
    journal.close()
    assert rows(store, "sessions") == 0
    record(store, "cleared", replace(talk(0), entries=()))
    assert store.find("cleared").exchanges == 0
    with store.open("cleared"):
        pass
    assert store.newest().name == "cleared"


def test_a_new_session_does_not_replace_one(store):
    record(store, "talk", talk(1))
    with pytest.raises(UsageError, match="'talk' already") as failure:
        store.open("talk", fresh=True)
    assert "/save! talk" in failure.value.hint
    store.open("other", fresh=True).close()


def test_a_name_is_made_of_the_time_and_the_first_document(store):
    with (
        store.open(title="My report: 2. draft.pdf") as one,
        store.open(title="My report: 2. draft.pdf") as two,
    ):
        assert one.name.endswith("-My-report-2-draft")
        assert two.name == f"{one.name}-2"
    assert new_name(None, (), 0.0)[:11] in ("1970-01-01-", "1969-12-31-")
    for title in ("", "\u202e\x1b[2J.pdf", "\udc80", "x" * 500, "/etc/passwd", ".hidden", "木の本.txt"):
        assert session_name(new_name(title, ())) == new_name(title, ())
    with store.open() as journal:
        assert journal.name[:2] == "20"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "a/b",
        "/",
        "a\\b",
        "~",
        "~root",
        "-x",
        "a\nb",
        "\x1b[2J",
        "\udc80",
        "x" * 101,
        "\0",
    ],
)
def test_a_name_is_never_a_path(store, name):
    record(store, "talk", talk(1))
    for act in (store.open, store.find, store.remove, store.archive, lambda new: store.rename("talk", new)):
        with pytest.raises(UsageError):
            act(name)
    assert [info.name for info in store.list()] == ["talk"]


def test_names_are_compared_in_composed_form(store):
    record(store, "Mu\u0308ller; DROP TABLE sessions;--'", talk(1))
    assert store.find(" M\u00fcller; DROP TABLE sessions;--' ").exchanges == 1


def test_sessions_are_renamed(store):
    record(store, "one", talk(1))
    record(store, "two", talk(2))
    with pytest.raises(UsageError, match="'two' already"):
        store.rename("one", "two")
    store.rename("one", "one")
    before = store.find("one")
    store.rename("one", "three")
    assert store.find("three") == replace(before, name="three")
    assert store.archive("three") == talk(1)
    with pytest.raises(UsageError, match="no session 'one'"):
        store.rename("one", "four")


def test_a_session_that_died_unrecorded_does_not_keep_its_name(store):
    record(store, "talk", talk(1))
    with store.open("new"), pytest.raises(LrqkError, match="'new' is open in another process"):
        store.rename("talk", "new")
    # What is left of a process that was killed: a row, and a lock file that nobody holds.
    store.open("new")._lock.release()
    store.rename("talk", "new")
    assert [info.name for info in store.list()] == ["new"]
    assert rows(store, "sessions") == 1
    assert store.archive("new") == talk(1)


def test_nothing_is_left_of_what_is_removed(store):
    record(store, "kept", said("Kept?", "Yes."))
    record(store, "secret", talk(300, "Unspeakable words. " * 5000))
    record(store, "secret", said("Xyzzy plugh?", "Abracadabra.", "quux.pdf"))
    size = store.path.stat().st_size
    store.remove("secret")
    left = b"".join(file.read_bytes() for file in store.path.parent.rglob("*") if file.is_file())
    for word in (
        b"Unspeakable",
        b"Question",
        b"Xyzzy",
        b"xyzzy",
        b"plugh",
        b"abracadabra",
        b"quux",
        b"secret",
    ):
        assert word not in left
    assert store.path.stat().st_size < size
    assert store.archive("kept") == said("Kept?", "Yes.")


def found(store, *words, limit=20):
    return [(hit.session, hit.exchange, hit.question) for hit in store.search(words, limit)]


def marked(hit):
    return "".join(f"[{piece.text}]" if piece.is_hit else piece.text for piece in hit.snippet)


@pytest.fixture(params=["index", "no index"])
def search(request, monkeypatch, store):
    """The store, with and without a full-text index."""
    if request.param == "no index":
        for module in (session_database, session_records, session_search):
            monkeypatch.setattr(module, "has_index", lambda _: False)
    return store


def test_questions_answers_and_titles_are_searched(search):
    assert search.search(["anything"]) == []
    record(search, "one", said("What is the Revenue?", "It is 5 million.", "Annual report.pdf"))
    record(search, "two", said("Who?", "Mrs. Sheppard, of the revenue service."))
    assert sorted(found(search, "revenue")) == [("one", 1, "What is the Revenue?"), ("two", 1, "Who?")]
    assert found(search, "REVENUE", "million") == [("one", 1, "What is the Revenue?")]
    assert found(search, "annual") == [("one", None, "Annual report.pdf")]
    assert found(search, "secret") == []
    assert found(search, "revenue service") == [("two", 1, "Who?")]
    assert found(search, "service revenue") == []
    assert len(found(search, "revenue", limit=1)) == 1
    assert marked(search.search(["revenue", "million"])[0]) == "It is 5 [million]."
    assert marked(search.search(["revenue", "is the"])[0]) == "What [is the] [Revenue]?"
    # Parts of words, where no whole word is found.
    assert found(search, "shepp") == [("two", 1, "Who?")]


def test_what_is_searched_follows_what_is_recorded(search):
    record(search, "one", said("First?"))
    record(search, "one", said("Second?"))
    assert (found(search, "first"), found(search, "second")) == ([], [("one", 1, "Second?")])
    search.rename("one", "two")
    assert found(search, "second") == [("two", 1, "Second?")]
    search.remove("two")
    assert found(search, "second") == []


@pytest.mark.parametrize(
    "word",
    ['"', '""', '"a', "a OR b", "NOT", "OR", "NEAR(a b)", "a*", "*", "^a", "title:a", "{a b}:", "-a",
     "a+b", "(", "a AND", "'", "%", "_", "\\", "\0", "\udc80", "';--", "[", "ü" * 5000, "\ue000"],
)  # fmt: skip
def test_no_word_is_an_operator(search, word):
    record(search, "one", said(f"Is it >{word}< or c++?".replace("\0", " ")))
    record(search, "two", said("b alone"))
    hits = search.search([word, "c++"]) if word.strip("\0") else []
    assert {hit.session for hit in hits} <= {"one"}
    assert "two" not in {hit.session for hit in search.search(["title:b"])}


def test_there_must_be_a_word_and_not_too_many(store):
    record(store, "one", talk(1))
    for words in ([], [""], [" ", "\0"]):
        with pytest.raises(UsageError, match="nothing to search for"):
            store.search(words)
    with pytest.raises(UsageError, match="too many"):
        store.search(["a"] * 51)
    assert store.search(["question"] * 50, limit=1 << 80)


def test_words_of_any_script_are_found(search):
    record(search, "one", said("Was heißt Öl auf Japanisch?", "油です。長い文章の中の言葉。"))
    for word in ("öl", "ÖL", "油", "言葉", "heißt"):
        assert found(search, word) == [("one", 1, "Was heißt Öl auf Japanisch?")], word


def test_long_texts_are_cut_in_snippets(search):
    record(search, "one", said("Where?", "so " * 500 + "needle " + "on " * 500))
    text = marked(search.search(["needle"])[0])
    assert len(text) < 250
    assert "[needle]" in text
    assert text.startswith("…")
    assert text.endswith("…")


def test_what_was_written_without_an_index_is_indexed_later(store, monkeypatch):
    with monkeypatch.context() as patch:
        for module in (session_database, session_records, session_search):
            patch.setattr(module, "has_index", lambda _: False)
        record(store, "one", said("First?"))
        record(store, "gone", said("Second?"))
        store.remove("gone")
    record(store, "two", said("Third?"))
    assert rows(store, "words") == 2
    assert found(store, "first") == [("one", 1, "First?")]
    assert found(store, "second") == []


def test_a_session_is_held_by_one_journal(store):
    with store.open("talk") as journal:
        journal.record(talk(1))
        for act in (store.open, store.remove, lambda name: store.rename(name, "x")):
            with pytest.raises(LrqkError, match="'talk' is open in another process") as failure:
                act("talk")
            assert failure.value.hint
        journal.record(talk(2))
        store.open("other").close()
        assert store.archive("talk") == talk(2)
    with pytest.raises(LrqkError, match="is closed"):
        journal.record(talk(3))
    store.open("talk").close()


def test_a_journal_may_change_its_thread(store):
    journal = store.open("talk")
    for act in (lambda: journal.record(talk(1)), journal.close):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    assert store.archive("talk") == talk(1)
    store.open("talk").close()


def test_many_sessions_begin_and_record_at_once(store):
    def work(number):
        with store.open(title="same.pdf") as journal:
            for turn in range(1, 6):
                journal.record(talk(turn, f"text {number % 2}"))
            return journal.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(work, range(16)))
    assert len(set(names)) == 16
    assert {info.exchanges for info in store.list()} == {5}
    assert rows(store, "documents") == 2


def start(store, name, *where):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, session_processes.__file__, str(store.path), name, *where],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


@unix
def test_many_processes_begin_the_database_at_once(store):
    children = [start(store, f"talk-{number}") for number in range(6)]
    for child in children:
        with child:
            assert child.stdout.readline() == "began 0\n"
            assert child.stdout.readline() == "1\n"
            child.kill()
            child.stdout.read()
    assert {info.name for info in store.list()} == {f"talk-{number}" for number in range(6)}


@unix
def test_a_killed_process_loses_no_finished_record_and_holds_no_session(store):
    chance = random.Random(7)
    for _ in range(6):
        with start(store, "talk") as child:
            began = int(child.stdout.readline().split()[1])
            with pytest.raises(LrqkError, match="another process"):
                store.open("talk")
            time.sleep(chance.random() * 0.1)
            child.send_signal(signal.SIGKILL)
            lines = child.stdout.read().split()
        finished = int(lines[-1]) if lines else began
        with store.open("talk") as journal:
            archive = journal.archive()
            number = len(archive.entries) - 1 if archive is not None else 0
            assert finished <= number <= finished + 1
            assert archive is None or archive == talk(number)
    assert number
    assert session_database.is_sound(store.path)


@unix
@pytest.mark.parametrize(("where", "recorded"), [("before", 2), ("after", 3)])
def test_a_process_that_dies_at_a_commit_leaves_a_whole_record(store, where, recorded):
    with start(store, "talk", where) as child:
        assert child.stdout.read().split()[2:] == ["1", "2"]
    assert child.returncode == -signal.SIGKILL
    assert store.archive("talk") == talk(recorded)
    assert len(store.search(["question"])) == recorded


@unix
@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_only_the_owner_can_read_the_files(store, mask):
    before = os.umask(mask)
    try:
        with store.open("talk"), session_database.connected(store.path, writes=True) as connection:
            connection.execute("UPDATE sessions SET updated = 0")
            files = [file for file in store.path.parent.rglob("*") if file.is_file()]
            assert {file.name for file in files} >= {
                f"{store.path.name}{end}" for end in ("", "-wal", "-shm")
            }
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        folders = [store.path.parent, *(path for path in store.path.parent.rglob("*") if path.is_dir())]
        assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    finally:
        os.umask(before)
    store.path.parent.chmod(0o755)
    record(store, "talk", talk(1))
    store.path.chmod(0o644)
    store.list()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_a_newer_database_is_refused(store):
    record(store, "talk", talk(1))
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = store.path.read_bytes()
    for act in (store.list, store.open, store.recover):
        with pytest.raises(LrqkError, match="newer version of lrqk"):
            act()
    assert store.path.read_bytes() == before


def test_a_busy_database_is_told(store, monkeypatch):
    record(store, "talk", talk(1))
    monkeypatch.setattr(session_database, "_BUSY_S", 0.05)
    with store.open("talk") as journal, session_database.connected(store.path, writes=True):
        with pytest.raises(LrqkError, match="in use by another process"):
            journal.record(talk(2))
        assert store.list()[0].exchanges == 1
    record(store, "talk", talk(2))


@unix
def test_a_full_disk_is_told_and_loses_nothing(store):
    record(store, "talk", talk(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store.open("talk") as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(LrqkError, match="cannot be used"):
                journal.record(talk(2, "long text " * 50_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert journal.archive() == talk(1)
        journal.record(talk(2))
    assert store.archive("talk") == talk(2)


@pytest.fixture
def common_user():
    """Take the rights of the superuser away, for whom no folder is read-only."""
    with tempfile.TemporaryDirectory() as folder:
        path, user = Path(folder), os.geteuid()
        if user == 0:
            path.chmod(0o777)
            os.seteuid(65534)
        inner = path / "state"
        inner.mkdir()
        try:
            yield inner
        finally:
            inner.chmod(0o700)
            os.seteuid(user)


@unix
def test_a_folder_that_cannot_be_written_is_told(common_user):
    folder = common_user
    folder.chmod(0o500)
    for store in (
        SessionStore(folder / "sessions.sqlite3"),
        SessionStore(folder / "below" / "sessions.sqlite3"),
    ):
        assert store.list() == []
        with pytest.raises(LrqkError, match="permission denied"):
            store.open("talk")
    folder.chmod(0o700)
    store = SessionStore(folder / "sessions.sqlite3")
    with store.open("talk") as journal:
        journal.record(talk(1))
        folder.chmod(0o500)
        store.path.chmod(0o400)
        with pytest.raises(LrqkError, match="permission denied"):
            journal.record(talk(2))
        folder.chmod(0o000)
        for act in (store.list, lambda: store.search(["x"]), lambda: journal.record(talk(3))):
            with pytest.raises(LrqkError):
                act()
        folder.chmod(0o700)
        store.path.chmod(0o600)
        journal.record(talk(2))
    assert store.archive("talk") == talk(2)


def test_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LrqkError, match="cannot be"):
        SessionStore(tmp_path / "file" / "sessions.sqlite3").open("x")
    with pytest.raises(LrqkError, match="cannot be used"):
        SessionStore(tmp_path).list()


def test_a_session_that_is_gone_is_told(store):
    with store.open("talk") as journal:
        journal.record(talk(1))
        shutil.rmtree(store.path.parent)
        with pytest.raises(LrqkError, match="no longer in"):
            journal.record(talk(2))
    assert store.list() == []


def spoil(store, text: bytes, by: bytes) -> None:
    """Change bytes in the file of the database."""
    content = store.path.read_bytes()
    assert text in content
    store.path.write_bytes(content.replace(text, by))


def test_what_is_no_database_is_moved_aside(store):
    record(store, "talk", talk(1))
    store.path.write_bytes(b"This is no database. " * 500)
    for act in (store.list, lambda: store.open("talk"), lambda: store.search(["x"])):
        with pytest.raises(DamagedSessionsError, match="are damaged"):
            act()
    recovery = store.recover()
    assert (recovery.kept, recovery.lost) == ((), None)
    assert recovery.moved_to.name.startswith("sessions.sqlite3.damaged-")
    assert recovery.moved_to.read_bytes().startswith(b"This is no database.")
    assert str(recovery.moved_to) in recovery.message
    assert store.list() == []
    record(store, "talk", talk(2))
    again = store.recover()
    assert (again.moved_to, again.message) == (None, "The sessions are not damaged.")
    assert store.archive("talk") == talk(2)


def test_what_can_be_read_of_a_damaged_database_is_kept(store):
    record(store, "one", talk(2))
    record(store, "two", said("Plugh?", "Xyzzy is the answer."))
    before = store.find("one")
    spoil(store, b"Xyzzy is", b"Xyzzy ix")
    with pytest.raises(DamagedSessionsError), store.open("two") as journal:
        journal.archive()
    with store.open("one"), pytest.raises(LrqkError, match="open in another process"):
        store.recover()
    recovery = store.recover()
    assert (recovery.kept, recovery.lost) == (("one",), ("two",))
    assert "lost: two" in recovery.message
    assert store.list() == [before]
    assert store.archive("one") == talk(2)
    assert found(store, "question")


def test_damaged_definitions_of_tables_are_damage(store):
    record(store, "one", talk(2))
    content = store.path.read_bytes()
    assert content.count(b"tokenize = ") == 1
    store.path.write_bytes(content.replace(b"tokenize = ", b"tokenize \x05 "))
    with pytest.raises(DamagedSessionsError):
        store.search(["question"])
    assert store.recover().moved_to is not None
    record(store, "two", talk(1))
    assert store.list()[0].name == "two"


@pytest.mark.parametrize("column", ["created", "updated"])
@pytest.mark.parametrize("value", ["x", b"\xff", float("inf"), -1.0, 1e30], ids=str)
def test_a_time_that_is_none_is_damage_and_costs_no_session(store, column, value):
    record(store, "one", talk(2))
    change(store, f"UPDATE sessions SET {column} = ?", value)
    with pytest.raises(DamagedSessionsError):
        store.list()
    recovery = store.recover()
    assert (recovery.kept, recovery.lost) == (("one",), ())
    assert abs(store.find("one").updated - time.time()) < 60
    assert store.archive("one") == talk(2)


def test_a_name_that_is_no_text_is_damage(store):
    record(store, "one", talk(2))
    change(store, "UPDATE sessions SET name = ?", b"\xff")
    with pytest.raises(DamagedSessionsError):
        store.list()
    with pytest.raises(DamagedSessionsError):
        store.search(["question"])
    assert store.recover().moved_to is not None
    assert store.list() == []


def test_an_entry_of_no_session_that_damages_the_list_is_recovered_from(store):
    record(store, "one", talk(2))
    change(store, "UPDATE entries SET session = 99, entry = '{}' WHERE document IS NOT NULL")
    with pytest.raises(DamagedSessionsError):
        store.list()
    assert store.recover().moved_to is not None
    assert store.list() == []


def test_a_damaged_index_costs_no_session(store):
    record(store, "one", talk(2))
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE words_data SET block = x'00'")
    connection.commit()
    connection.close()
    recovery = store.recover()
    assert (recovery.kept, recovery.lost) == (("one",), ())
    assert "none is lost" in recovery.message
    assert len(found(store, "question")) == 2


@settings(max_examples=30, deadline=None)
@given(
    place=st.floats(0, 1, exclude_max=True),
    damage=st.binary(min_size=1, max_size=300),
    cuts=st.booleans(),
)
@example(place=0.22205387413147595, damage=b"\x05", cuts=False)  # an index without its table's row
def test_any_damage_is_told_and_can_be_recovered_from(place, damage, cuts):
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore(Path(folder) / "sessions.sqlite3")
        record(store, "one", talk(3, "text " * 2000))
        record(store, "two", said("Hello?", "Yes."))
        content = store.path.read_bytes()
        start = int(place * len(content))
        rest = b"" if cuts else content[start + len(damage) :]
        store.path.write_bytes(content[:start] + damage + rest)
        for act in (store.list, lambda: store.search(["question"]), lambda: record(store, "one", talk(4))):
            with suppress(LrqkError):
                act()
        with suppress(LrqkError):
            assert store.archive("one") in (talk(3, "text " * 2000), talk(4))
        try:
            recovery = store.recover()
        except LrqkError as error:
            # The version is a number in the file, too.
            assert not isinstance(error, DamagedSessionsError)  # noqa: PT017
            assert "newer version" in error.message  # noqa: PT017
            return
        for name in recovery.kept:
            assert store.archive(name)
        record(store, "three", exchange_only())
        assert session_database.is_sound(store.path)


def exchange_only():
    return replace(talk(0), entries=(exchange(1),))


@pytest.mark.parametrize("clock", [-1e6, 1e12])
def test_a_clock_that_is_far_out_damages_no_session(store, monkeypatch, clock):
    monkeypatch.setattr(time, "time", lambda: clock)
    record(store, "talk", talk(2))
    assert store.find("talk").exchanges == 2
    assert store.recover().moved_to is None
    assert store.archive("talk") == talk(2)


def test_a_lock_that_cannot_be_released_costs_no_turn(store, monkeypatch):
    def refuse(lock, force=False):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patched:
        patched.setattr(BaseFileLock, "release", refuse)
        record(store, "held", talk(2))
        assert store.archive("held") == talk(2)
    assert [info.name for info in store.list()] == ["held"]
