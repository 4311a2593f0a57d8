"""Host memory in large pages, of which a GPU reads single rows fast.

CUDA maps pinned memory on the GPU in pages of 4 KiB, so each row needs an address translation of its own.
Other traffic soon pushes these out of the GPU's caches, and then they take longer than the rows. Managed
memory, which CPU and GPU have in common, is mapped in pages of 2 MiB, where the system finds such. Told to
stay on the host, it is read across the link as pinned memory is; docs/experiments.md has figures.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from lrqk_cli.memory.accounting import TensorShape

# Guards the two below. A collection of garbage may free memory within any call, so the lock lets it in.
_lock = RLock()
# The captures of graphs that are under way, and what to free after the last.
_captures = set[object]()
_waiting = list[tuple[Any, Any, int]]()


class _RefusalError(Exception):
    """The driver has refused a call."""


# The environment variable that turns managed memory off, and the words that do.
_VARIABLE, _OFF = "LRQK_MANAGED_MEMORY", {"0", "false", "no", "off"}

# What calls raise where the driver or its bindings are older, or lack a function.
_FAILURES = (_RefusalError, ImportError, AttributeError, RuntimeError, TypeError)


def has_managed(device: torch.device) -> bool:
    """Return whether CPU and GPU can use managed memory at the same time, and calls for it are there.

    The package ``cuda-bindings`` has them; torch's CUDA builds bring it. Windows and WSL have no such memory.
    ``LRQK_MANAGED_MEMORY=0`` says that there is none, for a driver that has trouble with it.
    """
    if device.type != "cuda" or os.environ.get(_VARIABLE, "").strip().lower() in _OFF:
        return False
    try:
        driver = import_module("cuda.bindings.driver")
        both = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS
        with torch.cuda.device(device):
            return bool(_call(driver.cuDeviceGetAttribute, both, torch.cuda.current_device()))
    except _FAILURES:
        return False


def empty_managed(shape: TensorShape, device: torch.device) -> Tensor | None:
    """Return an uninitialised CPU tensor in managed memory that stays on the host, for a CUDA device.

    Kernels take it as they take pinned memory (``kernels.copy_rows``); torch's own copies would wait. None if
    there is none, see ``has_managed``, or if the driver finds not enough memory.
    """
    if not shape.nbytes or not has_managed(device):
        return None
    driver = import_module("cuda.bindings.driver")
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream(device)
        stream.synchronize()
        try:
            context = _call(driver.cuCtxGetCurrent)
            address = _allocate(driver, shape.nbytes, torch.cuda.current_device(), stream.cuda_stream)
        except _FAILURES:
            return None
    block = (ctypes.c_ubyte * shape.nbytes).from_address(address)
    rows = torch.frombuffer(block, dtype=torch.uint8).view(getattr(torch, shape.dtype)).view(shape.shape)
    # At the end of the process, other threads may still write these rows to the disk.
    weakref.finalize(rows.untyped_storage(), _free, driver, context, address).atexit = False
    return rows


@contextmanager
def freeing_later() -> Iterator[None]:
    """Free what is dropped meanwhile at the end: freeing waits for the device, which spoils a capture."""
    capture = object()
    try:
        with _lock:
            _captures.add(capture)
        yield
    finally:
        with _lock:
            _captures.discard(capture)
            while _waiting and not _captures:
                _free(*_waiting[-1])
                _waiting.pop()


def _free(driver: Any, context: Any, address: int) -> None:
    """Free managed memory when nothing reads it any more, and no graph is captured.

    Any thread may be the last to have used it.
    """
    with _lock:
        if _captures:
            _waiting.append((driver, context, address))
            return
        driver.cuCtxPushCurrent(context)
        driver.cuCtxSynchronize()
        driver.cuMemFree(address)
        driver.cuCtxPopCurrent()


def _allocate(driver: Any, size: int, device: int, stream: int) -> int:
    """Return the address of managed memory, all of whose pages are on the host.

    Raises:
        _RefusalError: there is none.
    """
    host, gpu = driver.CUmemLocation(), driver.CUmemLocation()
    kinds, advice = driver.CUmemLocationType, driver.CUmem_advise
    host.type, host.id = kinds.CU_MEM_LOCATION_TYPE_HOST, 0
    gpu.type, gpu.id = kinds.CU_MEM_LOCATION_TYPE_DEVICE, device
    # Since CUDA 13 the functions without a number are what these were.
    advise = getattr(driver, "cuMemAdvise_v2", driver.cuMemAdvise)
    prefetch = getattr(driver, "cuMemPrefetchAsync_v2", driver.cuMemPrefetchAsync)
    attached = driver.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL
    address = int(_call(driver.cuMemAllocManaged, size, int(attached)))
    try:
        _call(advise, address, size, advice.CU_MEM_ADVISE_SET_PREFERRED_LOCATION, host)
        _call(advise, address, size, advice.CU_MEM_ADVISE_SET_ACCESSED_BY, gpu)
        # Pages come into being here, where a lack of them is an error; at a first access it is a signal.
        _call(prefetch, address, size, host, 0, stream)
        _call(driver.cuStreamSynchronize, stream)
    except BaseException:
        driver.cuMemFree(address)
        raise
    return address


def _call(function: Any, *arguments: Any) -> Any:
    """Call a function of the driver; return its result.

    Raises:
        _RefusalError: it says so.
    """
    code, *results = function(*arguments)
    if int(code) != 0:
        raise _RefusalError
    return results[0] if results else None
