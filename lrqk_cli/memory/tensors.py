"""Allocate tensors of the shapes of ``accounting``, on the device or in host memory that a GPU can read."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from lrqk_cli.errors import HostMemoryError, PinningError
from lrqk_cli.memory.accounting import TensorShape
from lrqk_cli.memory.exhaustion import is_out_of_memory
from lrqk_cli.memory.units import format_bytes


def empty(shape: TensorShape, device: torch.device) -> Tensor:
    """Return an uninitialised tensor of that shape."""
    return torch.empty(shape.shape, dtype=getattr(torch, shape.dtype), device=device)


def empty_host(shape: TensorShape, *, pinned: bool) -> Tensor:
    """Return an uninitialised tensor in host memory.

    Pinned memory is registered at its exact size; torch's own allocator would round it up to a power of two.

    Raises:
        HostMemoryError: the host memory cannot be allocated.
        PinningError: it cannot be pinned.
    """
    try:
        tensor = torch.empty(shape.shape, dtype=getattr(torch, shape.dtype))
    except RuntimeError:
        raise HostMemoryError(
            f"A layer needs {format_bytes(shape.nbytes)} of host memory that is not there.",
            "Lower `context`, or close other programs.",
        ) from None
    if pinned and tensor.nbytes:
        _register(tensor)
    return tensor


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor in float32 that can be copied to the device without waiting: on CUDA, pinned.

    Where no more memory can be pinned, the copy waits.
    """
    tensor = tensor.float()
    return empty_staging(tensor, device).copy_(tensor) if device.type == "cuda" else tensor


def empty_staging(like: Tensor, device: torch.device) -> Tensor:
    """Return uninitialised host memory for a copy of a tensor: pinned for CUDA, if it can be."""
    if device.type == "cuda":
        try:
            return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return torch.empty(like.shape, dtype=like.dtype)


def arrival(device: torch.device) -> Callable[[], object]:
    """Return a function for any thread, which waits until the current stream has come to this point.

    Whatever was copied to the host before has then arrived. Waiting threads sleep, so many of them do not
    slow down the one that feeds the device.
    """
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event.synchronize


def _register(tensor: Tensor) -> None:
    runtime = torch.cuda.cudart()
    address = tensor.data_ptr()
    code = int(runtime.cudaHostRegister(address, tensor.nbytes, 0))
    if code != 0:
        # CUDA keeps the error for whoever asks next, which is torch after its next kernel.
        with suppress(RuntimeError):
            torch.zeros(1, device="cuda")
        raise PinningError(
            f"{format_bytes(tensor.nbytes)} of host memory cannot be pinned (CUDA error {code}).",
            "Lower `context`, or raise the limit on locked memory (ulimit -l).",
        )
    weakref.finalize(tensor.untyped_storage(), runtime.cudaHostUnregister, address)
