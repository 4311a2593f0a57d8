"""What is found out without torch against what torch says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from lrqk_cli.memory import machine
from lrqk_cli.models.devices import choose_device, choose_dtype

NO_PERMISSION = pynvml.NVMLError_NoPermission()


def test_the_machine_is_what_torch_says() -> None:
    found = machine.detect_machine()
    if found is None:
        pytest.skip("only torch knows this machine")
    assert found.device == str(choose_device())
    dtype = str(choose_dtype(None, choose_device()))
    assert found.has_bfloat16 == (dtype == "torch.bfloat16")


@dataclass
class FakeGpu:
    """What the driver says of a GPU; an exception is raised instead."""

    name: str = "NVIDIA GeForce RTX 4090"
    total: int = 24564 << 20
    free: int = 23000 << 20
    capability: tuple[int, int] = (8, 9)
    memory: Exception | None = None
    mig: Exception | int = field(default_factory=pynvml.NVMLError_NotSupported)


def detect(
    monkeypatch: pytest.MonkeyPatch,
    *gpus: FakeGpu,
    failing: Mapping[str, Exception] | None = None,
    visible: str | None = None,
) -> machine.Machine | None:
    """Look at a machine with these GPUs, where some functions of the driver fail."""

    def answer(value: object) -> object:
        if isinstance(value, Exception):
            raise value
        return value

    def memory(gpu: FakeGpu) -> object:
        return answer(gpu.memory or SimpleNamespace(total=gpu.total, free=gpu.free))

    sessions: list[int] = []
    answers: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: sessions.append(1),
        "nvmlShutdown": lambda: sessions.append(-1),
        "nvmlSystemGetDriverVersion": lambda: "595.71.05",
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlDeviceGetHandleByIndex": lambda number: gpus[number],
        "nvmlDeviceGetName": lambda gpu: gpu.name,
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetCudaComputeCapability": lambda gpu: gpu.capability,
        "nvmlDeviceGetMigMode": lambda gpu: [answer(gpu.mig), 0],
    }
    for name, function in answers.items():
        monkeypatch.setattr(pynvml, name, function)
    for name, error in (failing or {}).items():
        monkeypatch.setattr(pynvml, name, lambda *_, error=error: answer(error))
    monkeypatch.setattr(machine, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = machine.detect_machine()
    assert sum(sessions) == 0, "what was opened was closed"
    return found


def test_one_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = detect(monkeypatch, FakeGpu())
    assert found is not None
    assert (found.device, found.total, found.free) == ("cuda:0", 24564 << 20, 23000 << 20)
    assert found.name == "NVIDIA GeForce RTX 4090"
    assert found.has_bfloat16
    assert found.bandwidth == 1008e9
    assert machine.driver_version() == "595.71.05"


@pytest.mark.parametrize(
    ("capability", "has_bfloat16"), [((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)]
)
def test_the_compute_capability_tells_of_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_bfloat16: bool
) -> None:
    found = detect(monkeypatch, FakeGpu(capability=capability))
    assert found is not None
    assert found.has_bfloat16 == has_bfloat16


@pytest.mark.parametrize(
    "mig", [0, pynvml.NVMLError_NotSupported(), pynvml.NVMLError_FunctionNotFound(), NO_PERMISSION]
)
def test_a_gpu_that_is_not_in_parts_is_described(
    monkeypatch: pytest.MonkeyPatch, mig: Exception | int
) -> None:
    found = detect(monkeypatch, FakeGpu(mig=mig))
    assert found is not None
    assert found.device == "cuda:0"


@pytest.mark.parametrize(
    "gpus",
    [
        [FakeGpu(), FakeGpu()],
        [FakeGpu("NVIDIA A100", mig=pynvml.NVML_DEVICE_MIG_ENABLE)],
        [FakeGpu("NVIDIA GB10", memory=pynvml.NVMLError_NotSupported())],
        [FakeGpu(memory=pynvml.NVMLError_GpuIsLost())],
    ],
    ids=["several", "parts", "shared memory", "lost"],
)
def test_what_only_torch_can_tell_is_left_to_it(monkeypatch: pytest.MonkeyPatch, gpus: list[FakeGpu]) -> None:
    assert detect(monkeypatch, *gpus) is None


@pytest.mark.parametrize(("chosen", "known"), [("0", True), ("1", False), ("", False), ("GPU-8f2c", False)])
def test_a_choice_of_gpus_is_left_to_torch(monkeypatch: pytest.MonkeyPatch, chosen: str, known: bool) -> None:
    assert (detect(monkeypatch, FakeGpu(), visible=chosen) is not None) == known


@pytest.mark.parametrize(
    "failing",
    [
        {"nvmlInit": pynvml.NVMLError_LibraryNotFound()},
        {"nvmlInit": pynvml.NVMLError_DriverNotLoaded()},
        {"nvmlInit": pynvml.NVMLError_LibRmVersionMismatch()},
        {"nvmlDeviceGetCount": pynvml.NVMLError_Unknown(), "nvmlSystemGetDriverVersion": NO_PERMISSION},
    ],
    ids=["no library", "not loaded", "mismatch", "no answer"],
)
def test_without_a_driver_or_a_gpu_there_is_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: Mapping[str, Exception]
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: sse avx2 amx_tile\nbugs\t\t:\n")
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    for found in (detect(monkeypatch, FakeGpu(), failing=failing), detect(monkeypatch)):
        assert found is not None
        assert found.device == "cpu"
        assert found.has_bfloat16


def test_without_a_driver_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    detect(monkeypatch, failing={"nvmlInit": pynvml.NVMLError_LibraryNotFound()})
    assert machine.driver_version() is None


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
