"""The host memory that this process can still take: of the machine, its control group, and its own limits."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from lrqk_cli.memory.control_groups import group_folders

# What libraries and threads take from a plan to the first answer, of address space and of private memory:
# about 260 and 160 MiB with a tiny model on two cores, more with more threads.
_LIBRARY_SPACE, _LIBRARY_DATA = 512 << 20, 256 << 20


def free_host_bytes(*, keeps_libraries: bool = False) -> int:
    """Return the bytes of host memory that this process can still have.

    Args:
        keeps_libraries: leave room within the process's limits for libraries that are not loaded yet.
    """
    rooms = (int(psutil.virtual_memory().available), group_room(), process_room(keeps_libraries))
    return max(0, min(room for room in rooms if room is not None))


def group_room(root: Path | None = None, own: Path | None = None) -> int | None:
    """Return the bytes that the control group may still take, and each around it; None without a limit.

    What the system keeps of files, and would give up, does not count as taken.

    Args:
        root, own: see ``group_folders``.
    """
    rooms = map(_room_of, group_folders("memory", root, own))
    return min((room for room in rooms if room is not None), default=None)


def _room_of(folder: Path) -> int | None:
    try:
        if (folder / "memory.max").exists():
            limit, used, files = "memory.max", "memory.current", "inactive_file"
        else:
            limit, used, files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        most, taken = (int((folder / name).read_text()) for name in (limit, used))
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - taken + next(int(value) for name, value in lines if name == files)
    except (OSError, ValueError, StopIteration):  # "max" is no number
        return None


def process_room(keeps_libraries: bool = False) -> int | None:
    """Return the bytes that can be taken within this process's own limits (ulimit -v, -d); None without."""
    if sys.platform != "linux":
        return None
    import resource

    used = psutil.Process().memory_info()
    limits = (
        (resource.RLIMIT_AS, used.vms + keeps_libraries * _LIBRARY_SPACE),
        (resource.RLIMIT_DATA, used.data + keeps_libraries * _LIBRARY_DATA),
    )
    rooms = [
        limit - taken
        for kind, taken in limits
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    return min(rooms, default=None)
