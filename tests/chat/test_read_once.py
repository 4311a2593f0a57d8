"""Conversations with the prefix cache: a real engine with a tiny random model, a token per character."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_model
from transformers import PreTrainedModel

from lrqk_cli.chat.events import Notice, Remark, Reused
from lrqk_cli.chat.session import Session
from lrqk_cli.config import AlsConfig, GenerationConfig, LrqkConfig
from lrqk_cli.engine import prefix
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefix import PrefixKeeper
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.prefix_cache import writer
from lrqk_cli.prefix_cache.store import PrefixStore
from lrqk_cli.prefix_cache.tensor_file import TensorFile

SMALL: dict[str, Any] = {"hot": 24, "top_k": 8, "recent": 8, "rank": 8, "segment": 16}
ALS: dict[str, Any] = {"solver": "als", "hot_policy": "exact", "grouping": "head", "als": AlsConfig("topcol")}
GENERATION = GenerationConfig(max_new_tokens=8, temperature=0.0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "BLOCK_TOKENS", 32)


@cache
def model() -> PreTrainedModel:
    return tiny_model("llama")


def encode(text: str) -> list[int]:
    return [3 + ord(letter) * 7 % 90 for letter in text]


@dataclass(frozen=True)
class Format:
    system: str | None = None
    reasoning: None = None
    thinks: bool = False
    counts_exactly: bool = True

    def opening(self) -> list[int]:
        return [1, *encode(self.system or "")]

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:
        return encode(text)

    def goes_on(self, tokens: Sequence[int]) -> bool:
        return False

    def closing(self) -> list[int]:
        return [92]

    def between(self) -> list[int]:
        return [93]


class Stream:
    def push(self, token: int) -> str:
        return chr(200 + token)

    def flush(self) -> str:
        return ""


@dataclass
class Page:
    text: str
    page: int | None = 1
    by_ocr: bool = False


@dataclass
class Text:
    title: str
    pages: list[Page] = field(default_factory=list)
    path: str = "/texts"

    def sections(self) -> list[Page]:
        return self.pages


def text(length: int, seed: int) -> Text:
    draw = random.Random(seed)
    letters = "".join(chr(draw.randrange(32, 122)) for _ in range(length))
    return Text(f"text {seed}", [Page(letters)])


class Chat:
    """A conversation in one process, until ``leave``."""

    def __init__(self, folder: Path, *texts: Text, context: int = 700, **changes: Any) -> None:
        config = LrqkConfig(**{**SMALL, **changes})
        self.engine = Engine(model(), spec_from_config(model().config, "tiny"), config, context)
        self.store = PrefixStore(folder, 1 << 30)
        self.keeper = PrefixKeeper(self.engine, self.store, lambda: {"weights": "tiny"}, worth_seconds=0.0)
        self.session = Session(
            self.engine,
            Format(),  # type: ignore[arg-type]
            texts,
            GENERATION,
            stop_ids=(),
            trained_context=10_000,
            max_context=10_000,
            new_stream=lambda _: Stream(),  # type: ignore[arg-type]
            keeper=self.keeper,
        )

    def ask(self, question: str = "Why?") -> list[int]:
        """Return the tokens of the answer."""
        self.events = list(self.session.ask(question))
        return self.session.transcript[-GENERATION.max_new_tokens :]  # type: ignore[operator]

    def read(self) -> None:
        self.events = list(self.session.read())

    @property
    def restored(self) -> int:
        return sum(event.tokens for event in self.events if isinstance(event, Reused))

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice | Remark)]

    def leave(self) -> None:
        self.keeper.writer.close()
        self.engine.close()


def once(folder: Path, *texts: Text, question: str = "Why?", **changes: Any) -> tuple[list[int], int]:
    """Hold a conversation of one question; return the answer and how many tokens were restored."""
    chat = Chat(folder, *texts, **changes)
    answer = chat.ask(question)
    chat.leave()
    return answer, chat.restored


@pytest.mark.parametrize("changes", [{}, ALS, {"attention": "dense"}], ids=["lrqk", "als", "dense"])
def test_reading_ahead_of_a_question_restores_the_whole_text(tmp_path: Path, changes: dict[str, Any]) -> None:
    expected, _ = once(tmp_path, text(200, 1), **changes)
    chat = Chat(tmp_path, text(200, 1), **changes)
    chat.read()
    assert chat.restored == 201
    assert chat.ask() == expected
    chat.leave()


@pytest.mark.parametrize("context", [240, 300, 690])
def test_another_context_restores_the_same_answer(tmp_path: Path, context: int) -> None:
    """A hot set that holds all rows has as many slots as the context allows."""
    expected, _ = once(tmp_path, text(200, 1), hot=600, top_k=100)
    assert once(tmp_path, text(200, 1), context=context, hot=600, top_k=100) == (expected, 201)


def test_another_size_of_the_hot_set_of_an_exact_policy_builds_it_anew(tmp_path: Path) -> None:
    once(tmp_path, text(200, 1), **ALS)
    other = Path(tmp_path / "fresh")
    assert once(tmp_path, text(200, 1), **{**ALS, "top_k": 6})[1] == 201
    assert once(tmp_path, text(200, 1), **{**ALS, "rank": 4})[1] == 201
    assert once(other, text(200, 1), **{**ALS, "rank": 4})[1] == 0


@pytest.mark.parametrize("changes", [{}, {"grouping": "head", "index_bits": 8, "tail": "none"}])
def test_without_a_state_the_index_is_fitted_where_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Fitted together with the question it would choose other rows; here it may differ by rounding only."""
    for seed in range(6):
        folder = tmp_path / str(seed)
        expected, _ = once(folder, text(400, seed), **changes)
        for state in folder.glob("*.state"):
            state.unlink()
        assert once(folder, text(400, seed), **changes) == (expected, 401)


def test_a_quick_text_before_a_slow_one_is_stored_with_it(tmp_path: Path) -> None:
    chat = Chat(tmp_path, text(70, 3))
    chat.keeper._worth_seconds = 1e9
    chat.read()
    chat.keeper._worth_seconds = 0.0
    chat.session.add(text(300, 4))
    chat.read()
    expected = chat.ask()
    chat.leave()
    assert once(tmp_path, text(70, 3), text(300, 4)) == (expected, 371)


def test_a_text_stays_stored_when_one_after_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch)
    chat = Chat(tmp_path, text(150, 1))
    chat.read()
    chat.session.add(text(100, 2))
    chat.read()
    chat.session.drop()
    chat.session.add(text(120, 3))
    chat.read()
    expected = chat.ask()
    chat.leave()
    assert once(tmp_path, text(150, 1), text(120, 3)) == (expected, 271)


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the background thread take its time."""
    from time import sleep

    write = writer.write_tensors

    def wait(*arguments: Any) -> int:
        sleep(0.05)
        return write(*arguments)

    monkeypatch.setattr(writer, "write_tensors", wait)


def fail(error: Exception) -> Callable[..., Any]:
    def do(*_: Any, **__: Any) -> Any:
        raise error

    return do


def test_a_damaged_file_that_cannot_be_deleted_is_met_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = once(tmp_path, text(200, 1))
    damaged = sorted(tmp_path.glob("*.block"))[0]
    data = bytearray(damaged.read_bytes())
    data[30] ^= 4
    damaged.write_bytes(data)
    monkeypatch.setattr(Path, "unlink", fail(PermissionError(13, "not permitted")))
    chat = Chat(tmp_path, text(200, 1))
    assert chat.ask() == expected
    assert len([message for message in chat.messages if "damaged" in message]) == 1
    chat.leave()


FAILURES = {
    "open": (prefix, "TensorFile", PermissionError(13, "not permitted")),
    "list": (prefix.PrefixStore, "files", PermissionError(13, "not permitted")),
    "look": (prefix.PrefixStore, "has", PermissionError(13, "not permitted")),
    "find": (prefix.PrefixStore, "longest", OSError(40, "too many links")),
    "touch": (prefix.PrefixStore, "touch", OSError(5, "input/output error")),
    "fit": (prefix, "capture_state", RuntimeError("a fault of ours")),
    "write": (writer, "write_tensors", RuntimeError("a fault of ours")),
    "full": (writer, "write_tensors", OSError(28, "no space left on device")),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("is_stored", [False, True])
def test_no_failure_of_the_cache_ends_a_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_stored: bool
) -> None:
    expected, _ = once(tmp_path / ("cache" if is_stored else "other"), text(200, 1))
    where, attribute, error = FAILURES[name]
    monkeypatch.setattr(where, attribute, fail(error))
    chat = Chat(tmp_path / "cache", text(200, 1))
    assert chat.ask() == expected
    chat.ask("And then?")
    chat.leave()


@pytest.mark.parametrize("number", [0, 7, 20])
def test_rows_that_cannot_be_read_are_read_again_from_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    expected, _ = once(tmp_path, text(200, 1))
    read, calls = TensorFile.read_into, []

    def read_into(file: TensorFile, name: str, target: Any) -> None:
        calls.append(name)
        if len(calls) == number:
            file._file.close()
        read(file, name, target)

    monkeypatch.setattr(TensorFile, "read_into", read_into)
    chat = Chat(tmp_path, text(200, 1))
    assert chat.ask() == expected
    chat.leave()


def test_a_model_whose_files_are_gone_is_not_stored(tmp_path: Path) -> None:
    chat = Chat(tmp_path, text(200, 1))
    chat.keeper._model = fail(FileNotFoundError(2, "no such file"))
    chat.ask()
    assert any("not stored" in message and "no such file" in message for message in chat.messages)
    chat.leave()
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_a_conversation_that_is_read_ahead_of_its_next_question_is_restored_whole(tmp_path: Path) -> None:
    chat = Chat(tmp_path, text(200, 1))
    chat.ask("Why?")
    saved = chat.session.conversation.copy()
    # As after an answer that ended with a stop token, the model has read all of it.
    chat.engine.next_logits()
    read = chat.engine.cache.position.length
    assert read == len(saved.tokens)
    chat.session.keep_turns("talk")
    expected = chat.ask("And then?")
    chat.leave()
    other = Chat(tmp_path)
    other.session.adopt(saved)
    other.read()
    assert other.restored == read
    assert other.ask("And then?") == expected
    other.leave()
