"""Measure the size, the use and the bandwidth of memory, on the host and on the device."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from lrqk_cli.memory.accounting import TensorShape
from lrqk_cli.memory.limits import free_host_bytes
from lrqk_cli.memory.roofline import Bandwidth
from lrqk_cli.memory.tensors import empty_host

_PROC_STATUS = Path("/proc/self/status")
_PROC_CLEAR = Path("/proc/self/clear_refs")

# Bytes moved to measure a bandwidth: more than caches hold, but few enough for a fraction of a second.
_DEVICE_COPY, _HOST_READ, _LINK_COPY = 1 << 30, 1 << 29, 1 << 28
_LEAST_COPY = 1 << 20
_ATTEMPTS, _MOVES_IN_A_ROW = 3, 8
_COLUMNS = 4096


def total_host_bytes() -> int:
    """Return the bytes of host memory of this machine."""
    return int(psutil.virtual_memory().total)


def free_device_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on the device; for a CPU, in host memory.

    A cap set by ``torch.cuda.set_per_process_memory_fraction`` limits them.
    """
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type != "cuda":
        return free_host_bytes()
    free, total = torch.cuda.mem_get_info(device)
    cap = int(total * torch.cuda.get_per_process_memory_fraction(device))
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return max(0, min(free + reserved - allocated, cap - allocated))


def total_device_bytes(device: torch.device) -> int:
    """Return the bytes of the device's memory; for a CPU, of host memory."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else total_host_bytes()


def allocated_bytes(device: torch.device) -> int:
    """Return the bytes allocated on the device; for a CPU, the process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes allocated since ``reset_peak``; for a CPU, the peak of resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if _PROC_STATUS.exists():
        # Unlike the peak of getrusage, this one can be reset.
        lines = _PROC_STATUS.read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def peak_reserved_bytes(device: torch.device) -> int | None:
    """Return the most bytes that torch's allocator held since ``reset_peak``; None except on CUDA devices."""
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else None


def driver_bytes(device: torch.device, free_before: int) -> int | None:
    """Return the bytes of the CUDA context and the loaded kernels, if no other process uses the device.

    Args:
        free_before: bytes that were free before CUDA started.

    Returns:
        None except on CUDA devices.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, free_before - int(free) - int(torch.cuda.memory_reserved(device)))


def reset_peak(device: torch.device) -> None:
    """Reset the peak, if the device or the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROC_CLEAR.exists():
        with contextlib.suppress(OSError):
            _PROC_CLEAR.write_text("5")


def bandwidth(device: torch.device) -> Bandwidth:
    """Measure the bandwidths of a device.

    Raises:
        OutOfMemoryError: host memory cannot be pinned.
    """
    return Bandwidth(memory_bandwidth(device), link_bandwidth(device))


def memory_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a device reads and writes when it copies within its own memory.

    On a CPU, measure the reads of a matrix-vector product, as in a decode step: a copy is slower there, since
    it also reads the memory that it overwrites.
    """
    if device.type != "cpu":
        size = _copy_size(device, _DEVICE_COPY)
        source = torch.zeros(size, dtype=torch.uint8, device=device)
        return 2 * size / _copy_seconds(source, torch.empty_like(source))
    # Ones, because all pages that were never written are mapped to one physical page.
    matrix = torch.ones(_copy_size(device, _HOST_READ) // (4 * _COLUMNS), _COLUMNS)
    vector, product = torch.ones(_COLUMNS), torch.empty(len(matrix))
    return matrix.nbytes / _best_seconds(lambda: torch.mv(matrix, vector, out=product), device)


def link_bandwidth(device: torch.device) -> float | None:
    """Measure the bytes per second copied from pinned host memory; None except on CUDA devices.

    Raises:
        OutOfMemoryError: host memory cannot be pinned.
    """
    if device.type != "cuda":
        return None
    size = _copy_size(device, _LINK_COPY)
    source = empty_host(TensorShape((size,), "uint8"), pinned=True)
    return size / _copy_seconds(source, torch.empty(size, dtype=torch.uint8, device=device))


def _copy_size(device: torch.device, wanted: int) -> int:
    return max(_LEAST_COPY, min(wanted, free_device_bytes(device) // 4))


def _copy_seconds(source: torch.Tensor, target: torch.Tensor) -> float:
    return _best_seconds(lambda: target.copy_(source, non_blocking=True), target.device)


def _best_seconds(move: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several moves, without the first, which maps pages."""
    # A GPU moves several times per measurement, because waiting for it takes time too.
    moves = _MOVES_IN_A_ROW if device.type == "cuda" else 1
    times = []
    for _ in range(1 + _ATTEMPTS):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(moves):
            move()
        synchronise(device)
        times.append((time.perf_counter() - began) / moves)
    return min(times[1:])


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
