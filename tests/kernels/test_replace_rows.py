"""Rows from the host in their slots."""

from __future__ import annotations

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, host, make_layer, make_plan, stored, to
from torch import Tensor

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.buffers import FetchPlan, Residents, StoredRows
from lrqk_cli.kernels.dequantise_rows.reference import dequantise_rows
from lrqk_cli.kernels.replace_rows import reference

kernel = pytest.importorskip("lrqk_cli.kernels.replace_rows.triton", reason="Triton is not installed")

SHAPES = [
    Shape(200, width=64),
    Shape(200, width=80, share=3, hot=100),
    Shape(150, width=96, hot=1),
    Shape(250, width=128, heads=1, hot=200),
    Shape(200, width=256),
]


KV_DTYPES: list[KvDtype] = ["bf16", "fp8", "int8"]


def check(residents: Residents, store: Tensor, shape: Shape) -> None:
    """Check that slots, rows and mask tell the same."""
    for row_set in range(shape.sets):
        held = residents.slot_token[row_set]
        assert torch.equal(residents.resident[row_set].nonzero().flatten(), held.sort().values)
        rows = residents.rows[row_set, shape.recent :]
        assert torch.equal(rows, store[row_set // shape.share, held])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(
    shape: Shape, seed: int, kv_dtype: KvDtype, dtype: torch.dtype, device: str
) -> None:
    store, residents = make_layer(shape, dtype)
    plan = make_plan(shape, residents, seed)
    rows = stored(store, "cpu", kv_dtype)
    if rows.scales is not None:
        dequantise_rows(rows, store)
        share = torch.arange(shape.sets).unsqueeze(1) // shape.share
        residents.rows[:, shape.recent :] = store[share, residents.slot_token]
    found = to(residents, device)
    kernel.replace_rows(found, to(plan, device), StoredRows(host(rows.rows, device), to(rows.scales, device)))
    reference.replace_rows(residents, plan, rows)
    check(residents, store, shape)
    # The interpreter cuts bfloat16 off where a GPU rounds.
    is_cut = dtype == torch.bfloat16 and kv_dtype != "bf16" and device == "cpu"
    assert_same(found, residents, rtol=2**-7 if is_cut else 0.0)


@pytest.mark.parametrize("device", DEVICES)
def test_a_key_that_is_the_value_too_is_one_part(device: str) -> None:
    shape = Shape(200, width=80)
    store, residents = make_layer(shape)
    store, residents = (
        store[:, :, :1].contiguous(),
        residents._replace(rows=residents.rows[:, :, :1].contiguous()),
    )
    plan = make_plan(shape, residents)
    found = to(residents, device)
    kernel.replace_rows(found, to(plan, device), StoredRows(host(store, device)))
    reference.replace_rows(residents, plan, StoredRows(store))
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
    kernel.replace_rows(residents, plan, StoredRows(store))
    assert (residents.rows[:, -1] == 1.5).all()
    assert residents.slot_token[:, -1].tolist() == [context - 1] * sets
    assert residents.resident[:, -1].all()
