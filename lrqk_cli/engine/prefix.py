"""Keeps what an engine reads in the prefix cache, and restores it from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrqk_cli.attention.restoring import OpenPart
from lrqk_cli.attention.saved_layers import capture_block, capture_state, side_stream, to_host
from lrqk_cli.engine.sampling import are_numbers
from lrqk_cli.memory.accounting import SCALE_TOKENS, dtype_name, hot_slots
from lrqk_cli.prefix_cache.store import Block, PrefixStore, next_block, root_of
from lrqk_cli.prefix_cache.tensor_file import DamagedFileError, TensorFile, read_metadata
from lrqk_cli.prefix_cache.writer import BackgroundWriter, Captured, WriteJob

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine

# Increased when what is in the files, or what it means, changes.
_FORMAT = "1"
# The least tokens of a block, except the last of a text: the sums after a block take as much space as the
# rows of some hundred tokens.
BLOCK_TOKENS = 4096
# Blocks that wait, with their sums in memory, until it is known whether the text is worth storing.
MOST_WAITING = 4
# These settings do not change what a state of given rows holds, except for the number of filled slots.
_FREE_SETTINGS = ("attention", "hot", "top_k", "tail", "segment", "kv_dtype", "lookup")


class PrefixKeeper:
    """Writes the blocks of a growing context in a background thread, and restores an empty engine from them.

    Args:
        engine: whose context it is.
        store: the files.
        model: returns what determines rows beside tokens and types: weights, configuration, tokenizer. Called
            at the first need.
        worth_seconds: texts that are read in less time are not written.

    Attributes:
        label: what ``lrqk cache list`` shows of the context, such as the titles of its documents.
        writer: the background thread.
    """

    def __init__(
        self,
        engine: Engine,
        store: PrefixStore,
        model: Callable[[], dict[str, str]],
        *,
        worth_seconds: float,
    ) -> None:
        self.label: dict[str, object] = {}
        self._engine = engine
        self._store = store
        self._worth_seconds = worth_seconds
        self._model = model
        # The blocks of the context so far, written or not.
        self._chain: list[Block] = []
        self._is_borrowed = False
        self._restores = True
        # The states of the context so far, each with its tokens and the fits that its codes are of.
        self._states: list[tuple[Path, int, list[object]]] = []
        self._waiting: list[WriteJob] = []
        self._has_told_failure = False
        self.writer = BackgroundWriter(store, side_stream(engine.device))
        engine.cache.before_overwrite = self._release
        for layer in engine.cache.lrqk_layers:
            layer.fit.before_replace = self._stop_states

    @cached_property
    def _roots(self) -> list[str]:
        """The roots of the engine's own chains, and of others whose rows it can use."""
        parts = {**self._model(), "format": _FORMAT, "dtype": dtype_name(self._engine.cache.dtype)}
        config = self._engine.config
        if config.kv_dtype != "bf16":
            parts["kv_dtype"] = f"{config.kv_dtype} {SCALE_TOKENS}"
        lrqk = root_of({**parts, "sums": f"{config.grouping} {config.solver}"})
        # Full attention needs the rows alone.
        return [lrqk] if config.attention == "lrqk" else [root_of({**parts, "sums": "none"}), lrqk]

    @property
    def covered(self) -> int:
        """Tokens in the blocks of the context."""
        return _tokens(self._chain)

    def restore(self, tokens: Sequence[int], ends: int = 0) -> int:
        """Restore an empty engine to the longest prefix of ``tokens`` that is stored; return its length.

        The rows arrive in the background. At least one token must be read before the next decode step.

        Args:
            ends: the tokens after which a first reading fits the index, see ``segment_done``.

        Raises:
            DamagedFileError: a file is not as it was written; it has been removed, and the engine is empty.
        """
        try:
            return self._restore(tokens, ends) if self._restores and self._store.files() else 0
        except DamagedFileError:
            raise
        except Exception as error:  # whatever it is, the text can be read
            self._give_up(error)
            return 0

    def _restore(self, tokens: Sequence[int], ends: int) -> int:
        self._is_borrowed = False
        chains = [self._store.longest(root, tokens) for root in self._roots]
        chain = max(chains, key=_tokens)
        # A chain of another kind of attention cannot go on here: its blocks hold more.
        self._is_borrowed = bool(chain) and chain[0].parent != self._roots[0]
        with ExitStack() as stack:
            try:
                chain, states = self._with_states(chain)
                if not chain:
                    return 0
                length = _tokens(chain)
                blocks = self._open_blocks(stack, chain, tokens)
                opened = [OpenPart(stack.enter_context(TensorFile(path)), *span) for path, span in states]
                self._engine.restore(tokens[:length], blocks, opened)
            except DamagedFileError as error:
                self.discard(error)
                raise
            except FileNotFoundError:  # another process has just removed it
                return 0
            stack.pop_all()
        if length == ends and not states:
            self._engine.cache.solve()
        self._chain = chain
        self._states = [(path, stop, self._fits()) for path, (_, stop) in states]
        # The end of a chain first, so that it is the first to be removed.
        self._store.touch(
            [*(self._store.path(block) for block in reversed(chain)), *(path for path, _ in states)]
        )
        return length

    def discard(self, error: DamagedFileError) -> None:
        """Remove a damaged file, and what needs it."""
        files = [file for file in self._store.files() if file.path == error.path]
        if files and files[0].is_state:
            self._store.delete(files)
        else:
            self._store.remove([file.key for file in files])
        # Otherwise the same file would be restored again and again.
        self._restores = not self._store.has(error.path)

    def segment_done(self, *, is_end: bool, expected_tokens: int, expected_seconds: float) -> None:
        """Write what has been read since the last block, if that is enough for one.

        Call it between two segments, when the engine has read all its tokens.

        Args:
            is_end: the context ends here for now, and is ready for decode steps: its state, if any, is kept.
            expected_tokens, expected_seconds: the length of the whole text, and the time to read it.
        """
        try:
            self._segment_done(is_end, expected_tokens, expected_seconds)
        except Exception as error:  # whatever it is, the reading goes on
            self._give_up(error)

    def _segment_done(self, is_end: bool, expected_tokens: int, expected_seconds: float) -> None:
        stop = self._engine.length
        is_worth = expected_seconds >= self._worth_seconds
        if not is_worth and (is_end or len(self._waiting) == MOST_WAITING):
            self._drop_waiting()
        is_due = is_worth if is_end else stop - self.covered >= BLOCK_TOKENS
        if self._is_borrowed or self.writer.failure is not None or not is_due:
            return
        self._add_block(stop)
        self.writer.check_limit(self._waiting, expected_tokens)
        if is_end:
            self._add_state(stop)
        if is_worth:
            self._submit()

    def keep_turns(self) -> None:
        """Write what came after the documents: the turns of a conversation that will be continued.

        Only if the documents are stored, since it takes no time to read short turns again.
        """
        stop = self._engine.cache.position.length
        if not self._chain or self._is_borrowed or stop <= self.covered:
            return
        try:
            self._add_block(stop)
            self._add_state(stop)
            self._submit()
        except Exception as error:  # whatever it is, the chat ends as it should
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Neither restore nor write anything from now on."""
        self._restores = False
        self._drop_waiting()
        self.writer.fail(error)

    def _drop_waiting(self) -> None:
        """Forget files that are not to be written; a later block covers their tokens."""
        self._release(min((job.start for job in self._waiting), default=self.covered))

    def take_failure(self) -> str | None:
        """Return why nothing more is written, once; None if all is well."""
        failure = self.writer.failure
        if failure is None or self._has_told_failure:
            return None
        self._has_told_failure = True
        return f"What is read is not stored for the next time: {failure}."

    def _open_blocks(self, stack: ExitStack, chain: Sequence[Block], tokens: Sequence[int]) -> list[OpenPart]:
        opened, start = list[OpenPart](), 0
        for block in chain:
            path = self._store.path(block)
            file = stack.enter_context(TensorFile(path))
            stop = start + block.tokens
            if file.tensor("tokens").tolist() != list(tokens[start:stop]):
                raise DamagedFileError(path, "its tokens are not those of its name")
            opened.append(OpenPart(file, start, stop))
            start = stop
        return opened

    def _with_states(self, chain: list[Block]) -> tuple[list[Block], list[tuple[Path, tuple[int, int]]]]:
        """Return the chain up to its last state, and the states that hold its codes with their tokens.

        The whole chain and no state if a block's worth of tokens follows that, or if it needs no index.
        """
        if self._engine.cache.holds_all(_tokens(chain)):
            return chain, []
        for count in range(len(chain), 0, -1):
            if _tokens(chain[count:]) >= BLOCK_TOKENS:
                break
            if states := self._states_of(chain[:count]):
                return chain[:count], states
        return chain, []

    def _states_of(self, chain: Sequence[Block]) -> list[tuple[Path, tuple[int, int]]]:
        """Return the state of a chain after those that it goes on from; nothing if one is missing."""
        found = list[tuple[Path, tuple[int, int]]]()
        stop = _tokens(chain)
        path: Path | None = self._state_path(chain[-1].key, stop)
        while path is not None:
            try:
                metadata = read_metadata(path)
                start = int(metadata["start"])
            except (OSError, KeyError, ValueError):
                return []
            found.insert(0, (path, (start, stop)))
            if not 0 <= start < stop:
                return found if start == 0 else []
            path = self._store.folder / Path(metadata["before"]).name if start else None
            stop = start
        return found

    def _add_block(self, stop: int) -> None:
        if stop > (start := self.covered):
            tokens = self._engine.tokens[start:stop]
            block = next_block(self._chain[-1].key if self._chain else self._roots[0], tokens)
            self._chain.append(block)
            cache, ids = self._engine.cache, {"tokens": torch.tensor(tokens)}
            capture = partial(capture_block, cache.attention_layers, cache.states, start, stop)
            self._add(self._store.path(block), capture, (start, stop), ids, {})

    def _add_state(self, stop: int) -> None:
        layers = self._engine.cache.lrqk_layers
        if not layers or any(layer.prefill is not None for layer in layers):
            return
        path, fits = self._state_path(self._chain[-1].key, stop), self._fits()
        start, before = 0, ""
        if self._states and self._states[-1][1] < stop and self._states[-1][2] == fits:
            before, start = self._states[-1][0].name, self._states[-1][1]
        self._states.append((path, stop, fits))
        metadata = {"start": str(start), "before": before}
        layers_of_all = self._engine.cache.attention_layers
        self._add(path, lambda: capture_state(layers_of_all, start, stop), (stop, stop), {}, metadata)

    def _add(
        self,
        path: Path,
        capture: Callable[[], Captured],
        span: tuple[int, int],
        more: dict[str, Tensor],
        metadata: dict[str, str],
    ) -> None:
        if self.writer.failure is None and not self._store.has(path):
            is_sound = to_host(are_numbers(self._engine.logits))  # ``capture`` says when it has arrived
            captured = capture()
            captured.tensors.update(more)
            metadata |= {"format": _FORMAT, "label": json.dumps(self.label), "tokens": str(span[1])}
            self._waiting.append(WriteJob(path, captured, *span, metadata, is_sound))

    def _submit(self) -> None:
        if self.writer.failure is None:
            self.writer.submit(self._waiting, [block.key for block in self._chain])
        self._waiting.clear()

    def _release(self, length: int) -> None:
        """Forget the tokens beyond ``length``, and stop reading their rows, which may be overwritten now."""
        while self._chain and self.covered > length:
            self._chain.pop()
        self._states = [state for state in self._states if state[1] <= length]
        self._stop_jobs(lambda job: job.stop > length)

    def _stop_states(self) -> None:
        """Stop reading codes, which are about to be replaced; no later state goes on from one not written."""
        self._stop_jobs(lambda job: job.is_state)
        self._states = [state for state in self._states if self._store.has(state[0])]

    def _stop_jobs(self, concerned: Callable[[WriteJob], bool]) -> None:
        self._waiting = [job for job in self._waiting if not concerned(job)]
        self.writer.stop_jobs(concerned)

    def _state_path(self, key: str, stop: int) -> Path:
        config = self._engine.config
        settings = {name: value for name, value in asdict(config).items() if name not in _FREE_SETTINGS}
        settings["filled"] = min(hot_slots(config, self._engine.context), max(0, stop - config.recent))
        return self._store.state_path(key, root_of({"settings": json.dumps(settings, sort_keys=True)}))

    def _fits(self) -> list[object]:
        return [layer.fit.current for layer in self._engine.cache.lrqk_layers]


def _tokens(chain: Sequence[Block]) -> int:
    return sum(block.tokens for block in chain)
