"""How many threads compute, and how they wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from lrqk_cli.errors import UsageError
from lrqk_cli.memory.cpus import cpu_quota
from lrqk_cli.models import threads


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_asked_for_is_used() -> None:
    assert threads.use_threads(3) == 3 == torch.get_num_threads()
    with pytest.raises(UsageError, match="at least 1"):
        threads.use_threads(0)


@pytest.mark.parametrize(("quota", "used"), [(None, 4), (2, 2), (9, 4)])
def test_a_quota_is_the_most(monkeypatch: pytest.MonkeyPatch, quota: int | None, used: int) -> None:
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert threads.use_threads(None) == used == torch.get_num_threads()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_a_control_group(tmp_path, files: dict[str, str], quota: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_who_says_how_threads_wait_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("KMP_BLOCKTIME", raising=False)
    threads.wait_asleep()
    assert threads.os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert threads.os.environ["KMP_BLOCKTIME"] == "0"
