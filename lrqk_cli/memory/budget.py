"""How much memory a plan may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lrqk_cli.memory import machine
from lrqk_cli.memory.estimate import CUDA_CONTEXT_BYTES
from lrqk_cli.memory.limits import free_host_bytes

if TYPE_CHECKING:
    import torch

# Without a limit by the user, an eighth of the free host memory is left to other programs.
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
    """Return the free bytes of a device and its host, before a model is loaded.

    Args:
        vram: a limit for the device; with a CPU, the memory of an imagined GPU.
        ram: a limit for the host.
    """
    from lrqk_cli.memory import probe

    host = host_budget(ram)
    if device.type == "cpu":
        return Budget(vram, host)
    # Before CUDA starts, the driver reports free memory without our CUDA context, which plans add themselves.
    seen = machine.detect_machine() if device.type == "cuda" else None
    free = seen.free if seen is not None and seen.device == str(device) else None
    free = probe.free_device_bytes(device) if free is None else free
    return Budget(free if vram is None else min(vram, free), host)


def host_budget(ram: int | None = None) -> int:
    """Return the most bytes of host memory to use: the free bytes without a share for other programs.

    Limits of the process and of its control group count, see ``limits``.

    Args:
        ram: a limit that replaces this share.
    """
    free = free_host_bytes(keeps_libraries=True)
    return free - free // _LEFT_TO_OTHERS if ram is None else min(ram, free)


def available(device: torch.device, held: int) -> Budget:
    """Return the bytes that are free or a loaded model's own.

    Args:
        held: bytes of the model in host memory.
    """
    from lrqk_cli.memory import probe

    host = host_budget() + held
    if device.type == "cpu":
        return Budget(None, host)
    own = probe.allocated_bytes(device) + CUDA_CONTEXT_BYTES
    return Budget(probe.free_device_bytes(device) + own, host)
