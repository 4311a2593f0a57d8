"""What memory there is and what is in use, on the host and on the device."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import psutil
import torch

_PROC_STATUS = Path("/proc/self/status")
_PROC_CLEAR = Path("/proc/self/clear_refs")


def total_host_bytes() -> int:
    """Return the host memory of this machine."""
    return int(psutil.virtual_memory().total)


def free_host_bytes() -> int:
    """Return the host memory that programs can still have."""
    return int(psutil.virtual_memory().available)


def free_device_bytes(device: torch.device) -> int:
    """Return the memory that can still be allocated on the device; for a CPU, host memory.

    A cap set by ``torch.cuda.set_per_process_memory_fraction`` counts.
    """
    if device.type != "cuda":
        return free_host_bytes()
    free, total = torch.cuda.mem_get_info(device)
    cap = int(total * torch.cuda.get_per_process_memory_fraction(device))
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return max(0, min(free + reserved - allocated, cap - allocated))


def total_device_bytes(device: torch.device) -> int:
    """Return the memory of the device; for a CPU, host memory."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else total_host_bytes()


def allocated_bytes(device: torch.device) -> int:
    """Return the bytes allocated on the device; for a CPU, the process's resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """Return the most that was allocated since ``reset_peak``; for a CPU, the most resident memory."""
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


def reset_peak(device: torch.device) -> None:
    """Start a new peak, where the device or the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _PROC_CLEAR.exists():
        with contextlib.suppress(OSError):
            _PROC_CLEAR.write_text("5")
