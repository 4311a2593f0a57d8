"""All kernels compile for the GPUs that people have, which the interpreter does not tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

# Compute capability, and bytes of shared memory that a program may have: RTX 30 series (and 40). Larger cards
# have more of it.
CAPABILITY, SHARED = 86, 101_376
KERNELS = {
    "_append", "_copy", "_dequantise", "_encode", "_fit_scales", "_fit_scales_and_minima", "_fixed_point",
    "_gated_gemv", "_gemv", "_merge", "_normalise", "_packed_experts_gemv", "_packed_gated_gemv",
    "_packed_gemv", "_quantise", "_replace", "_rotate", "_score", "_sum_masses", "_sum_products",
    "_sum_shares", "_unpack_rows", "_weigh_block", "attend_split", "bin_tokens", "combine_splits",
    "count_missing", "list_fetches",
}  # fmt: skip


def test_kernels_compile_within_the_shared_memory() -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, str(script), str(CAPABILITY)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout.splitlines()[-1])
    # A tile of codes in shared memory would take 8 KiB.
    assert shared.pop("_score of packed codes") < 4096
    assert set(shared) == KERNELS
    assert max(shared.values()) <= SHARED, shared
