"""Fixtures for all tests. Triton's kernels run compiled where there is a GPU, else in its interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import fake_chat
import pytest
import torch
from residents import solver_threads

from lrqk_cli.chat.session import Session

# Every worker has a processor of its own; so has what it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when Triton is imported, which transformers does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_report_header() -> str:
    """Say what the kernels run on."""
    if find_spec("triton") is None:
        return "kernels: not tested, triton is not installed"
    if torch.cuda.is_available():
        return f"kernels: compiled for {torch.cuda.get_device_name()}"
    return "kernels: in Triton's interpreter, since there is no GPU; tests marked gpu are skipped"


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Iterator[Path]:
    """The folder of announced servers: none of the developer answers a test."""
    # A socket's path may have about a hundred characters, which folders of pytest's can exceed.
    with TemporaryDirectory(prefix="lrqk-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real documents: ``LRQK_TEST_DATA``, else ``shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("LRQK_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("the shared test data is absent: point LRQK_TEST_DATA at it")
    return folder


@pytest.fixture
def solvers_end() -> Iterator[None]:
    """No solving thread is left after a test, and torch has as many threads as before."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
    assert solver_threads() == []


@pytest.fixture
def fake_document() -> type[fake_chat.FakeDocument]:
    return fake_chat.FakeDocument


@pytest.fixture
def fake_engine() -> type[fake_chat.FakeEngine]:
    return fake_chat.FakeEngine


@pytest.fixture
def new_session() -> Callable[..., Session]:
    return fake_chat.new_session
