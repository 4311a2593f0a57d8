"""Chooses the device and the dtype of a model."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from lrqk_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
    "float32": "float32",
    "fp32": "float32",
}


def choose_device(requested: str | None = None) -> torch.device:
    """The requested device, or the best available: CUDA, then Apple's GPU, then the CPU.

    Raises:
        UsageError: there is no such device.
    """
    import torch

    if requested is None or requested == "auto":
        if torch.cuda.is_available():
            # ``torch.cuda.current_device`` would start CUDA, whose context takes memory.
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"There is no device '{requested}'.", "Choose cpu, cuda, cuda:1 or mps.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.index if device.index is not None else 0
        if index >= count:
            raise UsageError(
                f"There is no device '{requested}': torch sees {count} CUDA devices.",
                "Choose cpu, or install a torch built for your GPU.",
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"There is no device '{requested}' on this machine.", "Choose cpu.")
    return torch.device(device.type)


def choose_dtype(
    requested: str | None, device: torch.device, published: torch.dtype | None = None
) -> torch.dtype:
    """The requested dtype, or the best one for the device.

    A GPU gets the published 16-bit dtype, but bfloat16 only if it supports it; a CPU gets bfloat16 if its
    cores multiply bfloat16, otherwise float32.

    Args:
        published: the dtype that the model's config names.

    Raises:
        UsageError: there is no such dtype.
    """
    import torch

    if requested is not None and requested != "auto":
        if requested not in _DTYPES:
            raise UsageError(f"There is no dtype '{requested}'.", "Choose bfloat16, float16 or float32.")
        chosen: torch.dtype = getattr(torch, _DTYPES[requested])
        return chosen
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_has_fast_bfloat16() else torch.float32
    if published is torch.float16 or not _gpu_has_bfloat16(device):
        return torch.float16
    return torch.bfloat16


def resolve_device_dtype(
    device: str | None, dtype: str | None, published: str | None
) -> tuple[torch.device, torch.dtype]:
    """Return device and dtype for a model; ``published`` is the dtype that its config names, if any.

    Raises:
        UsageError: there is no such device or dtype.
    """
    import torch

    chosen = choose_device(device)
    known = getattr(torch, published, None) if published else None
    return chosen, choose_dtype(dtype, chosen, known if isinstance(known, torch.dtype) else None)


def _gpu_has_bfloat16(device: torch.device) -> bool:
    import torch

    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    # Older GPUs emulate bfloat16, which is slow.
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _cpu_has_fast_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 products; torch has no public function for this."""
    import torch

    if platform.machine().lower() in ("arm64", "aarch64"):
        question = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(question and question())
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, question, bool)()) for question in questions)
