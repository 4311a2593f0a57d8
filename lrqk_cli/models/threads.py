"""Sets the number of CPU threads of torch, and how they wait for each other."""

from __future__ import annotations

import os

from lrqk_cli.errors import UsageError
from lrqk_cli.memory.cpus import cpu_quota


def wait_asleep() -> None:
    """Let waiting threads sleep; call this before torch is imported, which reads the variables.

    By default waiting threads spin and block the cores: two chats on one machine then decode at less than a
    tenth of the speed. Variables that the user has set win.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # GNU's library
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's


def use_threads(wanted: int | None) -> int:
    """Set the number of torch's threads, and return it.

    None takes torch's default, limited by the container's CPU quota: more threads would only wait.

    Raises:
        UsageError: ``wanted`` is less than 1.
    """
    import torch

    if wanted is not None and wanted < 1:
        raise UsageError("`threads` must be at least 1.")
    chosen = wanted or min(torch.get_num_threads(), cpu_quota() or torch.get_num_threads())
    if chosen != torch.get_num_threads():
        torch.set_num_threads(chosen)
    return chosen
