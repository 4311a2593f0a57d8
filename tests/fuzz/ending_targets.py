"""Signals at random moments of commands that answer and end, and streams that are closed.

As of ``interrupt_targets``, a case chooses what is done and when, and the machine the instruction.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
from contextlib import suppress
from pathlib import Path
from random import Random

from session_processes import talk
from tiny import save_tiny_chat_model

from fuzz.command_line import own_folders
from fuzz.programs import NEVER, PipedProgram, import_as
from lrqk_cli.chat.journal import SessionStore

_SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}
_PROMPTS = [f"Question {number}?" for number in range(6)]
_SERVING = re.compile(r"Serving .* at (http://[^/]+)/v1")
_READERS = (
    *(("cache",), ("cache", "list"), ("sessions",), ("sessions", "list", "--json")),
    *(("sessions", "show", "long"), ("sessions", "search", "answer"), ("sessions", "export", "long")),
    *(("models",), ("info",), ("info", "--json"), ("--help",)),
)


class CommandSignals:
    """Commands end by a signal with its exit code, or with what they would say without it.

    Nothing but lrqk's own sentences is on stderr, no process and no file is left, and what was answered is
    kept.
    """

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = str(folder / "tmp")
        (folder / "report.txt").write_text("The revenue of the year was 48.2 million. " * 12)
        (folder / "questions.txt").write_text("\n".join(_PROMPTS))
        self._folder = folder
        self._model = ["--model", save_tiny_chat_model(folder / "tiny")]
        self._base = ["report.txt", *self._model, "--segment", 32, "--max-new-tokens", 16]
        with SessionStore().open("long") as journal:
            journal.record(talk(40))
        os.environ["OMP_NUM_THREADS"] = "1"
        import_as("chat", *self._base, "--prompt", "x", "--json")
        import lrqk_cli.server.app  # noqa: F401

    def run(self, number: int, rng: Random) -> str:
        cases = {self._prompts: 5, self._file: 5, self._bench: 3, self._serve: 6, self._closed: 6}
        case = rng.choices([*cases], [*cases.values()])[0]
        said = case(rng)
        left = [path for pattern in ("*.part", "*.tmp", "tmp/*") for path in self._folder.rglob(pattern)]
        assert not left, left
        return f"{case.__name__.strip('_')} {said}"

    def _prompts(self, rng: Random) -> str:
        """Questions of the command line, in a session."""
        with suppress(Exception):
            SessionStore().remove("asked")
        options = [word for prompt in _PROMPTS for word in ("--prompt", prompt)]
        code = self._end(["chat", *self._base, *options, "--session", "asked"], rng, 2.0)
        answered = SessionStore().archive("asked").entries[1:] if code != 0 and self._is_there() else ()
        assert [entry.question for entry in answered] == _PROMPTS[: len(answered)], answered
        return f"ended {code}"

    def _is_there(self) -> bool:
        return "asked" in [info.name for info in SessionStore().list()]

    def _file(self, rng: Random) -> str:
        """Questions of a file: each answer is written once, and the next run goes on."""
        answers = self._folder / "answers.jsonl"
        command = ["chat", *self._base, "--prompts-file", "questions.txt", "--answers-file", answers]
        codes = []
        for _ in range(3):
            codes.append(self._end(command, rng, 2.0))
            lines = answers.read_text().splitlines() if answers.exists() else []
            questions = [json.loads(line)["prompt"] for line in lines]
            assert questions == _PROMPTS[: len(questions)], questions
            assert codes[-1] or len(questions) == len(_PROMPTS)
        answers.unlink(missing_ok=True)
        return f"ended {codes[-1]}"

    def _bench(self, rng: Random) -> str:
        command = ["bench", *self._model, "--ctx", 256, "--suite", "fidelity", "--text", "report.txt"]
        return f"ended {self._end(command, rng, 3.0)}"

    def _end(self, command: list[object], rng: Random, seconds: float) -> int:
        """Run a command, send it a signal within some seconds, and check how it ends."""
        kind = rng.choice((*_SIGNALS, "SIGINT"))
        program = PipedProgram(command)
        try:
            program.pump(rng.uniform(0, seconds))
            for _ in range(rng.choice((1, 1, 2))):
                program.kill(_SIGNALS[kind])
            code = program.end()
            assert not NEVER.search(program.err), f"{kind}: {program.err}"
            # In the first moments of a process Python has not handled it yet.
            allowed = {0, 128 + _SIGNALS[kind], -_SIGNALS[kind]}
            assert code in allowed, f"exit code {code} by {kind}: {program.err}"
            return code
        finally:
            program.close()

    def _serve(self, rng: Random) -> str:
        """A server ends while it answers; its clients see the end of their streams."""
        kind = rng.choice(("SIGINT", "SIGTERM"))
        program = PipedProgram(["serve", *self._model, "--segment", 32, "--port", 0])
        try:
            program.until(lambda: _SERVING.search(program.err) is not None)
            found = _SERVING.search(program.err)
            program.check(found is not None, f"It does not serve: {program.err}")
            assert found is not None
            clients = [threading.Thread(target=_ask, args=(found[1], rng.random())) for _ in range(3)]
            for client in clients:
                client.start()
            program.pump(rng.uniform(0, 0.5))
            program.kill(_SIGNALS[kind])
            code = program.end()
            for client in clients:
                client.join(20)
                assert not client.is_alive(), "A client waits for ever."
            assert not NEVER.search(program.err), f"{kind}: {program.err}"
            assert code == 128 + _SIGNALS[kind], f"exit code {code} by {kind}: {program.err}"
            return f"ended {code}"
        finally:
            program.close()

    def _closed(self, rng: Random) -> str:
        """Nobody reads what it writes, or a stream is closed from the beginning."""
        command = rng.choice((*_READERS * 2, ("chat", *self._base, "--prompt", "x")))
        number = rng.choice((0, 1, 1, 2))
        reading, writing = os.pipe()
        os.close(reading)

        def connect() -> None:
            if number and rng.random() < 0.7:
                os.dup2(writing, number)
            else:
                os.close(number)

        program = PipedProgram(command, connect)
        try:
            os.close(writing)
            code = program.end()
            assert not NEVER.search(program.err), f"{command}: {program.err}"
            assert code in ({0} if number == 0 else {0, 1}), f"exit code {code} of {command}: {program.err}"
            return f"{('stdin', 'stdout', 'stderr')[number]} ended {code}"
        finally:
            program.close()


def _ask(address: str, chance: float) -> None:
    """Ask for a long answer, as a stream or as a whole."""
    text = "The revenue of the year was 48.2 million. " * 20
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 500}
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        try:
            connection.request(
                "POST",
                "/v1/chat/completions",
                json.dumps({**body, "stream": chance < 0.7}),
                {"Content-Type": "application/json"},
            )
            connection.getresponse().read()
        except TimeoutError:
            raise AssertionError("A client waits for ever.") from None
        finally:
            connection.close()
