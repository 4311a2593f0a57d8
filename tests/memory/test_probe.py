"""Bandwidths that are measured, and a cap on the device's memory."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.errors import UsageError
from lrqk_cli.memory import cap, probe

CPU = torch.device("cpu")


def test_a_cpu_reads_as_a_decode_step_does_and_the_first_time_does_not_count(monkeypatch):
    seconds = iter([0.0, 9.0, 0.0, 0.5, 0.0, 0.25, 0.0, 1.0])
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(probe, "free_device_bytes", lambda _: 1 << 24)
    assert probe.memory_bandwidth(CPU) == (1 << 22) / 0.25


def test_the_bandwidth_of_this_machine_is_plausible():
    assert 1e8 < probe.memory_bandwidth(CPU) < 1e13


def test_a_cpu_has_no_link_to_cross():
    assert probe.link_bandwidth(CPU) is None


def test_a_cap_needs_a_cuda_device():
    with pytest.raises(UsageError, match="CUDA device"), cap.memory_cap(CPU, 1 << 30):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cap_holds_and_is_lifted_again():
    device = torch.device("cuda", 0)
    with cap.memory_cap(device, probe.allocated_bytes(device) + (64 << 20)):
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(256 << 20, dtype=torch.uint8, device=device)
        torch.empty(16 << 20, dtype=torch.uint8, device=device)
    torch.empty(256 << 20, dtype=torch.uint8, device=device)
    with pytest.raises(UsageError, match="`memory_cap` is"):
        cap.check_memory_cap(device, 1 << 50)
    link, memory = probe.link_bandwidth(device), probe.memory_bandwidth(device)
    assert link is not None
    assert 1e9 < link < memory
