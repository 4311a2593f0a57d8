"""Weights in few bits: what is lost, and that nothing gives numbers that are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from packed import MADE
from torch import Tensor

from lrqk_cli.formats import FORMATS
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows
from lrqk_cli.models import quantise as module
from lrqk_cli.models.quantise import quantise

ROWS, WIDTH = 12, 512
KINDS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "normal": lambda g: torch.randn(ROWS, WIDTH, generator=g),
    "all positive": lambda g: torch.rand(ROWS, WIDTH, generator=g) + 0.5,
    "all negative": lambda g: -torch.rand(ROWS, WIDTH, generator=g) - 0.5,
    "outliers": lambda g: (
        torch.randn(ROWS, WIDTH, generator=g)
        * torch.where(torch.rand(ROWS, WIDTH, generator=g) < 0.01, 20.0, 1.0)
    ),
    "rows of all sizes": lambda g: (
        torch.randn(ROWS, WIDTH, generator=g) * torch.logspace(-6, 2, ROWS)[:, None]
    ),
}
# Of a normal distribution: what a uniform quantiser of that many bits loses with a range of three and a half
# standard deviations either way is 7 / 2 ** bits / sqrt(12); searched scales lose less.
BITS = {name: format.bits for name, format in FORMATS.items()}


def lost(name: str, weights: Tensor) -> Tensor:
    """Return the error of each row, as a share of it."""
    found = torch.full_like(weights, float("nan"))
    unpack_rows(found, quantise(FORMATS[name], weights), torch.arange(len(weights)))
    return (found - weights).norm(dim=1) / weights.norm(dim=1)


@pytest.mark.parametrize("name", MADE)
def test_a_normal_distribution_loses_what_its_bits_cannot_hold(name: str) -> None:
    weights = KINDS["normal"](torch.Generator().manual_seed(0))
    assert lost(name, weights).max() < 7 / 2 ** BITS[name] / 12**0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_no_more_is_lost_than_by_the_published_rule(name: str, kind: str) -> None:
    """``gguf`` has quantisers of its own for these; ours looks for better scales."""
    weights = KINDS[kind](torch.Generator().manual_seed(1))
    number = GGMLQuantizationType[name]
    theirs = torch.from_numpy(dequantize(quantize(weights.numpy().astype(np.float32), number), number))
    assert (
        lost(name, weights).square().mean()
        <= ((theirs - weights).norm(dim=1) / weights.norm(dim=1)).square().mean()
    )


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-7, 1e3])
@pytest.mark.parametrize("name", MADE)
def test_equal_weights_stay_equal(name: str, value: float) -> None:
    weights = torch.full((2, 256), value)
    found = torch.full_like(weights, float("nan"))
    unpack_rows(found, quantise(FORMATS[name], weights), torch.arange(2))
    assert found.isfinite().all()
    # The smallest steps of float16 are 6e-8.
    torch.testing.assert_close(found, weights, rtol=2e-2, atol=1e-7)


@pytest.mark.parametrize("name", MADE)
def test_parts_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = KINDS["outliers"](torch.Generator().manual_seed(2))
    whole = quantise(FORMATS[name], weights)
    monkeypatch.setattr(module, "_AT_ONCE", 5 * WIDTH)
    parts = quantise(FORMATS[name], weights.to(torch.float64).float())
    for part in ("words", "floats", "scales"):
        assert torch.equal(getattr(parts, part), getattr(whole, part))
