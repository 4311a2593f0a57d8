from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, host, to

from lrqk_cli.kernels.copy_rows import reference

kernel = pytest.importorskip("lrqk_cli.kernels.copy_rows.triton", reason="Triton is not installed")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("width", [2, 20, 130])
@pytest.mark.parametrize(("heads", "count"), [(1, 1), (3, 40), (11, 7), (2, 300)])
def test_rows_are_copied_both_ways_and_others_are_left(
    heads: int, count: int, width: int, dtype: torch.dtype, device: str
) -> None:
    numbers = torch.arange(heads * (count + 9) * 2 * width) % 251
    store = numbers.view(heads, -1, 2, width).to(dtype)
    new = (251 - store[:, :count]).contiguous()
    expected = store.clone()
    reference.copy_to_host(new, expected[:, 5 : 5 + count])
    found = host(store, device)
    kernel.copy_to_host(to(new, device), found[:, 5 : 5 + count])
    read = torch.empty_like(new, device=device)
    kernel.copy_from_host(read, found[:, 5 : 5 + count])
    assert torch.equal(read.cpu(), new)
    assert torch.equal(found.cpu(), expected)
    back = torch.empty_like(new)
    reference.copy_from_host(back, expected[:, 5 : 5 + count])
    assert torch.equal(back, new)
