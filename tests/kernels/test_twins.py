"""Operations choose between their references and Triton, and both take the same arguments."""

from __future__ import annotations

from inspect import getclosurevars, signature
from pathlib import Path
from types import SimpleNamespace

import pytest

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
    monkeypatch.setattr(twins, "has_triton", lambda: installed)
    tensor = SimpleNamespace(is_cuda=is_cuda)
    operation = with_triton(lambda _: "reference", lambda: lambda _: "twin")
    chosen = operation((tensor, None) if in_tuple else tensor)
    assert chosen == ("twin" if is_cuda and installed else "reference")
