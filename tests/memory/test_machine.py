"""What is found out without torch against what torch says."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrqk_cli.memory import machine
from lrqk_cli.models.devices import choose_device, choose_dtype


def test_the_machine_is_what_torch_says() -> None:
    found = machine.detect_machine()
    if found is None:
        pytest.skip("only torch knows this machine")
    assert found.device == str(choose_device())
    dtype = str(choose_dtype(None, choose_device()))
    assert found.has_bfloat16 == (dtype == "torch.bfloat16")


def one_gpu(monkeypatch: pytest.MonkeyPatch, row: str | None) -> machine.Machine | None:
    """Look at a machine whose nvidia-smi answers with ``row``."""
    rows = None if row is None else [[field.strip() for field in line.split(",")] for line in row.split("\n")]
    monkeypatch.setattr(machine, "_nvidia_smi", lambda: rows)
    monkeypatch.setattr(machine, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return machine.detect_machine()


def test_one_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = one_gpu(monkeypatch, "NVIDIA GeForce RTX 4090, 24564, 23000, 8.9, [N/A]")
    assert found is not None
    assert (found.device, found.total, found.free) == ("cuda:0", 24564 << 20, 23000 << 20)
    assert found.has_bfloat16
    assert found.bandwidth == 1008e9


@pytest.mark.parametrize(
    "rows",
    ["A, 1, 1, 8.0, [N/A]\nB, 1, 1, 8.0, [N/A]", "NVIDIA A100, 81920, 80000, 8.0, Enabled"],
)
def test_what_only_torch_can_tell_is_left_to_it(monkeypatch: pytest.MonkeyPatch, rows: str) -> None:
    assert one_gpu(monkeypatch, rows) is None


def test_without_a_driver_there_is_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: sse avx2 amx_tile\nbugs\t\t:\n")
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    found = one_gpu(monkeypatch, None)
    assert found is not None
    assert found.device == "cpu"
    assert found.has_bfloat16


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", 288e9),
        ("NVIDIA GeForce RTX 4060", 272e9),
        ("NVIDIA H100 80GB HBM3", 3350e9),
        ("NVIDIA L40S", None),
        ("NVIDIA A100-SXM4-80GB", None),
    ],
)
def test_bandwidths_are_looked_up_by_whole_words(name: str, speed: float | None) -> None:
    assert machine.bandwidth_of(name) == speed
