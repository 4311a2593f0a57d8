"""Exact attention kernels against a float64 oracle."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.kernels.attend import library, reference


def oracle(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    softcap: float | None,
    causal: bool,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """Attend row by row in float64, from the definition."""
    query, key, value = query.double(), key.double(), value.double()
    heads, group, length, _ = query.shape
    total = key.shape[1]
    output, lse = torch.zeros_like(query), torch.zeros(query.shape[:3], dtype=torch.float64)
    for head in range(heads):
        for member in range(group):
            for row in range(length):
                position = total - length + row
                stop = position + 1 if causal else total
                start = max(0, stop - window) if window else 0
                logits = key[head, start:stop] @ query[head, member, row] * scaling
                if softcap is not None:
                    logits = softcap * torch.tanh(logits / softcap)
                output[head, member, row] = logits.softmax(0) @ value[head, start:stop]
                lse[head, member, row] = logits.logsumexp(0)
    return output, lse


def rows(heads: int, group: int, length: int, total: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length * 1000 + total)
    return (
        torch.randn(heads, group, length, width, generator=generator),
        # K and V as the store hands them out: two strided halves of one row.
        *torch.randn(heads, total, 2, width, generator=generator).unbind(2),
    )


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize(
    ("length", "total", "causal", "window"),
    [
        (1, 1, True, None),
        (1, 63, False, None),
        (33, 33, True, None),
        (5, 47, False, None),
        (9, 40, True, None),
        (40, 40, True, 7),
        (9, 40, True, 7),
        (1, 40, True, 41),
    ],
)
@pytest.mark.parametrize(("heads", "group", "width"), [(1, 1, 64), (2, 3, 80), (3, 7, 16)])
def test_matches_the_oracle(
    heads: int,
    group: int,
    width: int,
    length: int,
    total: int,
    causal: bool,
    window: int | None,
    softcap: float | None,
) -> None:
    query, key, value = rows(heads, group, length, total, width)
    scaling = 1.3 / math.sqrt(width)
    expected = oracle(query, key, value, scaling, softcap, causal, window)
    options = {"scaling": scaling, "softcap": softcap, "causal": causal, "window": window}
    for implementation in (kernels.attend, reference.attend):
        output, lse = implementation(query, key, value, **options)
        torch.testing.assert_close(output.double(), expected[0], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(lse.double(), expected[1], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
def test_weights_of_large_logits_add_up_to_one(size: float) -> None:
    """All keys are equal, so that the output is the mean value."""
    query, key, value = rows(2, 3, 4, 40, 16)
    key = size * key[:, :1].expand(key.shape)
    for implementation in (kernels.attend, reference.attend):
        output, _ = implementation(query, key, value, scaling=1.0)
        torch.testing.assert_close(output, value.mean(1)[:, None, None].expand(output.shape))


def test_blocks_of_queries_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = rows(2, 2, 30, 50, 16)
    whole = reference.attend(query, key, value, scaling=0.3, causal=True, window=11)
    monkeypatch.setattr(reference, "PLAIN_LOGITS", 2 * 2 * 50 * 4)
    parts = reference.attend(query, key, value, scaling=0.3, causal=True, window=11)
    torch.testing.assert_close(parts, whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("length", "total", "causal"), [(1, 1, True), (1, 63, False), (130, 130, True), (9, 300, False)]
)
@pytest.mark.parametrize(("heads", "group", "width"), [(1, 1, 64), (2, 3, 80), (8, 4, 128), (1, 8, 256)])
def test_groups_of_queries_on_a_gpu(
    heads: int, group: int, width: int, length: int, total: int, causal: bool, dtype: torch.dtype
) -> None:
    query, key, value = (part.to("cuda", dtype) for part in rows(heads, group, length, total, width))
    # Token by token in memory, as models have them.
    query = query.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    assert library.supports(query, softcap=None, causal=causal, window=None, total=total)
    expected, lse = oracle(query.cpu(), key.cpu(), value.cpu(), 0.1, None, causal, None)
    found, found_lse = kernels.attend(query, key, value, scaling=0.1, causal=causal)
    torch.testing.assert_close(found.cpu().double(), expected, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found_lse.cpu().double(), lse, atol=1e-3, rtol=1e-3)


def test_flash_is_what_serves_plain_attention() -> None:
    query, _, _ = rows(2, 2, 3, 3, 16)
    assert library.supports(query, softcap=None, causal=True, window=None, total=3)
    assert not library.supports(query, softcap=2.0, causal=True, window=None, total=3)
    assert not library.supports(query, softcap=None, causal=True, window=None, total=8)


@pytest.mark.parametrize("cut", [0, 1, 20, 40])
def test_merged_parts_equal_the_whole(cut: int) -> None:
    query, key, value = rows(2, 3, 4, 40, 16)
    whole = reference.attend(query, key, value, scaling=0.5)
    first = reference.attend(query, key[:, :cut], value[:, :cut], scaling=0.5)
    second = reference.attend(query, key[:, cut:], value[:, cut:], scaling=0.5)
    torch.testing.assert_close(kernels.merge(*first, *second), whole)


def test_merging_two_empty_sides_gives_zeros() -> None:
    empty = torch.zeros(1, 1, 1, 4), torch.full((1, 1, 1), float("-inf"))
    output, lse = kernels.merge(*empty, *empty)
    assert torch.equal(output, empty[0])
    assert torch.equal(lse, empty[1])
