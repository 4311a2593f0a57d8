"""Allocate tensors of the shapes of ``accounting``, on the device or in host memory that a GPU can read."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.accounting import TensorShape


def empty(shape: TensorShape, device: torch.device) -> Tensor:
    """Return an uninitialised tensor of that shape."""
    return torch.empty(shape.shape, dtype=getattr(torch, shape.dtype), device=device)


def empty_host(shape: TensorShape, *, pinned: bool) -> Tensor:
    """Return an uninitialised tensor in host memory.

    Pinned memory is registered at its exact size; torch's own allocator would round it up to a power of two.

    Raises:
        OutOfMemoryError: the host memory cannot be allocated or pinned.
    """
    try:
        tensor = torch.empty(shape.shape, dtype=getattr(torch, shape.dtype))
    except RuntimeError as error:
        raise OutOfMemoryError(
            f"A layer needs {shape.nbytes / 2**30:.1f} GiB of host memory that is not there.",
            "Lower `context`, or close other programs.",
        ) from error
    if pinned and tensor.nbytes:
        _register(tensor)
    return tensor


def staged(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor in float32 that can be copied to the device without waiting: on CUDA, pinned."""
    tensor = tensor.float()
    return tensor.pin_memory() if device.type == "cuda" else tensor


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
        raise OutOfMemoryError(
            f"{tensor.nbytes / 2**30:.1f} GiB of host memory cannot be pinned (CUDA error {code}).",
            "Lower `context`, or raise the limit on locked memory (ulimit -l).",
        )
    weakref.finalize(tensor.untyped_storage(), runtime.cudaHostUnregister, address)
