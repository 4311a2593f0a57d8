"""Torch's threads in a fork of a process that has used them."""

from __future__ import annotations

import torch


def renew() -> None:
    """Give this fork a pool of threads of its own, before a second thread of it computes.

    PyTorch replaces the pool of a forked process when it is asked for first, and without a lock: another
    thread that asks meanwhile finds none ("Invalid thread pool!").
    """
    torch.set_num_threads(torch.get_num_threads())
