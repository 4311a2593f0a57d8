"""The CPUs that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

from lrqk_cli.memory.control_groups import group_folders


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, by its affinity and its control group's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, cpu_quota() or allowed))


def cpu_quota(root: Path | None = None, own: Path | None = None) -> int | None:
    """Return the CPUs that the control group may use, and each around it, rounded up; None without a limit.

    Args:
        root, own: see ``group_folders``.
    """
    quotas = map(_quota_of, group_folders("cpu", root, own))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(folder: Path) -> int | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None
