"""Recognise the exceptions of Python, the system, torch and CUDA that mean that memory has run out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lrqk_cli.errors import HostMemoryError, LrqkError, OutOfMemoryError

# torch has an exception class for a full GPU; other failures are recognised by their message.
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "unable to mmap",
    "bad_alloc",
    "cudahostregister",
    "cublas_status_alloc_failed",
    "memory_allocation",
    # Of Python: there is no room for a thread's stack.
    "can't start new thread",
    # Of oneDNN, which computes products on a CPU, and says no more.
    "could not create a primitive",
    "could not create a memory object",
)
_HINT = "Lower `context`, choose a smaller model, or close other programs."


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception, of any library, means that memory has run out."""
    # torch's is compared by name, because this module does not import torch.
    if isinstance(error, MemoryError | OutOfMemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # safetensors' error derives from Exception alone, torch's from RuntimeError.
    said_in_words = isinstance(error, RuntimeError) or type(error).__name__ == "SafetensorError"
    return said_in_words and any(word in str(error).lower() for word in _WORDS)


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """Return the error to raise for an exception that means that memory has run out; None for any other."""
    if isinstance(error, OutOfMemoryError):
        return error
    if not is_out_of_memory(error):
        return None
    words = str(error).lower()
    on_device = type(error).__name__ == "OutOfMemoryError" or "cuda" in words or "mps" in words
    if on_device and "cudahostregister" not in words:
        return OutOfMemoryError("The device has not enough free memory for this.", _HINT)
    return HostMemoryError("This machine has not enough free memory for this.", _HINT)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise an OutOfMemoryError if an exception inside the block means that memory has run out."""
    try:
        yield
    except LrqkError:
        raise
    except Exception as error:
        told = out_of_memory(error)
        if told is None:
            raise
        try:
            raise told from error
        finally:
            # With this frame in its traceback, the error and what failed would keep each other, and memory.
            del told
