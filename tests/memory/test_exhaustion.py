"""What counts as being out of memory."""

from __future__ import annotations

import errno
import gc
import weakref
from contextlib import suppress

import pytest
import torch
from safetensors import SafetensorError

from lrqk_cli.errors import ModelError, OutOfMemoryError
from lrqk_cli.memory.exhaustion import is_out_of_memory, memory_errors, out_of_memory

CPU = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
EXHAUSTED = [
    (MemoryError(), "This machine"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "This machine"),
    (RuntimeError(CPU), "This machine"),
    (RuntimeError("unable to mmap 4096 bytes from file <model.safetensors>"), "This machine"),
    (RuntimeError("CUDA error: cudaHostRegister failed"), "This machine"),
    (RuntimeError("can't start new thread"), "This machine"),
    (RuntimeError("could not create a primitive"), "This machine"),
    (
        SafetensorError("Cannot allocate memory (os error 12)"),
        "This machine",
    ),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "The device"),
    (RuntimeError("CUDA error: out of memory"), "The device"),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
        "The device",
    ),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "The device"),
]


@pytest.mark.parametrize(("error", "place"), EXHAUSTED, ids=lambda value: str(value)[:30])
def test_all_that_say_so_become_one_error(error: Exception, place: str) -> None:
    assert is_out_of_memory(error)
    with (
        pytest.raises(OutOfMemoryError, match=f"{place} has not enough") as caught,
        memory_errors(),
    ):
        raise error
    assert caught.value.exit_code == 5
    assert caught.value.hint


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shape mismatch"), OSError(errno.ENOENT, "No such file"), ValueError("out of memory")],
    ids=str,
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert out_of_memory(error) is None
    with pytest.raises(type(error)) as caught, memory_errors():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [OutOfMemoryError("Eight GiB are missing."), ModelError("Damaged.")])
def test_what_has_been_explained_keeps_its_words(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory_errors():
        raise error
    assert caught.value is error


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(OutOfMemoryError), memory_errors():
        torch.empty(1 << 58, dtype=torch.uint8)


def test_what_has_failed_is_freed_at_once() -> None:
    class Rows:
        pass

    held = []

    def fail() -> None:
        rows = Rows()
        held.append(weakref.ref(rows))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    gc.disable()
    try:
        with suppress(OutOfMemoryError), memory_errors():
            fail()
        assert held[0]() is None
    finally:
        gc.enable()
