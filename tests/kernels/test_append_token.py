"""A step's token in the stores, and its queries in the low-rank space."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decode_step import (
    DEVICES,
    Shape,
    assert_same,
    host,
    make_maps,
    make_residents,
    make_store,
    noise,
    poisoned,
    stored,
    to,
    wait_for_kernels,
)

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.append_token import reference
from lrqk_cli.kernels.buffers import Drafts, Projected, Residents, StoredRows
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.dequantise_rows.reference import dequantise_rows
from lrqk_cli.memory.accounting import SCALE_TOKENS

kernel = pytest.importorskip("lrqk_cli.kernels.append_token.triton", reason="Triton is not installed")

SHAPES = [
    Shape(0),
    Shape(7, queries=8, width=80, rank=5, share=2),
    Shape(8, width=96, queries=3),
    Shape(31, width=128, rank=32, queries=4),
    Shape(32, width=256, rank=64, queries=7),
    Shape(62, queries=6, rank=80, width=80),
    Shape(200, share=3, queries=1, heads=3),
]


def make_state(shape: Shape, dtype: torch.dtype, codes: torch.dtype) -> dict[str, Any]:
    store = make_store(shape, dtype)
    code_bytes = shape.rank // 2 if codes == torch.uint8 else shape.rank
    return {
        "maps": make_maps(shape),
        "codes": torch.full((shape.sets, shape.context, code_bytes), 99).to(codes),
        "store": StoredRows(store),
        "residents": make_residents(shape, store),
        "length": shape.device_length,
        "out": poisoned(Projected.empty(shape.sets, shape.queries, shape.rank, torch.device("cpu"))),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("codes", [torch.uint8, torch.int8, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "pending"), [(1, None), (4, 3)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(
    shape: Shape, tokens: int, pending: int | None, dtype: torch.dtype, codes: torch.dtype, device: str
) -> None:
    if codes == torch.uint8 and shape.rank % 2:
        pytest.skip("packed codes come in pairs")
    query = noise(11, shape.sets, shape.queries, shape.width).to(dtype)
    key, value = noise(12, 2, shape.heads, tokens, shape.width).to(dtype)
    expected = make_state(shape, dtype, codes)
    if pending is not None:
        rows = noise(17, shape.heads, 3, 2, shape.width).to(dtype)
        expected["drafts"] = Drafts(rows, torch.tensor([min(pending, shape.length)]))
    found = to(expected, device)
    found["store"] = StoredRows(host(expected["store"].rows, device))

    reference.append_token(query, key, value, **expected)
    kernel.append_token(query.to(device), key.to(device), value.to(device), **found)

    # The interpreter cuts bfloat16 off where a GPU rounds.
    rounding = 2**-7 if codes == torch.bfloat16 and device == "cpu" else 0.0
    assert_same(found.pop("codes"), expected.pop("codes"), rtol=rounding)
    for name, tensors in expected.items():
        assert_same(found[name], tensors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_in_8_bits_are_rounded_before_all_else(
    shape: Shape, tokens: int, kv_dtype: KvDtype, device: str
) -> None:
    query = noise(11, shape.sets, shape.queries, shape.width)
    key, value = noise(12, 2, shape.heads, tokens, shape.width)
    state = make_state(shape, torch.float32, torch.bfloat16)
    rows = stored(state["store"].rows, "cpu", kv_dtype)
    found = {**to(state, device), "store": StoredRows(host(rows.rows, device), to(rows.scales, device))}
    plain = torch.empty(shape.heads, shape.context, 2, shape.width)

    back = kernel.append_token(query.to(device), key.to(device), value.to(device), **found)

    wait_for_kernels()
    dequantise_rows(StoredRows(found["store"].rows, rows.scales), plain)
    before = torch.empty_like(plain)
    dequantise_rows(rows, before)
    at = slice(shape.length, shape.length + tokens)
    is_other = torch.ones(shape.context, dtype=torch.bool)
    is_other[at] = False
    assert torch.equal(plain[:, is_other], before[:, is_other])
    assert (plain[:, at] - torch.stack((key, value), 2)).abs().max() < 0.5
    assert_same(torch.stack(back, 2), plain[:, at])
    # All else is as it would be if the rounded rows were the model's own.
    reference.append_token(query, *plain[:, at].unbind(2), **state)
    rounding = 2**-7 if device == "cpu" else 0.0
    assert_same(found.pop("codes"), state.pop("codes"), rtol=rounding)
    for name in ("residents", "out"):
        assert_same(found[name], state[name])


@pytest.mark.parametrize("append_token", [reference.append_token, kernel.append_token])
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here")
def test_a_growing_layer_keeps_its_newest_rows_and_fills_its_slots(append_token: Any) -> None:
    shape = Shape(0, context=40, heads=2, share=2, width=16, queries=1, hot=6, recent=4)
    state = make_state(shape, torch.float32, torch.int8)
    residents: Residents = state["residents"]
    for length in range(16):
        key, value = noise(20 + length, 2, shape.heads, 1, shape.width)
        state["length"][0] = length
        append_token(noise(1, shape.sets, 1, shape.width), key, value, **state)
        count = length + 1
        rows = state["store"].rows.repeat_interleave(shape.share, 0)
        for token in range(max(0, count - shape.recent), count):
            assert torch.equal(residents.rows[:, token % shape.recent], rows[:, token])
        filled = min(max(0, count - shape.recent), shape.hot)
        assert torch.equal(residents.rows[:, shape.recent :][:, :filled], rows[:, :filled])
        slots = torch.where(torch.arange(shape.hot) < filled, torch.arange(shape.hot), -1)
        assert torch.equal(residents.slot_token, slots.expand(shape.sets, -1))
        assert torch.equal(residents.resident.sum(1), torch.full((shape.sets,), filled))
        assert state["store"].rows[:, count:].isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("append_token", [reference.append_token, kernel.append_token])
@pytest.mark.parametrize(("hot", "recent"), [(6, 4), (6, 1), (40, 9)])
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
def test_accepted_drafts_end_where_tokens_one_by_one_do(
    append_token: Any, kv_dtype: KvDtype, hot: int, recent: int, device: str
) -> None:
    """Also drafts that begin a scale group; what rejected ones have written is overwritten."""
    if append_token is reference.append_token and device == "cuda":
        pytest.skip("references are for the CPU")
    start, stop, drafts = (SCALE_TOKENS - 6, SCALE_TOKENS + 9, 3) if kv_dtype == "int8" else (0, 22, 3)
    shape = Shape(start, context=stop + 4, width=32, queries=1, hot=hot, recent=recent, share=2)
    accepts = torch.randint(0, drafts + 1, (stop,), generator=torch.Generator().manual_seed(hot)).tolist()
    rows = noise(21, 2, shape.heads, stop + drafts, shape.width)

    def state() -> dict[str, Any]:
        made = make_state(shape, torch.float32, torch.int8)
        rows_kept = stored(made["store"].rows, device, kv_dtype)
        return {**to(made, device), "store": rows_kept}

    query = torch.zeros(shape.sets, 1, shape.width, device=device)
    single, ours = state(), state()
    for token in range(start, stop):
        single["length"][0] = token
        append_token(query, *rows[:, :, token : token + 1].contiguous().to(device), **single)
    buffer = torch.full((shape.heads, drafts, 2, shape.width), float("nan"), device=device)
    ours["drafts"] = Drafts(buffer, torch.zeros(1, dtype=torch.int64, device=device))
    token = start
    while token < stop:
        ours["length"][0] = token
        accepted = min(accepts[token], stop - 1 - token)
        step = rows[:, :, token : token + 1 + drafts].clone()
        step[:, :, 1 + accepted :] = noise(token, 2, shape.heads, drafts - accepted, shape.width)
        key, value = append_token(query, *step.to(device), **ours)
        buffer.copy_(torch.stack((key, value), 2)[:, 1:])
        ours["drafts"].pending.fill_(accepted)
        token += 1 + accepted
    # The next step settles what is pending.
    for made in (single, ours):
        made["length"][0] = stop
        append_token(query, *rows[:, :, -1:].contiguous().to(device), **made)
    upto = slice(0, stop + 1)
    assert_same(ours["store"].rows[:, upto], single["store"].rows[:, upto])
    assert_same(ours["codes"][:, upto], single["codes"][:, upto])
    assert_same(ours["residents"], single["residents"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("append_token", [reference.append_token, kernel.append_token])
@pytest.mark.parametrize(("dtype", "top"), [(torch.uint8, 7), (torch.int8, 127)])
def test_codes_round_half_to_even_and_saturate(
    append_token: Any, dtype: torch.dtype, top: int, device: str
) -> None:
    shape = Shape(3, heads=1, width=16, rank=10, queries=1)
    state = to(make_state(shape, torch.float32, dtype), device)
    state["store"] = StoredRows(host(state["store"].rows.cpu(), device))
    state["maps"].mean.zero_()
    state["maps"].scale.fill_(1.0)
    # The key's code is its first entry times these.
    values = [0.5, 1.5, 2.5, -0.5, -1.5, top - 0.5, top + 0.5, 500.0, -500.0, -top - 0.5]
    state["maps"].key.zero_()[0, 0] = torch.tensor(values)
    key = torch.zeros(1, 1, 16, device=device)
    key[0, 0, 0] = 1.0
    append_token(torch.zeros(1, 1, 16, device=device), key, key, **state)
    expected = [0, 2, 2, 0, -2, top - 1, top, top, -top, -top]
    assert unpack_codes(state["codes"][0, 3]).tolist() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits() -> None:
    context, recent, hot = 1 << 22, 8, (1 << 21) - 8
    shape = Shape(context - 1, context=context, heads=3, width=256, rank=192, recent=recent, hot=hot)
    device = torch.device("cuda")
    codes = torch.empty(3, context, shape.rank, dtype=torch.int8, device=device)
    # On the device: so much pinned memory need not be there.
    store = torch.empty(3, context, 2, 256, dtype=torch.float16, device=device)
    rows = torch.empty(3, shape.rows, 2, 256, dtype=torch.float16, device=device)
    residents = Residents(
        rows,
        torch.zeros(3, hot, dtype=torch.int64, device=device),
        torch.zeros(3, context, dtype=torch.bool, device=device),
    )
    assert codes.numel() > 2**31
    assert rows.numel() > 2**31
    key, value = noise(12, 2, 3, 1, 256).half().to(device)
    kernel.append_token(
        noise(11, 3, 2, 256).half().to(device),
        key,
        value,
        maps=to(make_maps(shape), "cuda"),
        codes=codes,
        store=StoredRows(store),
        residents=residents,
        length=torch.tensor([context - 1], device=device),
        out=Projected.empty(3, 2, shape.rank, device),
    )
    row = torch.stack((key, value), 2)[:, 0]
    assert torch.equal(store[:, -1], row)
    assert torch.equal(rows[:, (context - 1) % recent], row)
    maps = make_maps(shape)
    code = (
        torch.einsum("hd,hdr->hr", key[:, 0].cpu().double() - maps.mean.double(), maps.key.double())
        / maps.scale
    )
    assert torch.equal(codes[:, -1].cpu(), code.round().clamp(-127, 127).to(torch.int8))
