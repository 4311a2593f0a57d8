from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from xml.etree import ElementTree

import pytest
from fake_chat import MARKS, FakeDocument, FakeEngine, FakePrompt, new_session

from lrqk_cli.chat.events import Answer
from lrqk_cli.documents import drawing
from lrqk_cli.errors import LrqkError, ModelError, UsageError
from lrqk_cli.telemetry.stats import StepStats
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands import COMMANDS, sources
from lrqk_cli.terminal.commands.registry import is_command
from lrqk_cli.terminal.console import CleanConsole
from lrqk_cli.terminal.graphics_query import Graphics
from lrqk_cli.terminal.view import View


@dataclass
class Bench:
    """A command context, and what commands say in it."""

    engine: FakeEngine = field(default_factory=FakeEngine)

    def __post_init__(self) -> None:
        self.said, self.out, self.read = io.StringIO(), io.StringIO(), []
        console = CleanConsole(file=self.out, force_terminal=True)
        self.ctx = CommandContext(
            session=new_session(self.engine, [FakeDocument("a.pdf", ["one", "two"], first_page=3)]),
            model="tiny",
            view=View(CleanConsole(file=self.said, width=80)),
            console=console,
            read_documents=self._read,
            look_up=self._look_up,
        )
        self.ctx.show = self._show

    def _read(self, paths, pages):
        self.read.append(([str(path) for path in paths], str(pages)))
        return [FakeDocument(path.name, ["more"]) for path in paths]

    def _look_up(self, model, saved, session):
        if model == "nope":
            raise ModelError("There is no model 'nope'.", "Choose another.")

    def _show(self, events) -> None:
        self.answers = [event for event in events if isinstance(event, Answer)]

    def ask(self, question: str) -> None:
        self._show(self.ctx.session.ask(question))

    def run(self, line: str) -> str:
        self.said.seek(0)
        self.said.truncate()
        COMMANDS.dispatch(line, self.ctx)
        return self.said.getvalue()

    def fails(self, line: str) -> LrqkError:
        with pytest.raises(LrqkError) as failure:
            COMMANDS.dispatch(line, self.ctx)
        return failure.value


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    "line",
    [
        "/help",
        "/quit ",
        "/HELP",
        "/nonsense",
        "/",
        "/set top-p 0.9",
        "/file a\nb",
        "/save! a",
        "help",
        " QUIT ",
    ],
)
def test_a_slash_and_a_word_is_a_command(line):
    assert is_command(line)


@pytest.mark.parametrize("line", ["", "help me", "/etc/hosts", "/etc/hosts says what?", "what is /help?"])
def test_other_lines_are_questions(line):
    assert not is_command(line)


def test_help_lists_every_command_within_80_columns(bench):
    lines = bench.run("/help").splitlines()
    assert all(any(line.startswith(command.name) for line in lines) for command in COMMANDS)
    assert max(map(len, lines)) <= 80
    assert len(lines) == len(list(COMMANDS)) + 7  # the keys, and a blank line


def test_all_commands_of_the_design_are_there():
    names = (
        "help file files drop pages sources open stats set system retry undo edit copy save save! load "
        "export export! clear model quit"
    )
    assert {command.name for command in COMMANDS} == {"/" + name for name in names.split()}


@pytest.mark.parametrize(("line", "expected"), [("/qiut", "/quit"), ("/halp", "/help"), ("/xyzzy", "/help")])
def test_an_unknown_command_suggests_the_nearest(bench, line, expected):
    failure = bench.fails(line)
    assert line in failure.message
    assert expected in failure.hint


def test_arguments_are_asked_for_and_refused(bench):
    assert "/save NAME" in bench.fails("/save").hint
    assert "takes nothing" in bench.fails("/undo it").message


def test_quit_and_model_end_this_chat(bench):
    bench.run("/Quit ")
    assert bench.ctx.chat_exit.model is None
    bench.ctx.chat_exit = None
    assert bench.run("/model") == "The model is tiny.\n"
    bench.ask("A?")
    bench.run("/model other")
    assert bench.ctx.chat_exit.model == "other"
    assert len(bench.ctx.chat_exit.archive.entries) == 2


def test_files_are_added_listed_and_dropped(bench):
    bench.ask("A?")
    assert bench.run("/file x.txt 'y z.txt'") == "Added x.txt, 6 tokens.\nAdded y z.txt, 6 tokens.\n"
    assert bench.read == [(["x.txt", "y z.txt"], "None")]
    assert bench.engine.text == "<[onetwo]A?>Yes.|[more][more]"
    listed = bench.run("/files")
    assert "a.pdf" in listed
    assert "y z.txt" in listed
    assert bench.run("/drop") == "Forgotten: y z.txt, 6 tokens\n"
    assert bench.engine.text == "<[onetwo]A?>Yes.|[more]"
    assert "quotation mark" in bench.fails("/file 'x").message


def test_pages_are_shown_and_chosen(bench):
    listed = bench.run("/pages")
    assert "3-4" in listed
    assert "OCR" not in listed
    bench.run("/pages 2-5")
    bench.run("/file b.pdf")
    assert bench.read[-1] == (["b.pdf"], "2-5")
    bench.run("/pages all")
    bench.run("/file c.pdf")
    assert bench.read[-1] == (["c.pdf"], "None")
    assert "`pages`" in bench.fails("/pages x").message
    bench.ctx.session.add(FakeDocument("scan.pdf", ["1", "2"], first_page=8, by_ocr=True))
    heading, first, *_, scan = bench.run("/pages").splitlines()
    assert heading.endswith("Pages by OCR")
    assert (first.count("3-4"), scan.count("8-9")) == (1, 2)


def test_undo_and_clear(bench):
    bench.ask("What is it?")
    assert bench.run("/undo") == "Forgotten: What is it?\n"
    assert "Nothing has been asked" in bench.fails("/undo").message
    bench.ask("A?")
    assert bench.run("/clear") == "Cleared. 1 document stays.\n"
    assert bench.engine.text == "<[onetwo]"
    assert bench.run("/clear all") == "Cleared.\n"
    assert "does not know" in bench.fails("/clear everything").message


def test_retry_draws_another_answer_with_sampling(bench, monkeypatch):
    bench.ask("A?")
    seen = []
    generate = bench.engine.generate
    monkeypatch.setattr(
        bench.engine,
        "generate",
        lambda generation, *rest: (seen.append(generation), generate(generation, *rest))[1],
    )
    assert "temperature 0" in bench.run("/retry")
    assert (seen[0].temperature, seen[0].seed) == (0.7, None)
    assert bench.ctx.session.generation.temperature == 0.0
    assert bench.engine.text == "<[onetwo]A?>Yes."
    bench.run("/set temperature 0.3")
    bench.run("/set seed 5")
    assert bench.run("/retry") == ""
    assert (seen[1].temperature, seen[1].seed) == (0.3, None)


def test_edit_offers_the_last_question_or_asks_at_once(bench):
    assert "Nothing" in bench.fails("/edit").message
    bench.ask("A?")
    bench.run("/edit")
    assert (bench.ctx.draft.text, bench.ctx.draft.replaces) == ("A?", True)
    bench.run("/edit B?")
    assert bench.engine.text == "<[onetwo]B?>Yes."


def test_the_system_text_is_shown_set_and_removed(bench):
    bench.ask("A?")
    assert "model's own" in bench.run("/system")
    assert "read again" in bench.run("/system Be short.")
    assert bench.run("/system") == "Be short.\n"
    bench.run("/system none")
    bench.ask("B?")
    assert bench.engine.text == "<[onetwo]A?>Yes.|B?>Yes."


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/set temperature 0.5", "temperature", 0.5),
        ("/set top_p 0.9", "top_p", 0.9),
        ("/set max-new-tokens 1,000", "max_new_tokens", 1000),
        ("/set max-new-tokens none", "max_new_tokens", None),
        ("/set seed 7", "seed", 7),
    ],
)
def test_sampling_is_set(bench, line, name, value):
    bench.run(line)
    assert getattr(bench.ctx.session.generation, name) == value


def test_reasoning_is_set_by_a_word_or_a_number(bench):
    bench.ctx.session = new_session(bench.engine, prompt=FakePrompt(marks=MARKS))
    assert bench.run("/set think") == "think off\n"
    assert bench.run("/set think on") == "think on\n"
    assert bench.ctx.session.conversation.prompt.thinks
    assert bench.run("/set think 500") == "think 500\n"
    assert bench.ctx.session.generation.think == 500
    bench.run("/set think off")
    assert not bench.ctx.session.conversation.prompt.thinks


def test_hot_set_settings_reach_the_engine(bench):
    bench.run("/set top-k 100")
    bench.run("/set tail none")
    assert (bench.engine.config.top_k, bench.engine.config.tail) == (100, "none")
    assert bench.ctx.config == bench.engine.config
    assert "top-k" in bench.run("/set")
    assert bench.run("/set top-k") == "top-k 100\n"


def test_settings_that_cannot_change_are_shown_all_the_same(bench):
    assert bench.run("/set rank") == "rank 64\n"
    assert bench.run("/set attention") == "attention auto, which chose lrqk\n"
    assert "auto, which chose lrqk" in bench.run("/set")
    bench.ctx.attention = "lrqk"
    assert bench.run("/set attention") == "attention lrqk\n"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("/set temperature hot", "no value"),
        ("/set temperature -1", "negative"),
        ("/set top-k 99999", "`hot`"),
        ("/set tail both", "no tail"),
        ("/set rank 32", "cannot change"),
        ("/set temperatur 1", "no setting"),
        ("/set think maybe", "no value"),
        ("/set think on", "does not reason"),
    ],
)
def test_a_bad_setting_is_refused_and_changes_nothing(bench, line, word):
    before = bench.ctx.session.generation, bench.ctx.config
    assert word in bench.fails(line).message
    assert (bench.ctx.session.generation, bench.ctx.config) == before


def test_a_refused_setting_says_what_to_do(bench):
    assert "Did you mean temperature" in bench.fails("/set temperatur 1").hint
    assert "--rank" in bench.fails("/set rank 32").hint


def test_save_and_load_under_a_name_and_a_path(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    bench.ask("A?")
    bench.run("/set seed 4")
    assert "Recorded as talk" in bench.run("/save talk")
    bench.ctx.chat_session.close()
    bench.run(f"/save {tmp_path / 'b.json'}")
    other = Bench()
    other.ctx.model = "another"
    said = other.run("/load talk")
    assert "Documents: 1, questions: 1" in said
    assert "now it goes on with another" in said
    assert other.ctx.session.generation.seed == 4
    other.ask("B?")
    assert other.engine.text == "<[onetwo]A?>Yes.|B?>Yes."
    assert "cannot be read" in other.fails(f"/load {tmp_path / 'none.json'}").message


def test_export_writes_a_transcript(bench, tmp_path):
    bench.ask("A?")
    bench.run(f"/export {tmp_path / 'a.md'}")
    assert "## Question" in (tmp_path / "a.md").read_text()
    bench.run(f"/export {tmp_path / 'a.json'}")
    assert json.loads((tmp_path / "a.json").read_text())["messages"][1]["content"] == "A?"
    bench.run(f"/export {tmp_path / 'a.html'}")
    assert "<h2>A?</h2>" in (tmp_path / "a.html").read_text()
    assert ".md, .html, .json or .svg" in bench.fails("/export a.txt").message


def test_export_draws_the_conversation(bench, tmp_path):
    bench.engine.answer, bench.engine.looks_at = "It is **2**\x1b[2J.$", "two"
    bench.run("/sources on")
    bench.ask("<b>How</b> many?")
    bench.run(f"/export {tmp_path / 'a.svg'}")
    drawn = ElementTree.parse(tmp_path / "a.svg")
    text = "".join(drawn.getroot().itertext()).replace("\xa0", " ")
    for part in (
        "a.pdf, 2 pages, 8 tokens",
        "> <b>How</b> many?",
        r"It is 2\x1b[2J.",
        "a.pdf, page 4",
        "tiny",
    ):
        assert part in text
    assert not re.search(r"url\((?!#)", (tmp_path / "a.svg").read_text())


def test_open_shows_a_page_in_the_browser_and_never_the_document_itself(bench, monkeypatch):
    opened = []
    monkeypatch.setattr(sources.webbrowser, "open", lambda address: opened.append(address) or True)
    assert "has no sources" in bench.fails("/open").message
    bench.engine.looks_at = "412"
    bench.ctx.session.add(FakeDocument("b.sh", ["Brannock employs 412 people."]))
    bench.run("/sources on")
    bench.ask("A?")
    assert "no source 2" in bench.fails("/open 2").message
    assert "no source 0" in bench.fails("/open 0").message
    said = bench.run("/open")
    path = Path(url2pathname(urlsplit(opened[0]).path))
    assert path.name in said.replace("\n", "")
    assert "<mark>Brannock employs 412 people.</mark>" in path.read_text(encoding="utf-8")
    monkeypatch.setattr(sources.webbrowser, "open", lambda _: False)
    assert "no browser" in bench.fails("/open 1").message


def test_copy_sends_the_answer_to_the_terminals_clipboard(bench, monkeypatch):
    assert "no answer" in bench.fails("/copy").message
    bench.ask("A?")
    assert "OSC 52" in bench.run("/copy")
    assert bench.out.getvalue() == f"\x1b]52;c;{base64.b64encode(b'Yes.').decode()}\x07"
    monkeypatch.setenv("TERM", "dumb")
    assert "/export" in bench.fails("/copy").hint


def test_stats_show_memory_speed_and_misses_with_a_chart(bench):
    assert "No token has been decoded" in bench.run("/stats")
    bench.ask("A?")
    shown = bench.run("/stats")
    for part in ("tiny", "of 1,000 tokens", "4 steps at 10.0 tokens/s", "90.0%", "up to 40.0% in layer 2"):
        assert part in shown
    assert "drafts" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    bench.ctx.session.history.totals.add(StepStats(steps=0, drafts_offered=12, drafts_accepted=9))
    assert "9 of 12 drafts (75%)" in bench.run("/stats")


def test_sources_are_shown_once_they_are_noted(bench):
    assert "not noted" in bench.fails("/sources").message
    assert "'maybe'" in bench.fails("/sources maybe").message
    bench.ask("one?")
    assert "from the next answer on" in bench.run("/sources on")
    assert bench.engine.tracks
    assert "no answer" in bench.fails("/sources").message
    bench.engine.looks_at = "two"
    bench.ask("two?")
    shown = bench.run("/sources")
    assert "a.pdf, page 4" in shown
    assert "two" in shown
    assert "no longer" in bench.run("/sources off")
    assert not bench.engine.tracks


def test_a_source_that_cannot_be_drawn_is_shown_as_text(bench, monkeypatch):
    assert "has no sources" in bench.fails("/sources --show").message
    bench.engine.looks_at = "412"
    pages = ["It rained. Brannock employs 412 people. It snowed."]
    bench.ctx.session.add(FakeDocument("b.txt", pages, first_page=None))
    bench.run("/sources on")
    bench.ask("A?")
    assert "no source 2" in bench.fails("/sources --show 2").message
    assert bench.run("/sources --show") == f"b.txt\n{pages[0]}\n"
    bench.ctx.session.add(FakeDocument("c.pdf", ["It rained. Hale employs 97 people."]))
    bench.engine.looks_at = "97"
    bench.ask("And Hale?")
    graphics = Graphics("kitty", 10, 20, 64, None, None)
    # The file is not there.
    monkeypatch.setattr(sources, "query_graphics", lambda _: graphics)
    assert bench.run("/sources --show") == "c.pdf, page 1\nIt rained. Hale employs 97 people.\n"
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    assert "pip install 'lrqk[pages]'\nc.pdf, page 1\nIt rained." in bench.run("/sources --show")


def test_paths_with_a_home_are_expanded(bench):
    bench.run("/file ~/x.txt")
    assert bench.read[-1][0] == [str(Path.home() / "x.txt")]


def test_nothing_is_lost_when_a_command_fails(bench):
    bench.ask("A?")
    before = bench.engine.text
    with pytest.raises(UsageError):
        COMMANDS.dispatch("/load nowhere", bench.ctx)
    assert bench.engine.text == before


def test_the_hint_for_a_missing_word_ends_in_one_full_stop(bench):
    assert bench.fails("/file").hint == "Type /file PATH."
