"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real documents: ``LRQK_TEST_DATA``, else ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LRQK_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("the shared test data is absent: point LRQK_TEST_DATA at it")
    return folder
