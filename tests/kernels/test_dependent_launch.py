"""Which GPUs have dependent launches."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed")

from lrqk_cli.kernels import dependent_launch  # noqa: E402

if dependent_launch.TRITON_RELEASE < (3, 6):
    pytest.skip("not before Triton 3.6", allow_module_level=True)


def found(
    monkeypatch: pytest.MonkeyPatch,
    *,
    backend: str = "cuda",
    arch: int | str = 90,
    others: tuple[tuple[int, int], ...] = (),
    driver: str | None = "545.23.08",
    release: tuple[int, int] = (3, 6),
    interpret: bool = False,
) -> bool:
    target = SimpleNamespace(backend=backend, arch=arch)
    active = SimpleNamespace(get_current_target=lambda: target)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(triton.knobs.runtime, "interpret", interpret)
    monkeypatch.setattr(dependent_launch, "driver_version", lambda: driver)
    monkeypatch.setattr(dependent_launch, "TRITON_RELEASE", release)
    monkeypatch.setattr(dependent_launch.torch.cuda, "device_count", lambda: len(others))
    monkeypatch.setattr(dependent_launch.torch.cuda, "get_device_capability", others.__getitem__)
    return dependent_launch._has_dependent_launches()


def test_gpus_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch) is True
    assert (
        found(monkeypatch, arch=120, others=((12, 0), (9, 0)), driver="580.159.04", release=(3, 10)) is True
    )


@pytest.mark.parametrize(
    "machine",
    [
        {"arch": 89},
        {"others": ((9, 0), (8, 6))},
        {"driver": "535.183.01"},
        {"driver": None},
        {"backend": "hip", "arch": "gfx942"},
        {"release": (3, 5)},
        {"interpret": True},
    ],
    ids=str,
)
def test_others_have_none(machine: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, **machine) is False  # type: ignore[arg-type]


def test_without_a_gpu_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("0 active drivers")

    assert found(monkeypatch) is True
    monkeypatch.setattr(triton.runtime.driver.active, "get_current_target", refuse)
    assert dependent_launch._has_dependent_launches() is False
