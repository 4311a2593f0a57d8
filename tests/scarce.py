"""Memory that runs out where a test says so: allocations of torch, and of C functions that Python calls."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lrqk_cli

# C functions that take as much memory as data have, or what the system needs for a thread or a process. Only
# calls from lrqk and from these modules of Python count.
_TAKING = frozenset(
    {
        *("connect", "execute", "executemany", "fetchall", "fetchone", "commit"),
        *(
            "read",
            "readall",
            "readinto",
            "mmap",
            "decode",
            "encode",
            "join",
            "splitlines",
            "split",
            "replace",
        ),
        *("dumps", "loads", "tolist", "numpy", "start_new_thread", "fork_exec"),
    }
)
_CALLERS = (
    str(Path(lrqk_cli.__file__).parent),
    str(Path(json.__file__).parent),
    *(str(module.__file__) for module in (threading, subprocess)),
)


Fails: TypeAlias = Callable[[int, torch.Tensor | None], bool]


class Scarce:
    """Counts allocations in all threads, from 1 on; fails those for which ``fails(number, tensor)`` is true.

    The tensor is None for a C function. Threads that were started before are not seen.

    Attributes:
        calls: allocations so far; failed: how many of them have failed.

    Args:
        of: whose allocations count: ``torch``, ``python`` (the C functions), or ``all``.
    """

    def __init__(self, fails: Fails = lambda *_: False, of: str = "all") -> None:
        self.calls = self.failed = 0
        self._fails = fails
        self._of = of
        self._lock = threading.Lock()
        self._mode = _Mode(self)
        self._made: list[weakref.ref[torch.Tensor]] = []
        self._run = threading.Thread.run
        self._standing: Any = None

    def __enter__(self) -> Scarce:
        scarce, run = self, self._run

        def run_here(thread: threading.Thread) -> None:
            with _Mode(scarce):
                scarce._watch()
                try:
                    run(thread)
                finally:
                    sys.setprofile(None)

        threading.Thread.run = run_here  # type: ignore[method-assign]
        self._standing = sys.getprofile()
        self._mode.__enter__()
        self._watch()
        return self

    def __exit__(self, *error: Any) -> None:
        sys.setprofile(self._standing)
        self._mode.__exit__(*error)
        threading.Thread.run = self._run  # type: ignore[method-assign]
        self._fails = lambda *_: False

    def lift(self) -> None:
        """Fail no more."""
        self._fails = lambda *_: False

    @property
    def alive(self) -> int:
        """Bytes of the tensors that were made here and are still there."""
        found = [tensor for ref in self._made if (tensor := ref()) is not None]
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in found}
        return sum(storage.nbytes() for storage in storages.values())

    def _watch(self) -> None:
        if self._of != "torch":
            sys.setprofile(self._profile)

    def _takes(self, made: torch.Tensor | None) -> bool:
        """Count an allocation; return whether it fails."""
        with self._lock:
            self.calls += 1
            fails = self._fails(self.calls, made)
            self.failed += fails
        return fails

    def _profile(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in _TAKING:
            return
        if not frame.f_code.co_filename.startswith(_CALLERS) or not self._takes(None):
            return
        # Python has no profile after an exception in it; the next allocation of torch sets it again.
        if function.__name__ == "start_new_thread":
            raise RuntimeError("can't start new thread")
        if function.__name__ == "fork_exec":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        raise MemoryError


class _Mode(TorchDispatchMode):
    """One thread's part of a ``Scarce``."""

    def __init__(self, scarce: Scarce) -> None:
        super().__init__()
        self._scarce = scarce

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        scarce = self._scarce
        if scarce._of != "torch" and sys.getprofile() is None:
            scarce._watch()
        made = operation(*arguments, **keywords or {})
        if _allocates(made, arguments):
            scarce._made.append(weakref.ref(made))
            if scarce._of != "python" and scarce._takes(made):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return made


def _allocates(made: Any, arguments: tuple[Any, ...]) -> bool:
    """Return whether an operation has made a tensor, and no view of its arguments."""
    if not isinstance(made, torch.Tensor) or not made.nbytes:
        return False
    given = [one for one in arguments if isinstance(one, torch.Tensor)]
    return made.untyped_storage().data_ptr() not in [one.untyped_storage().data_ptr() for one in given]
