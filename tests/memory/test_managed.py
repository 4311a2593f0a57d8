# ruff: noqa: N802, N815  # names of the driver
from __future__ import annotations

import ctypes
import gc
import sys
import threading
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lrqk_cli import kernels
from lrqk_cli.memory import managed
from lrqk_cli.memory.accounting import TensorShape

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SHAPE = TensorShape((3, 40, 2, 8), "float32")
SUCCESS, FAILURE = 0, 2
CONTEXT = "the context of the allocation"


class Driver:
    """Stands in for the driver: its managed memory is ordinary memory."""

    CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS=89)
    CUmemLocationType = SimpleNamespace(CU_MEM_LOCATION_TYPE_HOST=2, CU_MEM_LOCATION_TYPE_DEVICE=1)
    CUmem_advise = SimpleNamespace(CU_MEM_ADVISE_SET_PREFERRED_LOCATION=3, CU_MEM_ADVISE_SET_ACCESSED_BY=5)
    CUmemAttach_flags = SimpleNamespace(CU_MEM_ATTACH_GLOBAL=1)
    CUmemLocation = SimpleNamespace

    def __init__(self, *, concurrent: int = 1, refused: str = "") -> None:
        self.concurrent, self.refused = concurrent, refused
        self.memory = dict[int, Any]()
        self.calls = list[tuple[Any, ...]]()

    def _note(self, name: str, *arguments: Any) -> tuple[int]:
        self.calls.append((name, *arguments))
        return (FAILURE if name == self.refused else SUCCESS,)

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return SUCCESS, self.concurrent if (attribute, device) == (89, 0) else 0

    def cuMemAllocManaged(self, size: int, flags: int) -> tuple[int, int]:
        block = (ctypes.c_ubyte * size)()
        address = ctypes.addressof(block)
        self.memory[address] = block
        return *self._note("allocate", size, flags), address

    def cuMemAdvise(self, address: int, size: int, advice: int, place: Any) -> tuple[int]:
        return self._note("advise", address, size, advice, (place.type, place.id))

    def cuMemPrefetchAsync(self, address: int, size: int, place: Any, flags: int, stream: int) -> tuple[int]:
        return self._note("prefetch", address, size, (place.type, place.id), flags, stream)

    def cuStreamSynchronize(self, stream: int) -> tuple[int]:
        return self._note("wait", stream)

    def cuCtxGetCurrent(self) -> tuple[int, str]:
        return SUCCESS, CONTEXT

    def cuCtxPushCurrent(self, context: str) -> tuple[int]:
        return self._note("push", context)

    def cuCtxSynchronize(self) -> tuple[int]:
        return self._note("wait for all")

    def cuMemFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return self._note("free", address)

    def cuCtxPopCurrent(self) -> tuple[int, str]:
        return *self._note("pop"), CONTEXT


class OlderDriver(Driver):
    """Before CUDA 13, places are arguments of functions with a number."""

    cuMemAdvise_v2, cuMemPrefetchAsync_v2 = Driver.cuMemAdvise, Driver.cuMemPrefetchAsync

    def cuMemAdvise(self, address: int, size: int, advice: int, device: Any) -> tuple[int]:
        raise AssertionError("the function that takes numbers of devices")

    def cuMemPrefetchAsync(self, address: int, size: int, device: Any, *stream: Any) -> tuple[int]:
        raise AssertionError("the function that takes numbers of devices")


def use(monkeypatch: pytest.MonkeyPatch, driver: Any) -> None:
    """Let the device be a CUDA device with that driver; without one, the package is not there."""
    monkeypatch.delenv("LRQK_MANAGED_MEMORY", raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    stream = SimpleNamespace(synchronize=lambda: None, cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


CUDA = torch.device("cuda")


@pytest.mark.parametrize("kind", [Driver, OlderDriver])
def test_rows_stay_on_the_host_and_the_device_maps_them(
    kind: type[Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = kind()
    use(monkeypatch, driver)
    rows = managed.empty_managed(SHAPE, CUDA)
    assert rows is not None
    assert (rows.shape, rows.dtype) == (SHAPE.shape, torch.float32)
    address, size = rows.data_ptr(), SHAPE.nbytes
    assert driver.calls == [
        ("allocate", size, 1),
        ("advise", address, size, 3, (2, 0)),
        ("advise", address, size, 5, (1, 0)),
        ("prefetch", address, size, (2, 0), 0, 77),
        ("wait", 77),
    ]


def test_memory_is_freed_with_the_last_view(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    use(monkeypatch, driver)
    rows = managed.empty_managed(SHAPE, CUDA)
    assert rows is not None
    view = rows[1]
    del rows
    gc.collect()
    assert driver.memory
    view.fill_(3.0)
    (address,), driver.calls = driver.memory, []
    del view
    gc.collect()
    assert driver.calls == [("push", CONTEXT), ("wait for all",), ("free", address), ("pop",)]
    assert not driver.memory


def test_memory_that_is_dropped_within_a_capture_is_freed_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver()
    use(monkeypatch, driver)
    rows = [managed.empty_managed(SHAPE, CUDA) for _ in range(2)]
    driver.calls = []
    with managed.freeing_later():
        with suppress(RuntimeError), managed.freeing_later():
            rows.pop()
            raise RuntimeError("the capture failed")
        thread = threading.Thread(target=rows.clear)
        thread.start()
        thread.join()
        gc.collect()
        assert not driver.calls
        assert len(driver.memory) == 2
    assert [name for name, *_ in driver.calls] == ["push", "wait for all", "free", "pop"] * 2
    assert not driver.memory


@pytest.mark.parametrize("refused", ["advise", "prefetch", "wait"])
def test_where_the_driver_refuses_nothing_is_kept(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(refused=refused)
    use(monkeypatch, driver)
    assert managed.empty_managed(SHAPE, CUDA) is None
    assert driver.calls
    assert not driver.memory


class IncompleteDriver(Driver):
    """Its bindings have the newer functions, and it does not."""

    def cuMemAdvise_v2(self, *_: Any) -> None:
        raise RuntimeError('Function "cuMemAdvise_v2" not found')


def test_a_driver_without_the_functions_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = IncompleteDriver()
    use(monkeypatch, driver)
    assert managed.empty_managed(SHAPE, CUDA) is None
    assert not driver.memory


class Unknown:
    """Bindings of long ago."""


@pytest.mark.parametrize("driver", [None, Driver(concurrent=0), Unknown()])
def test_without_memory_for_both_there_is_none(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, driver)
    assert not managed.has_managed(CUDA)
    assert managed.empty_managed(SHAPE, CUDA) is None


@pytest.mark.parametrize("word", ["0", "false", "Off", " no"])
def test_a_variable_turns_it_off(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    use(monkeypatch, driver)
    monkeypatch.setenv("LRQK_MANAGED_MEMORY", word)
    assert not managed.has_managed(CUDA)
    assert managed.empty_managed(SHAPE, CUDA) is None
    assert not driver.calls
    monkeypatch.setenv("LRQK_MANAGED_MEMORY", "1")
    assert managed.has_managed(CUDA)


def test_a_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver())
    assert managed.has_managed(CUDA)
    assert not managed.has_managed(torch.device("cpu"))


def test_no_bytes_need_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver())
    assert managed.empty_managed(TensorShape((3, 0), "float32"), CUDA) is None


@pytest.mark.gpu
@GPU
def test_a_thread_without_a_context_frees_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    codes, free = list[int](), driver.cuMemFree
    monkeypatch.setattr(driver, "cuMemFree", lambda address: codes.append(int(free(address)[0])))
    rows = [managed.empty_managed(SHAPE, CUDA)]
    assert rows[0] is not None
    thread = threading.Thread(target=rows.clear)
    thread.start()
    thread.join()
    assert codes == [SUCCESS]


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "uint8"])
def test_cpu_and_gpu_see_the_same(dtype: str) -> None:
    rows = managed.empty_managed(TensorShape(SHAPE.shape, dtype), CUDA)
    assert rows is not None
    assert rows.device.type == "cpu"
    numbers = torch.arange(rows.numel()).view(rows.shape).to(rows.dtype)
    rows[:2] = numbers[:2]
    kernels.copy_to_host(numbers[2:].cuda(), rows[2:])
    found = torch.full_like(numbers, 1, device="cuda")
    kernels.copy_from_host(found, rows)
    assert torch.equal(found.cpu(), numbers)
    assert torch.equal(rows, numbers)
