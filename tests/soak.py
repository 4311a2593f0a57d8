"""A long chat on a pseudo-terminal, with everything that people do to one: ``python tests/soak.py MODEL``.

Random questions, documents added and dropped, answers interrupted, taken back and asked for again, sessions
left, killed and resumed. Now and then, and at the end, the program compares an answer with that of a fresh
process that has the same conversation. It prints what it has done, and the memory of each process, as JSON. A
conversation takes memory as it grows, and the engine keeps it for the next one. So a process is compared with
itself where it has neither turns nor documents, after its context was full once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pexpect
import psutil

from lrqk_cli.chat.archive import SavedExchange
from lrqk_cli.chat.journal import SessionStore

# The terminal is asked where the cursor is whenever a line is read.
_PROMPT, _CURSOR = "\x1b[6n", "\x1b[3;1R"
_FAILURES = re.compile(r"Traceback|Unexpected|Warning")
_QUESTIONS = ("What is it?", "And why?", "Who says so?", "Quote the third sentence.", "x", "是什么?")
_MISTAKES = ("/fil x", "/file nowhere.txt", "/drop 99", "/set top_k=0", "/load 'x", "/")
# What the line below the prompt says of the context, and the tokens above which it is emptied.
_USED, _MOST_USED = re.compile(r"([\d,]+)/4,000 tokens"), 3400
_MOST_WAITING_S = 60
_INTERRUPTED = 130


@dataclass
class Life:
    """A process: how much was done in it, and its own resident memory in MiB.

    Attributes:
        highest: after any action.
        was_full: whether its context has been full.
        emptied: after that, whenever it has just been emptied of turns and documents.
    """

    actions: int = 0
    highest: float = 0.0
    was_full: bool = False
    emptied: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float | None:
        """MiB by which the last third of the empty states is above the first, by medians; None for a few."""
        third = len(self.emptied) // 3
        return median(self.emptied[-third:]) - median(self.emptied[:third]) if third else None


@dataclass
class Outcome:
    """What a soak has found.

    Attributes:
        done: how often each action was done; ``lives``: the processes.
        slowest_s: the longest wait for a prompt.
        compared: answers to the same question, here and in a fresh process.
    """

    done: Counter[str] = field(default_factory=Counter)
    lives: list[Life] = field(default_factory=list)
    slowest_s: float = 0.0
    compared: list[tuple[str, str]] = field(default_factory=list)


class Soak:
    """A chat that goes on for some time.

    Args:
        model: a folder or name that ``--model`` takes.
        folder: for documents, sessions and stored texts.
        seed: of what is done.
    """

    def __init__(self, model: str, folder: Path, seed: int) -> None:
        self.outcome = Outcome()
        self._random = random.Random(seed)
        self._model = model
        self._sessions = folder / "state" / "lrqk" / "sessions.sqlite3"
        self._variables = {
            **os.environ,
            "TERM": "xterm",
            "XDG_STATE_HOME": str(folder / "state"),
            "LRQK_CACHE_DIR": str(folder / "cache"),
            # What is freed goes back to the system, so that what stays is held.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": "131072",
            "MALLOC_TRIM_THRESHOLD_": "131072",
        }
        self._documents = []
        for number in range(6):
            file = folder / f"note-{number}.txt"
            sentence = f"The keeper of house {number} counts {number * 7} lamps. "
            file.write_text(sentence * (12 * number + 12), encoding="utf-8")
            self._documents.append(file)
        self._child: pexpect.spawn
        self._used = 0
        self._begin("soak")

    def run(self, seconds: float) -> Outcome:
        """Do things for so long, then compare the last answer."""
        actions: dict[Callable[[], None], int] = {
            self._ask: 320,
            self._interrupt: 160,
            self._add: 64,
            self._drop: 24,
            self._take_back: 96,
            self._ask_again: 40,
            self._look: 48,
            self._mistype: 32,
            self._clear: 24,
            # These begin another process. Whether memory stays flat is seen in those that live long.
            self._leave: 1,
            self._die: 1,
            self._compare: 4,
        }
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            action = self._random.choices(list(actions), list(actions.values()))[0]
            # Before questions are refused.
            if self._used > _MOST_USED:
                self.outcome.lives[-1].was_full = True
                action = self._clear
            action()
            self.outcome.done[action.__name__.strip("_")] += 1
            self._weigh()
        self._compare()
        self._child.send("/quit\r")
        self._await_end("/quit")
        return self.outcome

    def _begin(self, session: str, *options: str) -> None:
        # In 16 bits the rows of a step and of a segment are rounded differently, which may change an answer.
        self._child = pexpect.spawn(
            sys.executable,
            ["-m", "lrqk_cli", "chat", "--model", self._model, "--session", session, "--ctx", "4000",
             "--dtype", "float32", "--max-new-tokens", "16", "--temperature", "0", *options],
            env=self._variables,
            dimensions=(40, 100),
            encoding="utf-8",
            timeout=_MOST_WAITING_S,
        )  # fmt: skip
        self.outcome.lives.append(Life())
        self._await_prompt(120)

    def _await_prompt(self, timeout: float = _MOST_WAITING_S) -> str:
        began = time.monotonic()
        self._child.expect_exact(_PROMPT, timeout=timeout)
        self.outcome.slowest_s = max(self.outcome.slowest_s, time.monotonic() - began)
        shown = str(self._child.before)
        self._child.send(_CURSOR)
        if _FAILURES.search(shown):
            raise AssertionError(f"A failure is on the screen:\n{shown}")
        if found := _USED.findall(shown):
            self._used = int(found[-1].replace(",", ""))
        return shown

    def _await_end(self, cause: str) -> None:
        try:
            self._child.expect(pexpect.EOF)
        except pexpect.TIMEOUT as error:
            state = Path(f"/proc/{self._child.pid}/status").read_text(encoding="utf-8")
            raise AssertionError(
                f"{cause} does not end the process:\n{state}\n{self._child.buffer}"
            ) from error
        self._child.close()

    def _say(self, line: str) -> str:
        self._child.send(line + "\r")
        shown = self._await_prompt()
        if "The text needs" in shown or ("context" in shown and "full" in shown):
            self.outcome.done["context full"] += 1
            self._clear()
        return shown

    def _ask(self) -> None:
        self._say(self._random.choice(_QUESTIONS))

    def _interrupt(self) -> None:
        self._child.send(self._random.choice(_QUESTIONS) + "\r")
        for _ in range(self._random.choice((1,) * 120 + (2, 5))):
            time.sleep(self._random.uniform(0, 0.15))
            self._child.sendintr()
        # Interrupts at the prompt clear the line, and draw another; two during an answer leave the chat.
        waiting = _MOST_WAITING_S
        while (found := self._child.expect_exact([_PROMPT, pexpect.EOF, pexpect.TIMEOUT], waiting)) == 0:
            self._child.send(_CURSOR)
            waiting = 0.2
        if found == 1:
            self._child.close()
            if self._child.exitstatus != _INTERRUPTED:
                raise AssertionError(f"Ctrl-C twice ended with {self._child.exitstatus}.")
            self.outcome.done["left by Ctrl-C"] += 1
            self._begin("soak")
        elif waiting == _MOST_WAITING_S:
            raise AssertionError("There is no prompt after Ctrl-C.")

    def _add(self) -> None:
        self._say(f"/file {self._random.choice(self._documents)}")

    def _drop(self) -> None:
        self._say("/drop")

    def _take_back(self) -> None:
        self._say("/undo")

    def _ask_again(self) -> None:
        self._say("/retry")

    def _look(self) -> None:
        self._say(self._random.choice(("/stats", "/files", "/sources", "/set", "/help", "/pages")))

    def _mistype(self) -> None:
        self._say(self._random.choice(_MISTAKES))

    def _clear(self) -> None:
        self._child.send("/clear all\r")
        self._await_prompt()
        self._used = 0
        if self.outcome.lives[-1].was_full:
            self.outcome.lives[-1].emptied.append(self._resident())

    def _leave(self) -> None:
        self._child.send("/quit\r")
        self._await_end("/quit")
        if self._child.exitstatus != 0:
            raise AssertionError(f"/quit ended with {self._child.exitstatus}.")
        self._begin("soak")

    def _die(self) -> None:
        chosen = self._random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGHUP))
        self._child.kill(chosen)
        self._await_end(chosen.name)
        self._begin("soak")

    def _weigh(self) -> None:
        life = self.outcome.lives[-1]
        life.actions += 1
        life.highest = max(life.highest, self._resident())

    def _resident(self) -> float:
        used = psutil.Process(self._child.pid).memory_info()
        return float(used.rss - used.shared) / 2**20

    def _compare(self) -> None:
        if self._used > _MOST_USED:
            self._clear()
        last = "What comes at the end?"
        self._say(last)
        expected = self._newest_reply()
        self._say("/undo")
        self._child.send("/quit\r")
        self._await_end("/quit")
        self._begin("soak", "--no-cache")
        self._say(last)
        self.outcome.compared.append((expected, self._newest_reply()))

    def _newest_reply(self) -> str:
        exchange = SessionStore(self._sessions).archive("soak").entries[-1]
        assert isinstance(exchange, SavedExchange)
        assert exchange.answer is not None
        return exchange.answer.text


def main() -> None:
    """Run a soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = Soak(chosen.model, Path(folder), chosen.seed).run(60 * chosen.minutes)
    lives = [
        {
            "actions": life.actions,
            "highest_mib": life.highest,
            "emptied_mib": life.emptied,
            "growth_mib": life.growth,
        }
        for life in outcome.lives
    ]
    found = {
        "done": outcome.done,
        "slowest_s": round(outcome.slowest_s, 2),
        "compared": len(outcome.compared),
        "different": [pair for pair in outcome.compared if len({*pair}) > 1],
        "lives": lives,
    }
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
