"""Writes the files of the prefix cache in a background thread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from lrqk_cli.prefix_cache.store import PrefixStore
from lrqk_cli.prefix_cache.tensor_file import WritingStopped, write_tensors
from lrqk_cli.system_errors import reason_of

if TYPE_CHECKING:
    from torch import Tensor


class Captured(NamedTuple):
    """Tensors to be written to the disk, possibly by another thread.

    Attributes:
        tensors: copies in host memory, or views of what does not change for now.
        ready: waits for the device, without which copies and views may be incomplete.
    """

    tensors: dict[str, Tensor]
    ready: Callable[[], None]


@dataclass(frozen=True, slots=True)
class WriteJob:
    """A file to write.

    Attributes:
        start, stop: the tokens of a block; of a state ``start`` is ``stop``.
        metadata: of the file.
        is_sound: whether the model computed numbers, bool ``[]``, valid once the tensors are; a file of
            anything else is not written.
        stopped: set if the file is not wanted any more.
    """

    path: Path
    captured: Captured
    start: int
    stop: int
    metadata: dict[str, str]
    is_sound: Tensor
    stopped: Event = field(default_factory=Event)

    @property
    def is_state(self) -> bool:
        """Whether it is a state."""
        return self.start == self.stop

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.captured.tensors.values())


class BackgroundWriter:
    """Writes one file after the other. A failure ends the writing and nothing else.

    Args:
        store: where the files go; older ones are deleted to make room.
        guard: makes the context in which the thread reads tensors.

    Attributes:
        failure: why nothing more is written; None if all is well.
        queued_bytes: bytes written or about to be.
    """

    def __init__(
        self, store: PrefixStore, guard: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        self.failure: str | None = None
        self.queued_bytes = 0
        self._store = store
        self._guard = guard
        self._running: list[tuple[WriteJob, Future[None]]] = []
        self._pool = ThreadPoolExecutor(1, "lrqk-prefix-cache")

    @property
    def is_writing(self) -> bool:
        """Whether ``close`` would wait."""
        return any(not future.done() for _, future in self._running)

    def check_limit(self, jobs: Sequence[WriteJob], expected_tokens: int) -> None:
        """Write nothing of a text that does not fit, instead of deleting all others for it.

        Args:
            jobs: the first of the text.
            expected_tokens: its length.
        """
        blocks = [job for job in jobs if not job.is_state]
        if blocks and not self.queued_bytes:
            share = sum(job.nbytes for job in blocks) / sum(job.stop - job.start for job in blocks)
            if share * expected_tokens > self._store.limit:
                self._fail_by_limit()

    def submit(self, jobs: Sequence[WriteJob], kept: Collection[str]) -> None:
        """Write some files, in order.

        Args:
            kept: chains that must not be deleted to make room.
        """
        self._running = [(job, future) for job, future in self._running if not future.done()]
        for job in jobs:
            self.queued_bytes += job.nbytes
            self._running.append((job, self._pool.submit(self._write, job, kept)))

    def stop_jobs(self, concerned: Callable[[WriteJob], bool]) -> None:
        """Drop some files; return when none of them is read from any more."""
        running = [(job, future) for job, future in self._running if concerned(job)]
        for job, future in running:
            job.stopped.set()
            future.cancel()
        wait(future for _, future in running)
        for job, _ in running:  # one that had not begun has its tensors yet
            job.captured.tensors.clear()
        self._running = [(job, future) for job, future in self._running if not concerned(job)]

    def close(self) -> None:
        """Wait until all is written. After an interrupt, call ``stop``."""
        wait(future for _, future in self._running)
        self._running.clear()
        self._pool.shutdown()

    def stop(self) -> None:
        """Stop writing now; finished files stay."""
        self.stop_jobs(lambda _: True)
        self._pool.shutdown()

    def _write(self, job: WriteJob, kept: Collection[str]) -> None:
        try:
            if self.failure is None and not job.stopped.is_set() and not self._store.has(job.path):
                self._write_new(job, kept)
        except (WritingStopped, FileNotFoundError):  # or another process has cleared the cache
            pass
        except Exception as error:  # whatever it is, the conversation goes on
            self.fail(error)
        finally:
            job.captured.tensors.clear()

    def _write_new(self, job: WriteJob, kept: Collection[str]) -> None:
        job.captured.ready()
        if not job.is_sound:
            return
        self._store.make_folder()
        self._store.prune(kept, room=job.nbytes)
        if self._store.size() + job.nbytes > self._store.limit:
            self._fail_by_limit()
            return
        with self._guard():
            write_tensors(job.path, job.captured.tensors, job.metadata, job.stopped.is_set)

    def fail(self, error: Exception) -> None:
        """Write nothing from now on."""
        if isinstance(error, MemoryError):  # which says nothing itself
            reason = "memory has run out"
        else:
            reason = reason_of(error) if isinstance(error, OSError) else str(error).rstrip(".").lower()
        self.failure = self.failure or reason

    def _fail_by_limit(self) -> None:
        self.failure = "the cache would be larger than its limit, see `cache_size`"
