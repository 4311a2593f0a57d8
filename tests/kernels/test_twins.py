"""Operations choose between their references and Triton, and both take the same arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import getclosurevars, signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lrqk_cli import kernels
from lrqk_cli.kernels import twins
from lrqk_cli.kernels.twins import with_triton

CHOOSING = [
    name
    for name, operation in vars(kernels).items()
    if hasattr(operation, "__wrapped__") and name != "has_triton"
]


@pytest.mark.parametrize("name", CHOOSING)
def test_a_twin_has_the_name_and_the_signature_of_its_reference(name: str) -> None:
    pytest.importorskip("triton")
    operation = getattr(kernels, name)
    twin = getclosurevars(operation).nonlocals["twin"]()
    folder = operation.__module__.removesuffix("reference")
    assert (twin.__module__, twin.__name__) == (f"{folder}triton", name)
    assert signature(twin) == signature(operation)


def test_every_folder_with_triton_chooses() -> None:
    folders = {getattr(kernels, name).__module__.split(".")[-2] for name in CHOOSING}
    assert folders == {path.parent.name for path in Path(kernels.__file__).parent.glob("*/triton.py")}


@pytest.mark.parametrize("in_tuple", [False, True])
@pytest.mark.parametrize(("is_cuda", "installed"), [(True, True), (True, False), (False, True)])
def test_the_twin_serves_a_gpu_with_triton(
    is_cuda: bool, installed: bool, in_tuple: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = [0]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen.index)
        yield
        current.pop()

    monkeypatch.setattr(twins, "has_triton", lambda: installed)
    monkeypatch.setattr(twins.torch.cuda, "device", device)
    tensor = SimpleNamespace(device=torch.device("cuda:1" if is_cuda else "cpu"))
    operation = with_triton(lambda _: ("reference", 0), lambda: lambda _: ("twin", current[-1]))
    chosen = operation((tensor, None) if in_tuple else tensor)
    # Triton takes the current device, so it has to be that of the arguments.
    assert chosen == (("twin", 1) if is_cuda and installed else ("reference", 0))
    assert current == [0]
