"""All kernels compile for the GPUs that people have, which the interpreter does not tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from lrqk_cli.kernels.primitives import TRITON_RELEASE

# Compute capability, and bytes of shared memory that a program may have: RTX 30 series (and 40). Larger cards
# have more of it.
CAPABILITY, SHARED = 86, 101_376
# The first with dependent launches.
DEPENDENT_CAPABILITY = 90
KERNELS = {
    "_append", "_copy", "_dequantise", "_encode", "_fit_scales", "_fit_scales_and_minima", "_fixed_point",
    "_gated_gemv", "_gemv", "_merge", "_normalise", "_packed_experts_gemv", "_packed_gated_gemv",
    "_packed_gemv", "_quantise", "_replace", "_rotate", "_score", "_sum_masses", "_sum_products",
    "_sum_shares", "_unpack_rows", "_weigh_block", "attend_split", "bin_tokens", "combine_splits",
    "count_missing", "list_fetches",
}  # fmt: skip


# Kernels outside of decode steps, and one that is slower as a dependent launch.
INDEPENDENT = {
    "_copy", "_dequantise", "_encode", "_fit_scales", "_fit_scales_and_minima", "_merge", "_replace",
    "_sum_products", "_unpack_rows", "bin_tokens",
}  # fmt: skip


def compiled(*arguments: str) -> dict[str, dict[str, Any]]:
    script = Path(__file__).with_name("compile_kernels.py")
    # The GPUs of this machine are not those that the kernels are compiled for.
    environment = {**os.environ, "TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_kernels_compile_within_the_shared_memory() -> None:
    found = compiled(str(CAPABILITY))
    shared = {name: kernel["shared"] for name, kernel in found.items()}
    # A tile of codes in shared memory would take 8 KiB.
    assert shared.pop("_score of packed codes") < 4096
    assert set(shared) == KERNELS
    assert max(shared.values()) <= SHARED, shared
    # These GPUs have no dependent launches.
    assert not any(kernel["is_dependent"] or kernel["waits_first"] for kernel in found.values())


@pytest.mark.skipif(TRITON_RELEASE < (3, 6), reason="not before Triton 3.6")
def test_dependent_launches_wait_before_they_touch_memory() -> None:
    found = compiled(str(DEPENDENT_CAPABILITY), "briefly")
    assert {name for name, kernel in found.items() if not kernel["is_dependent"]} == INDEPENDENT
    assert all(kernel["waits_first"] for kernel in found.values() if kernel["is_dependent"])
