"""Rows from the host in their slots."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, host, make_layer, make_plan, to
from torch import Tensor

from lrqk_cli.kernels.buffers import FetchPlan, Residents
from lrqk_cli.kernels.replace_rows import reference

kernel = pytest.importorskip("lrqk_cli.kernels.replace_rows.triton", reason="Triton is not installed")

SHAPES = [
    Shape(200, width=64),
    Shape(200, width=80, share=3, hot=100),
    Shape(150, width=96, hot=1),
    Shape(250, width=128, heads=1, hot=200),
    Shape(200, width=256),
]


def check(residents: Residents, store: Tensor, shape: Shape) -> None:
    """Check that slots, rows and mask tell the same."""
    for row_set in range(shape.sets):
        held = residents.slot_token[row_set]
        assert torch.equal(residents.resident[row_set].nonzero().flatten(), held.sort().values)
        rows = residents.rows[row_set, shape.recent :]
        assert torch.equal(rows, store[row_set // shape.share, held])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(shape: Shape, seed: int, dtype: torch.dtype, device: str) -> None:
    store, residents = make_layer(shape, dtype)
    plan = make_plan(shape, residents, seed)
    found = to(residents, device)
    kernel.replace_rows(found, to(plan, device), host(store, device))
    reference.replace_rows(residents, plan, store)
    check(residents, store, shape)
    assert_same(found, residents)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits() -> None:
    sets, context, hot = 3, 1 << 22, 1 << 21
    # On the device: so much pinned memory need not be there.
    store = torch.empty(sets, context, 2, 128, dtype=torch.float16, device="cuda")
    residents = Residents(
        torch.empty(sets, 8 + hot, 2, 128, dtype=torch.float16, device="cuda"),
        torch.zeros(sets, hot, dtype=torch.int64, device="cuda"),
        torch.zeros(sets, context, dtype=torch.bool, device="cuda"),
    )
    assert store.numel() > 2**31
    store[:, -1] = 1.5
    plan = FetchPlan.empty(sets, hot, torch.device("cuda"))
    plan.token[:, 0] = context - 1
    plan.slot[:, 0] = hot - 1
    plan.counts.fill_(1)
    residents.rows[:, -1] = 0.0
    kernel.replace_rows(residents, plan, store)
    assert (residents.rows[:, -1] == 1.5).all()
    assert residents.slot_token[:, -1].tolist() == [context - 1] * sets
    assert residents.resident[:, -1].all()
