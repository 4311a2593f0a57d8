"""One long answer and many turns in one process: ``python tests/long_run.py [MODEL]``.

Checks that host memory grows by no more than the rows and rewind points that are accounted for, that the
counters add up, that positions are those of the conversation, and that the last answer is the one of an
engine that has read the same conversation and nothing else. Prints what it found as JSON, and fails if that
is not so.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tiny import save_tiny_chat_model

from lrqk_cli.chat.events import Answer
from lrqk_cli.chat.keeping import CacheChoice
from lrqk_cli.chat.opening import ModelRequest, OpenSession, open_session
from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig
from lrqk_cli.memory.plan import Plan
from lrqk_cli.telemetry.stats import DecodeTotals

_QUESTIONS = ("What is it?", "And why?", "Who says so?", "Quote the third sentence.", "x", "是什么?")
_LAST = "What comes at the end?"
_TURN_TOKENS = 16
# Of what is read at a turn, and its answer.
_TURN_ROOM = 96
# Resident memory that nobody accounts for: pools of the allocator, Python's own objects, tokens, statistics.
_SLACK = 32 << 20


class Quiet:
    """An opening whose work is not shown."""

    def note(self, _: str) -> None:
        """Show nothing."""

    def planned(self, _: Plan) -> None:
        """Show nothing."""

    @contextmanager
    def pulling(self, *_: str) -> Iterator[Callable[..., None]]:
        """Show nothing."""
        yield lambda *_: None


@dataclass
class Findings:
    """What a run has found.

    Attributes:
        rows, points: bytes of the rows and codes of the conversation's tokens, and of its rewind points.
        unaccounted: by which resident memory grew beyond these.
        problems: what should not be.
    """

    tokens: int = 0
    turns: int = 0
    seconds: float = 0.0
    resident: list[int] = field(default_factory=list)
    rows: int = 0
    points: int = 0
    unaccounted: int = 0
    miss_rate: float = 0.0
    answers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def resident_bytes() -> int:
    """Return the memory that the process holds once it has given back what it can."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return psutil.Process().memory_info().rss


class LongRun:
    """A conversation whose first answer is long.

    Args:
        open_model: begins a conversation.
        tokens: of the first answer; turns: how many follow.
    """

    def __init__(
        self, open_model: Callable[[int], AbstractContextManager[OpenSession]], tokens: int, turns: int
    ) -> None:
        self._open, self._tokens, self._turns = open_model, tokens, turns
        self.findings = Findings()

    def run(self) -> Findings:
        """Hold the conversation, and compare its end with that of a fresh engine."""
        began = time.monotonic()
        with self._open(self._tokens + _TURN_ROOM * (self._turns + 3)) as opened:
            session = self._begun(opened)
            self._ask(session, "Tell me everything.", 8)  # so that all is loaded
            before, rows = resident_bytes(), _row_bytes(session)
            answer = self._ask(session, "Tell me more.", self._tokens)
            self._weigh(session, before, rows)
            for number in range(self._turns):
                self._ask(session, _QUESTIONS[number % len(_QUESTIONS)], _TURN_TOKENS)
                if number % 20 == 19:
                    self._weigh(session, before, rows)
            self.findings.tokens, self.findings.turns = answer.new_tokens, self._turns
            self.findings.miss_rate = round(session.engine.totals.miss_rate, 4)
            conversation = session.conversation.copy()
            session.adopt(conversation.copy())
            last = self._ask(session, _LAST, _TURN_TOKENS).text
        with self._open(self._tokens + _TURN_ROOM * (self._turns + 3)) as opened:
            session = self._begun(opened)
            session.adopt(conversation.copy())
            self.findings.answers = [last, self._ask(session, _LAST, _TURN_TOKENS).text]
        self._require(len({*self.findings.answers}) == 1, "the last answer is not that of a fresh engine")
        self.findings.seconds = round(time.monotonic() - began)
        return self.findings

    @staticmethod
    def _begun(opened: OpenSession) -> Session:
        """Return the session, whose answers no token ends before their limit."""
        opened.session.stop_ids = ()
        return opened.session

    def _ask(self, session: Session, question: str, tokens: int) -> Answer:
        engine, before = session.engine, _copied(session.engine.totals)
        *_, answer = session.ask(question, generation=GenerationConfig(max_new_tokens=tokens))
        assert isinstance(answer, Answer)
        own, totals = answer.cache, engine.totals
        self._require(answer.new_tokens == tokens, f"{answer.new_tokens} tokens, and {tokens} were to come")
        # The first token belongs to the prefill.
        self._require(own.steps == tokens - 1, f"{own.steps} steps for {tokens} tokens")
        if totals.steps >= before.steps:  # else the engine was reset
            before.add(own)
            self._require(_counts(before) == _counts(totals), "the totals are not the sum of the answers")
        config, spec = engine.config, engine.spec
        heads = spec.num_full_layers * spec.num_kv_heads
        sets = heads if config.grouping == "kv" else spec.num_full_layers * spec.num_heads
        length = engine.cache.position.length
        most = sum(
            min(config.top_k, max(0, length - back - config.recent)) * sets for back in range(own.steps)
        )
        # One verify step is for several tokens.
        is_plain = own.drafts_offered == 0
        self._require(own.rows_wanted <= most, f"{own.rows_wanted} rows wanted, and {most} at most")
        self._require(not is_plain or own.rows_wanted == most, f"{own.rows_wanted} rows wanted of {most}")
        self._require(own.rows_fetched <= own.rows_wanted, "more rows fetched than wanted")
        self._require(own.row_sets == heads * own.steps, "the row sets are not those of the steps")
        self._require(own.drafts_accepted <= own.drafts_offered, "more drafts accepted than offered")
        self._require(list(engine.tokens) == session.transcript, "the engine has other tokens than the chat")
        self._require(0 <= engine.length - length <= 1, f"position {length} of {engine.length} tokens")
        self._require(int(engine.cache.position.tensor) == length, "the device has another position")
        return answer

    def _weigh(self, session: Session, before: int, rows: int) -> None:
        found, resident = self.findings, resident_bytes()
        points = [entry.rewind_point for entry in session.conversation.entries]
        found.resident.append(resident >> 20)
        found.rows = _row_bytes(session) - rows
        found.points = sum(point.nbytes for point in points if point is not None)
        found.unaccounted = resident - before - found.rows - found.points
        self._require(found.unaccounted <= _SLACK, f"{found.unaccounted >> 20} MiB are not accounted for")

    def _require(self, condition: bool, problem: str) -> None:
        if not condition and len(self.findings.problems) < 20:
            self.findings.problems.append(problem)


def _counts(totals: DecodeTotals) -> tuple[int, ...]:
    return totals.steps, totals.rows_wanted, totals.rows_fetched, totals.bytes_fetched, totals.row_sets


def _copied(totals: DecodeTotals) -> DecodeTotals:
    copied = DecodeTotals()
    copied.add(totals)
    return copied


def _row_bytes(session: Session) -> int:
    """Return the bytes of memory that the tokens so far have filled of what is reserved."""
    engine = session.engine
    memory, share = engine.memory(), engine.length / engine.context
    return int((memory.host_kv_bytes + memory.index_bytes) * share) + memory.hot_bytes


def main() -> int:
    """Run, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a folder, file or name; a tiny random model without it")
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--hot", type=int, default=2048)
    parser.add_argument("--lookup", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = chosen.model or str(_long_tiny_model(Path(folder)))
        wanted: dict[str, Any] = {"attention": "lrqk", "hot": chosen.hot, "top_k": chosen.hot // 4}
        wanted["lookup"] = chosen.lookup

        def open_model(context: int) -> AbstractContextManager[OpenSession]:
            request = ModelRequest(
                model, "cpu", None, False, context, wanted=wanted, cache=CacheChoice(is_on=False)
            )
            return open_session(request, [], None, GenerationConfig(), Quiet())

        found = LongRun(open_model, chosen.tokens, chosen.turns).run()
    sys.stdout.write(json.dumps(vars(found), indent=1, ensure_ascii=False) + "\n")
    return int(bool(found.problems))


def _long_tiny_model(folder: Path) -> Path:
    """Save a tiny chat model for long texts."""
    save_tiny_chat_model(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "max_position_embeddings": 1 << 17}), encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(main())
