"""Launches whose programs start while the launch before them ends: CUDA's programmatic dependent launch.

Between two launches a GPU is idle for up to a microsecond, some 400 times a step. A dependent launch takes
its place on the GPU meanwhile, and waits there. docs/experiments.md has figures.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lrqk_cli.kernels.primitives import TRITON_RELEASE
from lrqk_cli.memory.machine import driver_version

# The oldest release of Triton with which this was measured.
_RELEASE = (3, 6)
# The compute capability that has such launches (H100, and RTX 50 series), and NVIDIA's driver that captures
# them in graphs, of CUDA 12.3.
_CAPABILITY, _DRIVER = 90, 545


def _has_dependent_launches() -> bool:
    """Return whether all GPUs have such launches: which of them runs a kernel is decided later."""
    if TRITON_RELEASE < _RELEASE or triton.knobs.runtime.interpret:
        return False
    try:
        target = triton.runtime.driver.active.get_current_target()
    except RuntimeError:
        return False  # there is no GPU
    capabilities = [torch.cuda.get_device_capability(number) for number in range(torch.cuda.device_count())]
    found = [10 * major + minor for major, minor in capabilities]
    if target.backend != "cuda" or min([target.arch, *found]) < _CAPABILITY:
        return False
    return int((driver_version() or "0").partition(".")[0]) >= _DRIVER


_IS_DEPENDENT = tl.constexpr(_has_dependent_launches())
# What a dependent launch has among its arguments.
DEPENDENT: dict[str, bool] = {"launch_pdl": True} if _IS_DEPENDENT.value else {}


@triton.jit
def await_launch_before():
    """Wait until the launch before has ended, so that its results can be read; then let the next one start.

    Every kernel that is launched so begins with it. So when the launch before has ended, it has waited for
    its own predecessor, and all earlier launches have ended too.
    """
    if _IS_DEPENDENT:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
