"""How much memory a plan may count on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psutil

from lrqk_cli.memory import machine

if TYPE_CHECKING:
    import torch

# Of the host memory that is free, an eighth is left to other programs where the user does not say.
_LEFT_TO_OTHERS = 8


class Budget(NamedTuple):
    """Bytes that are free.

    Attributes:
        vram: on the device; None for a CPU, which has host memory only.
        ram: on the host.
    """

    vram: int | None
    ram: int


def find_budget(device: torch.device, vram: int | None = None, ram: int | None = None) -> Budget:
    """Find out what is free on a device and its host, before a model is loaded.

    Args:
        vram: limits the device's; for a CPU it stands for a GPU's memory that is not there.
        ram: limits the host's.
    """
    from lrqk_cli.memory import probe

    host = host_budget(ram)
    if device.type == "cpu":
        return Budget(vram, host)
    # A driver that is asked before CUDA starts knows what is free without our context, which plans count.
    seen = machine.detect_machine() if device.type == "cuda" else None
    is_same = seen is not None and seen.device == str(device)
    free = seen.free if seen is not None and is_same else None
    free = probe.free_device_bytes(device) if free is None else free
    return Budget(free if vram is None else min(vram, free), host)


def host_budget(ram: int | None = None) -> int:
    """Return the bytes of host memory to use at most: what is free, less what other programs may need.

    Args:
        ram: limits it to so many of the free ones instead.
    """
    free = int(psutil.virtual_memory().available)
    return free - free // _LEFT_TO_OTHERS if ram is None else min(ram, free)
