"""How many CPU threads torch computes with, and how they wait for each other."""

from __future__ import annotations

import math
import os
from pathlib import Path

from lrqk_cli.errors import UsageError

_CGROUP = Path("/sys/fs/cgroup")


def wait_asleep() -> None:
    """Let threads that wait for others sleep; torch, which is still to be imported, reads this then.

    By default they spin, and take the cores from whatever else would run: two chats on one machine then
    decode at less than a tenth of the speed. Variables that the user has set win.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # GNU's library
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's


def use_threads(wanted: int | None) -> int:
    """Let torch compute with so many threads, and return how many it uses.

    None takes what torch chooses, at most as many as the container's CPU quota pays for: more would only
    wait for it.

    Raises:
        UsageError: fewer than one.
    """
    import torch

    if wanted is not None and wanted < 1:
        raise UsageError("`threads` must be at least 1.")
    chosen = wanted or min(torch.get_num_threads(), cpu_quota() or torch.get_num_threads())
    if chosen != torch.get_num_threads():
        torch.set_num_threads(chosen)
    return chosen


def cpu_quota(root: Path = _CGROUP) -> int | None:
    """Return the CPUs that the control group may use, rounded up; None where there is no limit.

    Args:
        root: where control groups are mounted, of either version.
    """
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
