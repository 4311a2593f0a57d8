"""The prefix cache: a text that was read before is restored, and nothing else is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.config import AlsConfig, GenerationConfig, LrqkConfig
from lrqk_cli.engine import prefix
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefix import PrefixKeeper
from lrqk_cli.errors import ModelError
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.prefix_cache import writer
from lrqk_cli.prefix_cache.store import PrefixStore
from lrqk_cli.prefix_cache.tensor_file import DamagedFileError, read_metadata

CONTEXT = 600
BLOCK = 32
SMALL: dict[str, Any] = {"hot": 24, "top_k": 8, "recent": 8, "rank": 8, "segment": 16}
METHODS: dict[str, dict[str, Any]] = {
    "lrqk": {},
    "mean-16-bits": {"tail": "mean", "index_bits": 16},
    "head-8-bits": {"grouping": "head", "index_bits": 8, "tail": "none"},
    "als-exact": {"solver": "als", "hot_policy": "exact", "grouping": "head", "als": AlsConfig("topcol")},
    "dense": {"attention": "dense"},
    "offload": {"attention": "offload"},
    "int8-rows": {"kv_dtype": "int8"},
    "fp8-rows-als": {"kv_dtype": "fp8", "solver": "als", "hot_policy": "exact", "als": AlsConfig("topcol")},
    "int8-rows-offload": {"kv_dtype": "int8", "attention": "offload"},
}
CASES = [
    *(("llama", method) for method in METHODS),
    ("gemma3", "lrqk"),
    ("gemma3", "dense"),
    ("qwen3.5", "lrqk"),
    ("falcon-h1", "lrqk"),
    ("lfm2", "dense"),
    ("gemma4-shared", "lrqk"),
    ("gemma4-shared", "int8-rows"),
    ("gemma4-shared", "dense"),
    ("gemma3", "int8-rows"),
]
MODEL = {"weights": "tiny"}
QUESTION = random_tokens(9, 77).tolist()


@cache
def model_of(family: str) -> PreTrainedModel:
    return tiny_model(family)


def new_engine(family: str = "llama", method: str = "lrqk", **changes: Any) -> Engine:
    model = model_of(family)
    config = LrqkConfig(**{**SMALL, **METHODS[method], **changes})
    return Engine(model, spec_from_config(model.config, "tiny"), config, CONTEXT)


def new_keeper(engine: Engine, folder: Path, **changes: Any) -> PrefixKeeper:
    return PrefixKeeper(engine, PrefixStore(folder, 1 << 30), lambda: {**MODEL, **changes}, worth_seconds=0.0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "BLOCK_TOKENS", BLOCK)


def read(engine: Engine, keeper: PrefixKeeper, text: Sequence[int]) -> int:
    """Read a text as a conversation does; return how much of it was restored."""
    restored = keeper.restore(text, len(text))
    for _ in engine.prefill(text[restored:]):
        keeper.segment_done(is_end=engine.length == len(text), expected_tokens=1, expected_seconds=1.0)
    keeper.writer.close()
    return restored


def answer(engine: Engine) -> tuple[list[int], torch.Tensor]:
    """Ask, and return the answer's tokens and the logits after them."""
    list(engine.prefill(QUESTION))
    steps = engine.generate(GenerationConfig(max_new_tokens=24, temperature=0.0), stop_ids=())
    return [step.token for step in steps], engine.next_logits().clone()


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_restored_text_gives_the_same_answer(tmp_path: Path, family: str, method: str) -> None:
    text = random_tokens(200, 1).tolist()
    with new_engine(family, method) as engine:
        assert read(engine, new_keeper(engine, tmp_path), text) == 0
        expected, logits = answer(engine)
    with new_engine(family, method) as engine:
        keeper = new_keeper(engine, tmp_path)
        assert read(engine, keeper, text) == len(text)
        found, found_logits = answer(engine)
    assert found == expected
    assert torch.equal(found_logits, logits)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(("llama", method) for method in ("lrqk", "mean-16-bits", "head-8-bits", "int8-rows")),
        *((family, "lrqk") for family in ("gemma3", "qwen3.5", "gemma4-shared")),
    ],
)
def test_an_answer_after_a_restored_text_outgrows_the_hot_set(
    tmp_path: Path, family: str, method: str
) -> None:
    """Text and question fit, so there is no state, and nothing is fitted before the middle of the answer."""
    text = random_tokens(200, 1).tolist()
    observed = len(text) + len(QUESTION)
    found = list[tuple[list[int], torch.Tensor]]()
    for restored in (0, len(text)):
        with new_engine(family, method, hot=observed + 12 - SMALL["recent"]) as engine:
            layers = engine.cache.lrqk_layers
            assert read(engine, new_keeper(engine, tmp_path), text) == restored
            list(engine.prefill(QUESTION))
            engine.next_logits()
            assert layers
            assert not any(layer.fit.tokens for layer in layers)
            steps = engine.generate(GenerationConfig(max_new_tokens=24, temperature=0.0), stop_ids=())
            tokens = [step.token for step in steps]
            assert all(layer.fit.tokens == observed for layer in layers)
            found.append((tokens, engine.next_logits().clone()))
        assert not list(tmp_path.glob("*.state"))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize(("family", "method"), CASES)
def test_without_a_state_the_index_is_built_anew(tmp_path: Path, family: str, method: str) -> None:
    """Everything resident, so that the choice of rows does not matter."""
    text = random_tokens(200, 1).tolist()
    wide = {} if "attention" in METHODS[method] else {"hot": 320, "top_k": 320}
    with new_engine(family, method, **wide) as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        expected, logits = answer(engine)
    for state in tmp_path.glob("*.state"):
        state.unlink()
    with new_engine(family, method, **wide) as engine:
        assert read(engine, new_keeper(engine, tmp_path), text) == len(text)
        found, found_logits = answer(engine)
    assert found == expected
    torch.testing.assert_close(found_logits, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"hot": 48}, {"rank": 4}, {"index_bits": 8}, {"recent": 16}, {"top_k": 6}, {"tail": "mean"}]
)
def test_other_settings_reuse_the_rows(tmp_path: Path, changes: dict[str, Any]) -> None:
    text = random_tokens(200, 1).tolist()
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        rows = [layer.store.rows[:, :200].clone() for layer in engine.cache.attention_layers]
    with new_engine(**changes) as engine:
        assert read(engine, new_keeper(engine, tmp_path), text) == len(text)
        found, _ = answer(engine)
        assert len(found) == 24
        kept = [layer.store.rows[:, :200] for layer in engine.cache.attention_layers]
        assert all(torch.equal(now, before) for now, before in zip(kept, rows, strict=True))


@pytest.mark.parametrize(("first", "second"), [("bf16", "int8"), ("int8", "bf16"), ("int8", "fp8")])
def test_rows_of_another_type_are_not_reused(tmp_path: Path, first: str, second: str) -> None:
    text = random_tokens(200, 1).tolist()
    for kv_dtype in (first, second, first, second):
        with new_engine(kv_dtype=kv_dtype) as engine:
            restored = read(engine, new_keeper(engine, tmp_path), text)
            tokens, _ = answer(engine)
        with new_engine(kv_dtype=kv_dtype) as engine:
            list(engine.prefill(text))
            engine.cache.finish_prefill()
            assert answer(engine)[0] == tokens
    assert restored == len(text)


def test_rows_whose_scales_do_not_fit_together_are_read_anew(tmp_path: Path) -> None:
    """Two processes read one text with other segments at the same time, and each writes some blocks of it."""
    text = random_tokens(200, 1).tolist()
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, segment in zip(folders, (16, 32), strict=True):
        with new_engine(kv_dtype="int8", segment=segment) as engine:
            read(engine, new_keeper(engine, folder), text)
    chain = PrefixStore(folders[0], 1 << 30).longest(root_in(folders[0]), text)
    assert len(chain) > 2
    last = PrefixStore(folders[0], 1 << 30).path(chain[-1])
    last.write_bytes((folders[1] / last.name).read_bytes())
    with new_engine(kv_dtype="int8", segment=16) as engine:
        keeper = new_keeper(engine, folders[0])
        with pytest.raises(DamagedFileError, match="other scales"):
            keeper.restore(text)
        assert read(engine, keeper, text) == sum(block.tokens for block in chain[:-1])
    with new_engine(kv_dtype="int8", segment=16) as engine:
        assert read(engine, new_keeper(engine, folders[0]), text) == len(text)


def root_in(folder: Path) -> str:
    with new_engine(kv_dtype="int8") as engine:
        return new_keeper(engine, folder)._roots[0]


def test_full_attention_reuses_the_rows_of_lrqk_but_not_the_other_way_round(tmp_path: Path) -> None:
    text = random_tokens(200, 1).tolist()
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), text)
    with new_engine(method="dense") as engine:
        assert read(engine, new_keeper(engine, tmp_path), text) == len(text)
        # What follows has no sums, so it must not continue the chain.
        read_further(engine, tmp_path, text)
    with new_engine() as engine:
        assert read(engine, new_keeper(engine, tmp_path), text) == len(text)
    with new_engine(method="dense") as engine:
        read(engine, new_keeper(engine, tmp_path, weights="other"), text)
    with new_engine() as engine:
        assert read(engine, new_keeper(engine, tmp_path, weights="other"), text) == 0


def read_further(engine: Engine, folder: Path, text: Sequence[int]) -> None:
    more = [*text, *random_tokens(100, 5).tolist()]
    engine.reset()
    read(engine, new_keeper(engine, folder), more)


@pytest.mark.parametrize(
    "change", [{"weights": "others"}, {"form": "q4"}, {"config": "x"}, {"tokenizer": "y"}], ids=str
)
def test_another_model_reuses_nothing(tmp_path: Path, change: dict[str, str]) -> None:
    text = random_tokens(100, 1).tolist()
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        engine.reset()
        assert read(engine, new_keeper(engine, tmp_path, **change), text) == 0


def edits(text: list[int]) -> st.SearchStrategy[list[int]]:
    """Return texts that differ from ``text`` in some places."""
    place = st.integers(0, len(text))
    words = st.lists(st.integers(3, 96), max_size=40)

    def apply(changes: list[tuple[int, int, list[int]]]) -> list[int]:
        changed = list(text)
        for start, length, new in changes:
            changed[start : start + length] = new
        return changed[:400]

    return st.lists(st.tuples(place, st.integers(0, 60), words), max_size=3).map(apply)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_edited_text_reuses_its_unchanged_beginning_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    text = random_tokens(170, 1).tolist()
    changed = data.draw(edits(text).filter(lambda found: len(found) > 1))
    wide = {"hot": 480, "top_k": 480}
    with new_engine(**wide) as engine:
        read(engine, new_keeper(engine, folder), text)
        engine.reset()
        restored = read(engine, new_keeper(engine, folder), changed)
        _, logits = answer(engine)
        engine.reset()
        list(engine.prefill(changed))
        _, expected = answer(engine)
    same = next((n for n, (a, b) in enumerate(zip(text, changed, strict=False)) if a != b), 0)
    same = same or min(len(text), len(changed))
    ends = [*range(BLOCK, len(text), BLOCK), len(text)]
    assert restored == max((end for end in ends if text[:end] == changed[:end]), default=0)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def files(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.glob("*.block")) + sorted(folder.glob("*.state")))


DAMAGES = ["flip", "header", "truncate", "empty", "vanish"]


def do_damage(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage in ("flip", "header"):
        data[len(data) // 2 if damage == "flip" else 20] ^= 4
    path.write_bytes({"truncate": data[:-9], "empty": b""}.get(damage, data))
    if damage == "vanish":
        path.unlink()


def answer_in_spite_of_damage(engine: Engine, folder: Path, text: Sequence[int]) -> list[int]:
    """Read a text as often as damaged files are found, and answer."""
    keeper = new_keeper(engine, folder)
    for _ in range(2):
        try:
            read(engine, keeper, text)
            return answer(engine)[0]
        except DamagedFileError as error:
            assert engine.length == 0
            keeper = new_keeper(engine, folder)
            keeper.discard(error)
    read(engine, keeper, text)
    return answer(engine)[0]


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_found_and_removed(tmp_path: Path, number: int, damage: str) -> None:
    """Everything is resident, so that the text has no state."""
    text = random_tokens(200, 1).tolist()
    with new_engine(hot=320, top_k=320) as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        expected, _ = answer(engine)
        assert len(list(files(tmp_path))) == 7
        do_damage(list(files(tmp_path))[number], damage)
        engine.reset()
        assert answer_in_spite_of_damage(engine, tmp_path, text) == expected
    for path in files(tmp_path):
        read_metadata(path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_as_one_that_was_deleted(tmp_path: Path, damage: str) -> None:
    text = random_tokens(200, 1).tolist()
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        (state,) = tmp_path.glob("*.state")
        data = state.read_bytes()
        state.unlink()
        engine.reset()
        assert read(engine, new_keeper(engine, tmp_path), text) == len(text)
        expected, _ = answer(engine)
        state.write_bytes(data)
        do_damage(state, damage)
        engine.reset()
        assert answer_in_spite_of_damage(engine, tmp_path, text) == expected
    for path in files(tmp_path):
        read_metadata(path)


def test_nothing_is_written_for_texts_that_are_read_quickly(tmp_path: Path) -> None:
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path / "cache")
        keeper._worth_seconds = 10.0
        text = random_tokens(200, 1).tolist()
        for _ in engine.prefill(text):
            keeper.segment_done(is_end=engine.length == len(text), expected_tokens=1, expected_seconds=9.9)
        keeper.writer.close()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("method", ["lrqk", "als-exact", "dense", "int8-rows-offload"])
def test_what_is_not_finite_is_not_stored(tmp_path: Path, method: str) -> None:
    """A value overflows in the middle of a text; what was read before that is sound."""
    text = random_tokens(200, 1).tolist()

    def overflow(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        place = torch.tensor([5 if engine.length >= 100 else output.shape[1]])
        return output.where(torch.arange(output.shape[1])[:, None] != place, torch.inf)

    with new_engine(method=method) as engine:
        handle = engine.model.model.layers[0].mlp.register_forward_hook(overflow)
        keeper = new_keeper(engine, tmp_path)
        with suppress(ModelError):  # not before the answer, if nothing is solved for
            read(engine, keeper, text)
        keeper.writer.close()
        handle.remove()
    with new_engine(method=method) as engine:
        assert read(engine, new_keeper(engine, tmp_path), text) <= 96
        tokens, logits = answer(engine)
    assert len(tokens) == 24
    assert torch.isfinite(logits).all()


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    text = random_tokens(200, 1).tolist()
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        before = {path: path.stat().st_ino for path in files(tmp_path)}
        engine.reset()
        keeper = new_keeper(engine, tmp_path)
        keeper._engine = engine
        for _ in engine.prefill(text):
            keeper.segment_done(is_end=engine.length == len(text), expected_tokens=1, expected_seconds=1.0)
        keeper.writer.close()
    assert {path: path.stat().st_ino for path in files(tmp_path)} == before


def test_a_reset_stops_the_writing_of_rows_that_it_frees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are overwritten while a block is written must never get its name."""
    slow = writer.write_tensors

    def write(path: Path, tensors: Any, metadata: Any, is_stopped: Any) -> int:
        time.sleep(0.05)
        return slow(path, tensors, metadata, is_stopped)

    monkeypatch.setattr(writer, "write_tensors", write)
    first, second = random_tokens(200, 1).tolist(), random_tokens(200, 2).tolist()
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        for _ in engine.prefill(first):
            keeper.segment_done(is_end=engine.length == len(first), expected_tokens=1, expected_seconds=1.0)
        engine.reset()
        list(engine.prefill(second))
        rows = [layer.store.rows[:, :200].clone() for layer in engine.cache.attention_layers]
        keeper.writer.close()
    with new_engine() as engine:
        restored = new_keeper(engine, tmp_path).restore([*first, *QUESTION])
        list(engine.prefill([*first, *QUESTION][restored:]))
        kept = [layer.store.rows[:, :200] for layer in engine.cache.attention_layers]
        assert not any(torch.equal(now, other) for now, other in zip(kept, rows, strict=True))
        engine.reset()
        list(engine.prefill(first))
        for layer, now in zip(engine.cache.attention_layers, kept, strict=True):
            torch.testing.assert_close(now, layer.store.rows[:, :200])


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(writer, "write_tensors", full)
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        read(engine, keeper, random_tokens(200, 1).tolist())
        assert keeper.take_failure().endswith("next time: the disk is full.")
        assert keeper.take_failure() is None
        assert len(answer(engine)[0]) == 24


def test_tokens_that_were_taken_back_leave_no_block_behind(tmp_path: Path) -> None:
    """A block that begins where an earlier one was taken back must not follow that one."""
    first, second, third = (
        random_tokens(count, seed).tolist() for count, seed in ((64, 1), (48, 2), (200, 3))
    )
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        for _ in engine.prefill(first):
            keeper.segment_done(is_end=engine.length == 64, expected_tokens=1, expected_seconds=1.0)
        point = engine.rewind_point()
        for _ in engine.prefill(second):
            keeper.segment_done(is_end=engine.length == 112, expected_tokens=1, expected_seconds=1.0)
        engine.rewind(point)
        for _ in engine.prefill(third):
            keeper.segment_done(is_end=engine.length == 264, expected_tokens=1, expected_seconds=1.0)
        keeper.writer.close()
        rows = [layer.store.rows[:, :264].clone() for layer in engine.cache.attention_layers]
        engine.reset()
        # What was being written when it was taken back may be missing.
        assert 64 <= new_keeper(engine, tmp_path).restore([*first, *second, *third]) <= 112
        engine.reset()
        assert new_keeper(engine, tmp_path).restore([*first, *third, *QUESTION]) == 264
        list(engine.prefill(QUESTION))
        kept = [layer.store.rows[:, :264] for layer in engine.cache.attention_layers]
        assert all(torch.equal(now, before) for now, before in zip(kept, rows, strict=True))


def test_a_text_above_the_limit_deletes_no_other(tmp_path: Path) -> None:
    text, long = random_tokens(200, 1).tolist(), random_tokens(500, 2).tolist()
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), text)
        before = sorted(path.name for path in tmp_path.iterdir())
        limit = PrefixStore(tmp_path).size() * 3 // 2
        engine.reset()
        keeper = PrefixKeeper(engine, PrefixStore(tmp_path, limit), lambda: MODEL, worth_seconds=0.0)
        for _ in engine.prefill(long):
            keeper.segment_done(is_end=engine.length == 500, expected_tokens=500, expected_seconds=1.0)
        keeper.writer.close()
        assert "`cache_size`" in str(keeper.take_failure())
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_least_recently_used_text_makes_room(tmp_path: Path) -> None:
    texts = [random_tokens(200, seed).tolist() for seed in (1, 2, 3)]
    with new_engine() as engine:
        read(engine, new_keeper(engine, tmp_path), texts[0])
        limit = PrefixStore(tmp_path).size() * 5 // 2
        for text in (texts[1], texts[0], texts[2]):
            engine.reset()
            keeper = PrefixKeeper(engine, PrefixStore(tmp_path, limit), lambda: MODEL, worth_seconds=0.0)
            read(engine, keeper, text)
        assert PrefixStore(tmp_path).size() <= limit
        found = []
        for text in texts:
            engine.reset()
            found.append(new_keeper(engine, tmp_path).restore([*text, *QUESTION]))
    assert found[0] == found[2] == 200
    assert found[1] < 200


def converse(engine: Engine, turn: int) -> list[int]:
    """Ask a question of its own in each turn, and return the answer."""
    list(engine.prefill(random_tokens(5 + turn % 4, 100 + turn).tolist()))
    steps = engine.generate(GenerationConfig(max_new_tokens=6, temperature=0.0), stop_ids=())
    return [step.token for step in steps]


@pytest.mark.parametrize(("family", "method"), CASES)
def test_a_conversation_that_is_resumed_at_every_turn_equals_one_that_was_never_left(
    tmp_path: Path, family: str, method: str
) -> None:
    """The turns outgrow the first fit, so that it is replaced on the way."""
    text = random_tokens(120, 1).tolist()
    with new_engine(family, method) as whole:
        list(whole.prefill(text))
        expected = [converse(whole, turn) for turn in range(12)]
        logits = whole.next_logits().clone()
        tokens = list(whole.tokens)
    with new_engine(family, method) as engine:
        read(engine, new_keeper(engine, tmp_path), text)
    sizes, held = [], text
    for turn in range(12):
        with new_engine(family, method) as engine:
            keeper = new_keeper(engine, tmp_path)
            restored = keeper.restore([*held, 0])
            # The newest token of an answer is read with the next question.
            assert restored == len(held) - (turn > 0)
            for token in held[restored:]:
                engine.append(token)
            assert converse(engine, turn) == expected[turn]
            if turn == 11:
                torch.testing.assert_close(engine.next_logits(), logits, atol=1e-4, rtol=0)
            held = list(engine.tokens)
            keeper.keep_turns()
            keeper.writer.close()
        sizes.append(PrefixStore(tmp_path).size())
    assert held == tokens
    # No turn writes again what was written.
    assert sizes[5] - sizes[4] < sizes[0] / 2


def test_a_turn_that_is_undone_after_a_restart_leaves_no_trace(tmp_path: Path) -> None:
    text = random_tokens(120, 1).tolist()
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        read(engine, keeper, text)
        expected = converse(engine, 1)
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        assert keeper.restore([*text, 0]) == len(text)
        converse(engine, 0)
        held = list(engine.tokens)
        keeper.keep_turns()
        keeper.writer.close()
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        assert keeper.restore([*held, 0]) == len(held) - 1
        engine.reset()
        assert keeper.restore([*text, 0]) == len(text)
        assert converse(engine, 1) == expected


def test_turns_do_not_go_on_from_a_state_whose_writing_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that was taken back replaced the fit while the state of the documents was being written."""
    write = writer.write_tensors

    def write_slowly(path: Path, tensors: Any, metadata: Any, is_stopped: Any) -> int:
        for _ in range(500):
            time.sleep(0.0 if is_stopped() or path.suffix != ".state" or is_fast else 0.01)
        return write(path, tensors, metadata, is_stopped)

    monkeypatch.setattr(writer, "write_tensors", write_slowly)
    text, is_fast = random_tokens(60, 1).tolist(), False
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        for _ in engine.prefill(text):
            keeper.segment_done(is_end=engine.length == len(text), expected_tokens=1, expected_seconds=1.0)
        point = engine.rewind_point()
        list(engine.prefill(random_tokens(60, 2).tolist()))
        engine.next_logits()
        engine.rewind(point)
        converse(engine, 0)
        held, is_fast = list(engine.tokens), True
        keeper.keep_turns()
        keeper.writer.close()
        expected = converse(engine, 1)
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        assert keeper.restore([*held, 0]) == len(held) - 1
        assert keeper._states
        engine.append(held[-1])
        assert converse(engine, 1) == expected


def test_few_blocks_wait_for_the_decision(tmp_path: Path) -> None:
    """A text that turns out to be worth storing late is stored in a larger block."""
    text = random_tokens(400, 1).tolist()
    with new_engine() as engine:
        keeper = new_keeper(engine, tmp_path)
        keeper._worth_seconds = 10.0
        for _ in engine.prefill(text):
            is_end = engine.length == len(text)
            keeper.segment_done(is_end=is_end, expected_tokens=400, expected_seconds=11.0 if is_end else 1.0)
            assert len(keeper._waiting) <= prefix.MOST_WAITING
        keeper.writer.close()
        expected, _ = answer(engine)
        assert len(list(tmp_path.glob("*.block"))) <= prefix.MOST_WAITING + 1
        engine.reset()
        keeper = new_keeper(engine, tmp_path)
        assert keeper.restore(text, len(text)) == len(text)
        assert answer(engine)[0] == expected
