"""Gives each fork of this process, and of its forks, torch threads of its own; imported for that alone.

PyTorch replaces the pool of a forked process when it is asked for first, and without a lock: another thread
that asks meanwhile finds none ("Invalid thread pool!"). So it is asked for while the fork has one thread.
"""

from __future__ import annotations

import os

import torch


def _renew() -> None:
    torch.set_num_threads(torch.get_num_threads())


os.register_at_fork(after_in_child=_renew)
