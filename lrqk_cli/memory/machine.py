"""Detect the device to compute on without importing torch, which takes seconds."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lrqk_cli.upstream import installed_version

_CPU_INFO = Path("/proc/cpuinfo")
_Answer = TypeVar("_Answer")

# Published memory bandwidths in bytes per second, by a part of the driver's name for the GPU; longer names
# come first.
_BANDWIDTHS: Mapping[str, float] = {
    "RTX 3060": 360e9,
    "RTX 3090 Ti": 1008e9,
    "RTX 3090": 936e9,
    "RTX 4060 Ti": 288e9,
    "RTX 4060": 272e9,
    "RTX 4070 Ti SUPER": 672e9,
    "RTX 4070": 504e9,
    "RTX 4080": 717e9,
    "RTX 4090": 1008e9,
    "RTX 5070 Ti": 896e9,
    "RTX 5070": 672e9,
    "RTX 5080": 960e9,
    "RTX 5090": 1792e9,
    "H100 80GB HBM3": 3350e9,
    "H100 PCIe": 2000e9,
    "H200": 4800e9,
    "A10": 600e9,
    "L4": 300e9,
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A device.

    Attributes:
        device: as in ``torch.device``.
        name: the name of a GPU; None for a CPU.
        total, free: bytes of a GPU's memory; None for a CPU.
        has_bfloat16: whether it computes in bfloat16 without emulation.
        bandwidth: published memory bandwidth in bytes per second; None if unknown.
    """

    device: str
    name: str | None
    total: int | None
    free: int | None
    has_bfloat16: bool
    bandwidth: float | None

    @property
    def dtype(self) -> str:
        """The element type of computations, unless the user gives one."""
        if self.has_bfloat16:
            return "bfloat16"
        return "float16" if self.name else "float32"


def detect_machine(device: str | None = None) -> Machine | None:
    """Return the device that torch would compute on.

    Args:
        device: ``cpu``, or None for the best device.

    Returns:
        None if only torch can tell: another device, several GPUs, a part of a GPU, or a system other than
        Linux on x86.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64" or device not in (None, "auto", "cpu"):
        return None
    if device == "cpu" or not _torch_has_cuda():
        return _cpu()
    gpus = _ask_driver(lambda nvml: [_gpu(nvml, number) for number in range(nvml.nvmlDeviceGetCount())])
    if not gpus:
        return _cpu()
    if len(gpus) != 1 or os.environ.get("CUDA_VISIBLE_DEVICES", "0") != "0":
        return None
    return gpus[0]


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None without a driver."""
    return _ask_driver(lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))


def bandwidth_of(name: str) -> float | None:
    """Return the published memory bandwidth of a GPU in bytes per second; None if unknown."""
    # The spaces let a part match whole words only.
    words = f" {name.replace('NVIDIA', '').strip()} ".lower().replace("geforce ", "")
    return next((speed for part, speed in _BANDWIDTHS.items() if f" {part} ".lower() in words), None)


def _cpu() -> Machine | None:
    try:
        flags = _CPU_INFO.read_text(encoding="utf-8").split("\nflags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return None
    return Machine("cpu", None, None, None, bool({"avx512_bf16", "amx_tile"} & set(flags)), None)


def _torch_has_cuda() -> bool:
    found = installed_version("torch")
    return found is not None and not found.endswith("+cpu")


def _ask_driver(question: Callable[[Any], _Answer]) -> _Answer | None:
    """Ask NVML, the driver's library, without starting CUDA; return None without a driver, or if it fails."""
    import pynvml  # takes 25 ms, which machines without a GPU save

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    return None


def _gpu(nvml: Any, number: int) -> Machine | None:
    """Return a GPU; None if it is partitioned (MIG), or if the driver does not report all of it."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        name, memory = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetMemoryInfo(handle)
        capability = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        with suppress(nvml.NVMLError):  # most GPUs have no MIG
            if nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE:
                return None
    except nvml.NVMLError:
        return None
    has_bfloat16 = capability >= (8, 0)
    return Machine(f"cuda:{number}", name, memory.total, memory.free, has_bfloat16, bandwidth_of(name))
