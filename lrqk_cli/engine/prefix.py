"""Keeps what an engine reads in the prefix cache, and restores it from there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.restoring import OpenBlock
from lrqk_cli.attention.saved_layers import Captured, capture_block, capture_state
from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.prefix_cache.store import Block, PrefixStore, next_block, root_of
from lrqk_cli.prefix_cache.tensor_file import DamagedFileError, TensorFile, WritingStopped, write_tensors

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine

# Increased when what is in the files, or what it means, changes.
_FORMAT = "1"
# The least tokens of a block, except the last of a text: the sums after a block take as much space as the
# rows of some hundred tokens.
BLOCK_TOKENS = 4096
# These settings do not change what a state holds.
_FREE_SETTINGS = ("attention", "top_k", "tail", "segment")


@dataclass(frozen=True, slots=True)
class _Job:
    """A file to write, of the tokens ``[start, stop)``; a state has none of its own."""

    path: Path
    captured: Captured
    start: int
    stop: int
    stopped: Event = field(default_factory=Event)

    @property
    def is_state(self) -> bool:
        return self.start == self.stop

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.captured.tensors.values())


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
        queued_bytes: bytes written or about to be.
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
        self.queued_bytes = 0
        self._failure: str | None = None
        self._has_told_failure = False
        self._engine = engine
        self._store = store
        self._worth_seconds = worth_seconds
        self._model = model
        self._settings = _settings_key(engine.config)
        # The blocks of the context so far, written or not, and the tokens that they cover.
        self._chain: list[Block] = []
        self._is_borrowed = False
        self._waiting: list[_Job] = []
        self._running: list[tuple[_Job, Future[None]]] = []
        on_gpu = engine.device.type == "cuda"
        self._stream = torch.cuda.Stream(engine.device) if on_gpu else None
        self._writer = ThreadPoolExecutor(1, "lrqk-prefix-cache")
        engine.cache.before_overwrite = self._release
        for layer in engine.cache.attention_layers:
            if isinstance(layer, LrqkLayer):
                layer.fit.before_replace = self._stop_states

    @cached_property
    def _roots(self) -> list[str]:
        """The roots of the engine's own chains, and of others whose rows it can use."""
        parts = {**self._model(), "format": _FORMAT, "dtype": dtype_name(self._engine.cache.dtype)}
        config = self._engine.config
        lrqk = root_of({**parts, "sums": f"{config.grouping} {config.solver}"})
        # Full attention needs the rows alone.
        return [lrqk] if config.attention == "lrqk" else [root_of({**parts, "sums": "none"}), lrqk]

    @property
    def covered(self) -> int:
        """Tokens in the blocks of the context."""
        return sum(block.tokens for block in self._chain)

    def restore(self, tokens: Sequence[int]) -> int:
        """Restore an empty engine to the longest prefix of ``tokens`` that is stored; return its length.

        At least one token is left to read. The rows arrive in the background.

        Raises:
            DamagedFileError: a file is not as it was written; it has been removed, and the engine is empty.
        """
        if not self._store.files():
            return 0
        chains = [self._store.longest(root, tokens[:-1]) for root in self._roots]
        chain = max(chains, key=_tokens)
        # A chain of another kind of attention cannot go on here: its blocks hold more.
        self._is_borrowed = bool(chain) and chain[0].parent != self._roots[0]
        chain, state_path = self._with_state(chain)
        if not chain:
            return 0
        with ExitStack() as stack:
            try:
                blocks = self._open(stack, chain, tokens)
                state = None if state_path is None else stack.enter_context(TensorFile(state_path))
                self._engine.restore(tokens[: blocks[-1].stop], blocks, state)
            except FileNotFoundError:  # another process has just removed it
                return 0
            except DamagedFileError as error:
                self.discard(error)
                raise
            stack.pop_all()
        self._chain = chain
        # The end of a chain first, so that it is the first to be removed.
        paths = [self._store.path(block) for block in reversed(chain)]
        self._store.touch([*paths, state_path] if state_path is not None else paths)
        return blocks[-1].stop

    def discard(self, error: DamagedFileError) -> None:
        """Remove a damaged file, and what needs it."""
        files = [file for file in self._store.files() if file.path == error.path]
        if files and files[0].is_state:
            self._store.delete(files)
        else:
            self._store.remove([file.key for file in files])

    def segment_done(self, *, is_end: bool, expected_tokens: int, expected_seconds: float) -> None:
        """Write what has been read since the last block, if that is enough for one.

        Call it between two segments, when the engine has read all its tokens.

        Args:
            is_end: the context ends here for now, and is ready for decode steps, so that its state is kept.
            expected_tokens, expected_seconds: the length of the whole text, and the time to read it.
        """
        stop = self._engine.length
        is_worth = expected_seconds >= self._worth_seconds
        if is_end and not is_worth:
            self._waiting.clear()
        is_due = is_worth if is_end else stop - self.covered >= BLOCK_TOKENS
        if self._failure is not None or self._is_borrowed or not is_due:
            return
        cache = self._engine.cache
        if stop > (start := self.covered):
            tokens = self._engine.tokens[start:stop]
            block = next_block(self._chain[-1].key if self._chain else self._roots[0], tokens)
            self._chain.append(block)
            ids = {"tokens": torch.tensor(tokens)}
            path = self._store.path(block)
            self._add(path, lambda: capture_block(cache.attention_layers, start, stop), start, stop, ids)
            self._check_limit(expected_tokens)
        if is_end and self._engine.config.attention == "lrqk":
            path = self._store.state_path(self._chain[-1].key, self._settings)
            self._add(path, lambda: capture_state(cache.attention_layers, stop), stop, stop, {})
        if is_worth:
            self._submit()

    def _check_limit(self, expected_tokens: int) -> None:
        """Write nothing of a text that does not fit, instead of deleting all others for it."""
        blocks = [job for job in self._waiting if not job.is_state]
        if blocks and not self.queued_bytes:
            share = sum(job.nbytes for job in blocks) / sum(job.stop - job.start for job in blocks)
            if share * expected_tokens > self._store.limit:
                self._fail_by_limit()

    def _fail_by_limit(self) -> None:
        self._waiting.clear()
        self._failure = "the cache would be larger than its limit, see --cache-size"

    def close(self) -> None:
        """Wait until all is written. After an interrupt, call ``stop``."""
        wait(future for _, future in self._running)
        self._running.clear()
        self._writer.shutdown()

    def stop(self) -> None:
        """Stop writing now; finished files stay."""
        self._stop_jobs(lambda _: True)
        self._writer.shutdown()

    def take_failure(self) -> str | None:
        """Return why nothing more is written, once; None if all is well."""
        if self._failure is None or self._has_told_failure:
            return None
        self._has_told_failure = True
        return f"What is read is not stored for the next time: {self._failure}."

    @property
    def is_writing(self) -> bool:
        """Whether ``close`` would wait."""
        return any(not future.done() for _, future in self._running)

    def _open(self, stack: ExitStack, chain: Sequence[Block], tokens: Sequence[int]) -> list[OpenBlock]:
        opened, start = list[OpenBlock](), 0
        for block in chain:
            path = self._store.path(block)
            file = stack.enter_context(TensorFile(path))
            stop = start + block.tokens
            if file.tensor("tokens").tolist() != list(tokens[start:stop]):
                raise DamagedFileError(path, "its tokens are not those of its name")
            opened.append(OpenBlock(file, start, stop))
            start = stop
        return opened

    def _with_state(self, chain: list[Block]) -> tuple[list[Block], Path | None]:
        """Return the chain up to its last state, unless that loses a block's worth of tokens; the state."""
        for count in range(len(chain), 0, -1):
            if _tokens(chain[count:]) >= BLOCK_TOKENS:
                break
            path = self._store.state_path(chain[count - 1].key, self._settings)
            if self._engine.config.attention == "lrqk" and self._store.has(path):
                return chain[:count], path
        return chain, None

    def _add(
        self, path: Path, capture: Callable[[], Captured], start: int, stop: int, more: dict[str, Tensor]
    ) -> None:
        if self._failure is None and not self._store.has(path):
            captured = capture()
            captured.tensors.update(more)
            self._waiting.append(_Job(path, captured, start, stop))

    def _submit(self) -> None:
        self._running = [(job, future) for job, future in self._running if not future.done()]
        for job in self._waiting:
            self.queued_bytes += job.nbytes
            self._running.append((job, self._writer.submit(self._write, job)))
        self._waiting.clear()

    def _write(self, job: _Job) -> None:
        if self._failure is not None or job.stopped.is_set() or self._store.has(job.path):
            return
        try:
            job.captured.ready()
            self._store.make_folder()
            self._store.prune([block.key for block in self._chain], room=job.nbytes)
            if self._store.size() + job.nbytes > self._store.limit:
                self._fail_by_limit()
                return
            metadata = {"format": _FORMAT, "label": json.dumps(self.label), "tokens": str(job.stop)}
            with torch.cuda.stream(self._stream):  # nothing without a GPU
                write_tensors(job.path, job.captured.tensors, metadata, job.stopped.is_set)
        except (WritingStopped, FileNotFoundError):  # or another process has cleared the cache
            pass
        except OSError as error:
            self._failure = (error.strerror or str(error)).lower()
        except Exception as error:  # whatever it is, the conversation goes on
            self._failure = str(error)
        finally:
            job.captured.tensors.clear()

    def _release(self, length: int) -> None:
        """Forget the tokens beyond ``length``, and stop reading their rows, which may be overwritten now."""
        while self._chain and self.covered > length:
            self._chain.pop()
        self._stop_jobs(lambda job: job.stop > length)

    def _stop_states(self) -> None:
        """Stop reading codes, which are about to be replaced."""
        self._stop_jobs(lambda job: job.is_state)

    def _stop_jobs(self, concerned: Callable[[_Job], bool]) -> None:
        """Drop some jobs; return when none of them reads any more."""
        self._waiting = [job for job in self._waiting if not concerned(job)]
        running = [(job, future) for job, future in self._running if concerned(job)]
        for job, future in running:
            job.stopped.set()
            future.cancel()
        wait(future for _, future in running)


def _tokens(chain: Sequence[Block]) -> int:
    return sum(block.tokens for block in chain)


def _settings_key(config: LrqkConfig) -> str:
    settings = {name: value for name, value in asdict(config).items() if name not in _FREE_SETTINGS}
    return root_of({"settings": json.dumps(settings, sort_keys=True)})
