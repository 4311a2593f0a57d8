"""Fixtures for all tests. Triton's kernels run compiled where there is a GPU, else in its interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Read when Triton is imported, which transformers does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real documents: ``LRQK_TEST_DATA``, else ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LRQK_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("the shared test data is absent: point LRQK_TEST_DATA at it")
    return folder
