"""Memory that runs out at one allocation, at large ones, or at many for some time."""

from __future__ import annotations

import gc
import io
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from random import Random

from fake_chat import FakePlain
from scarce import Fails, Scarce
from talk import Script
from tiny import save_tiny_chat_model

from fuzz.command_line import own_folders
from lrqk_cli.chat import keeping, opening, starting
from lrqk_cli.chat.chat_session import open_chat_session
from lrqk_cli.chat.events import Answer
from lrqk_cli.chat.opening import ModelRequest, OpenSession, open_session
from lrqk_cli.cli.failures import report
from lrqk_cli.cli.options import Invocation
from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents import Document, read_documents
from lrqk_cli.engine import adjusting, prefix
from lrqk_cli.errors import LrqkError, OutOfMemoryError
from lrqk_cli.models import loading
from lrqk_cli.server.dialogue import Dialogue, Turn
from lrqk_cli.server.worker import EngineWorker, Finished, Job
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.console import CleanConsole
from lrqk_cli.terminal.repl import Repl
from lrqk_cli.terminal.view import View

_TEXT = "The revenue was 48.2 million. The plant employs 412 people. "
_FIRST, _SECOND, _CHANGE = "How much?", "Who?", "/set top-k 100"
_LINES = (_FIRST, _CHANGE, "/undo", "/save talk", _SECOND)
# What of them can be in the conversation at one time, if some are refused.
_ASKED = ((_FIRST,), (_SECOND,), (_FIRST, _SECOND))
_GENERATION = GenerationConfig(temperature=0.0, max_new_tokens=2)
_TOLD = ("in shorter segments", "with fewer hot rows", "Less memory is free", "is not stored")
_ENDED = "exit 5"
_SCENES = ("opening", "chat", "chat again", "server")


class Memory:
    """A conversation in which memory runs out, and later there is enough again.

    The first cases are of one allocation each, in order: all of loading a model; of a chat with a document,
    questions, commands and what is kept at its end; of the same chat with the document from the prefix cache;
    and of requests to a server. Later cases draw where memory runs out, and for how long.

    What was answered is what is answered with enough memory. What was not is refused for want of memory, does
    not stay in the conversation, and is answered when there is memory again. What the user is told of less
    memory is told once for a line, and no tensor of a failed call is alive at the end.
    """

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        keeping.WORTH_SECONDS, prefix.BLOCK_TOKENS = 0.0, 64
        # All rows stay resident with either, so that no rung of the ladder changes an answer.
        adjusting.LEAST_SEGMENT, starting.LEAST_HOT = 32, 320
        (folder / "report.txt").write_text(_TEXT)
        self._documents: Sequence[Document] = read_documents([folder / "report.txt"])
        self._folder = folder
        name = str(save_tiny_chat_model(folder / "tiny"))
        self._request = ModelRequest(name, "cpu", None, False, 1024, wanted={"segment": 64})
        found = opening.look_up(self._request, [_TEXT], None, _GENERATION, _view(io.StringIO()))
        opening.look_up = lambda *_: found
        self._load = loading.load
        self._loaded = self._load(found.source, found.placement.device, found.placement.dtype)
        self._held = self._most_held = 0
        self._begin(1)
        self._expected = {questions: self._asked(questions) for questions in _ASKED}
        self._begin(1)
        self._chat(Scarce())
        shutil.copytree(folder / "cache", folder / "kept")
        self._points = dict[tuple[int, str], int]()
        for scene in range(len(_SCENES)):
            for kind in ("torch", "python"):
                scarce = Scarce(of=kind)
                assert self._take(scarce, scene) == "answered"
                self._points[scene, kind] = scarce.calls
        # Where memory runs out for /undo, both questions are there at last.
        self._begin(1)
        self._chat(Scarce(), (_FIRST, _CHANGE, _SECOND))
        self._held = self._most_held

    def run(self, number: int, rng: Random) -> str:
        for (scene, kind), points in self._points.items():
            if number < points:
                return self._case(Scarce(_single(number + 1), kind), scene)
            number -= points
        scene = rng.randrange(len(_SCENES))
        points = self._points[scene, "torch"] + self._points[scene, "python"]
        return self._case(Scarce(_drawn(rng, points)), scene)

    def _case(self, scarce: Scarce, scene: int) -> str:
        before = set(threading.enumerate())
        answer = self._take(scarce, scene)
        # Rich tells the thread of a display to end, and does not wait for it.
        while started := [thread for thread in threading.enumerate() if thread not in before]:
            started.pop().join()
        gc.collect()  # of a loop and its commands, which have each other
        # Where the command ends, the rest of it does too.
        has_ended = answer == _ENDED and scene > 0
        assert has_ended or scarce.alive == 0, f"{scarce.alive:,} bytes of tensors are alive at the end"
        return f"{_SCENES[scene]}: {answer if scarce.failed else 'nothing failed'}"

    def _take(self, scarce: Scarce, scene: int) -> str:
        self._begin(scene)
        # What a line leaves in a cycle counts as held until the end.
        gc.disable()
        try:
            if scene == 0:
                return self._open(scarce)
            return self._serve(scarce) if scene == len(_SCENES) - 1 else self._chat(scarce)
        finally:
            gc.enable()

    def _begin(self, scene: int) -> None:
        for name in ("cache", "state"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        if _SCENES[scene] == "chat again":
            shutil.copytree(self._folder / "kept", self._folder / "cache")
        loading.load = self._load if scene == 0 else lambda *_, **__: self._loaded

    def _open(self, scarce: Scarce) -> str:
        answer = "answered"
        with scarce:
            try:
                with self._opened():
                    pass
            except Exception as error:
                answer = _refused(error, scarce)
        with self._opened():
            return answer

    def _chat(self, scarce: Scarce, lines: Sequence[str] = _LINES) -> str:
        answer = "answered"
        with scarce:
            try:
                with self._talking(scarce) as talk:
                    refused = sum([self._say(talk, line) for line in lines])
                    answer = "answered, some refused" if refused else answer
                    if scarce.failed:
                        scarce.lift()
                        self._goes_on(talk)
            except Exception as error:
                answer = _refused(error, scarce)
        if answer == _ENDED:
            with self._talking(scarce) as talk:
                self._goes_on(talk)
        return answer

    def _goes_on(self, talk: _Talk) -> None:
        talk.session.engine.adjust(talk.session.engine.config)
        assert not self._say(talk, "/clear")
        assert not self._say(talk, _FIRST)
        assert [exchange.question for exchange in talk.session.conversation.exchanges] == [_FIRST]

    def _say(self, talk: _Talk, line: str) -> bool:
        """Type a line, and check what came of it; return whether it was refused."""
        said, session = talk.say(line), talk.session
        assert not any(word in said for word in ("Unexpected", "Traceback")), said
        told = Counter({words: said.count(words) for words in _TOLD})
        assert max(told.values()) <= 1, said
        is_refused = "Error: " in said
        exchanges = session.conversation.exchanges
        if is_refused and not ("Nothing has been asked" in said and not exchanges):
            assert "memory" in said, said
            assert "Hint: " in said, said
        questions = tuple(exchange.question for exchange in exchanges)
        for count, exchange in enumerate(exchanges, 1):
            assert exchange.answer is not None
            self._check(questions[:count], exchange.answer.text)
        if not line.startswith("/"):
            assert is_refused or questions[-1:] == (line,), said
        held = talk.scarce.alive
        self._most_held = max(self._most_held, held)
        # The newest logits are in a buffer of the decoder, or beside it after tokens that were read again.
        logits = session.engine.logits
        most = self._held + (0 if logits is None else logits.nbytes)
        assert not self._held or held <= most, f"{held:,} bytes of tensors are alive after {line}"
        assert list(session.engine.tokens) == session.transcript[: session.engine.length]
        return is_refused

    def _serve(self, scarce: Scarce) -> str:
        answer, unexpected = "answered", list[str]()
        documents = tuple(self._documents)
        with scarce:
            try:
                with self._opened() as opened:
                    worker = EngineWorker(opened.session, 4, FakePlain(), unexpected.append)
                    with closing(worker):
                        turns = (Turn(documents, _FIRST, None),)
                        first = _answered(worker, turns)
                        second = None
                        if isinstance(first, str):
                            self._check((_FIRST,), first)
                            turns = (Turn(documents, _FIRST, first), Turn((), _SECOND, None))
                            second = _answered(worker, turns)
                        if isinstance(second, str):
                            self._check((_FIRST, _SECOND), second)
                        else:
                            answer = "refused by the server"
                        scarce.lift()
                        again = _answered(worker, (Turn(documents, _FIRST, None),))
                        assert isinstance(again, str)
                        self._check((_FIRST,), again)
            except Exception as error:
                answer = _refused(error, scarce)
        assert not unexpected, unexpected[0]
        return answer

    def _check(self, questions: tuple[str, ...], answer: str) -> None:
        """Compare the answer to the last question with that to the same questions with enough memory."""
        assert answer == self._expected[questions], (questions, answer, self._expected[questions])

    def _asked(self, questions: tuple[str, ...]) -> str:
        with self._opened() as opened:
            answers = [list(opened.session.ask(question))[-1] for question in questions]
        assert isinstance(answers[-1], Answer)
        return answers[-1].text

    @contextmanager
    def _opened(self, err: io.StringIO | None = None) -> Iterator[OpenSession]:
        view = _view(err or io.StringIO())
        with open_session(self._request, self._documents, None, _GENERATION, view) as opened:
            yield opened

    @contextmanager
    def _talking(self, scarce: Scarce) -> Iterator[_Talk]:
        err = io.StringIO()
        with self._opened(err) as opened:
            yield _Talk(opened, err, scarce)


class _Talk:
    """A chat whose lines are given, as ``lrqk chat`` holds it; it is recorded."""

    def __init__(self, opened: OpenSession, err: io.StringIO, scarce: Scarce) -> None:
        self.session, self.scarce, self._err = opened.session, scarce, err
        view = _view(err)
        kept = open_chat_session(None, False, "report", keeps=True, warn=view.warn, note=view.note)
        self._ctx = CommandContext(
            session=opened.session,
            model=opened.model,
            view=view,
            console=CleanConsole(file=io.StringIO(), width=200),
            read_documents=lambda *_: (),
            look_up=lambda *_: None,
            chat_session=kept,
            tokenizer_id=opened.tokenizer_id,
        )
        self._ctx.record = partial(kept.record, opened)
        self._has_read = False

    def say(self, line: str) -> str:
        """Type a line; return what was said on stderr."""
        start = len(self._err.getvalue())
        Repl(self._ctx, Script([line])).run(continues=self._has_read)  # type: ignore[arg-type]
        self._has_read = True
        return self._err.getvalue()[start:]


def _view(err: io.StringIO) -> View:
    return View(CleanConsole(file=err, width=500))


def _refused(error: Exception, scarce: Scarce) -> str:
    """Return how the command would have ended; it must be for want of memory."""
    scarce.lift()  # what the command held is free
    if report(error, Invocation()) != OutOfMemoryError.exit_code:
        raise error
    return _ENDED


def _answered(worker: EngineWorker, turns: tuple[Turn, ...]) -> str | None:
    """Return the answer of a server; None if it was refused for want of memory."""
    events = queue.Queue[object]()
    worker.submit(Job("user", Dialogue(None, turns), _GENERATION, events.put))
    while True:
        event = events.get(timeout=20)
        if isinstance(event, Finished):
            return event.text
        if isinstance(event, LrqkError):
            assert isinstance(event, OutOfMemoryError), event
            return None


def _single(call: int) -> Fails:
    return lambda number, _: number == call


def _drawn(rng: Random, points: int) -> Fails:
    """Return when allocations fail: large ones from some point on, or a share of all for some time."""
    start = rng.randrange(points)
    if rng.random() < 0.4:
        most = 2 ** rng.randint(6, 18)
        return lambda number, made: number > start and made is not None and made.nbytes > most
    stop, share, seed = (
        start + rng.choice((2, 10, 100, 1000)),
        rng.choice((0.01, 0.1, 0.5, 1.0)),
        rng.random(),
    )
    return lambda number, _: start < number <= stop and Random(f"{seed} {number}").random() < share
