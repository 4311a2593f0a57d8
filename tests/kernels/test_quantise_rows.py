"""Rows in 8 bits: what is written, and what is read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from decode_step import DEVICES, assert_same, host, to
from torch import Tensor

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.buffers import RowScales, StoredRows
from lrqk_cli.kernels.dequantise_rows import reference as reading
from lrqk_cli.kernels.quantise_rows import reference
from lrqk_cli.memory.accounting import SCALE_TOKENS

kernel = pytest.importorskip("lrqk_cli.kernels.quantise_rows.triton", reason="Triton is not installed")
reader = pytest.importorskip("lrqk_cli.kernels.dequantise_rows.triton")

IN_8_BITS: list[KvDtype] = ["int8", "fp8"]
# KV heads, tokens, head size.
SHAPES = [(1, 1, 64), (3, 7, 80), (2, 33, 96), (2, 5, 128), (1, 3, 256), (2, 2, 5)]
# The token of the first row: longer texts go on in the next block.
FIRST = SCALE_TOKENS - 3


def scales_of(heads: int, width: int, kv_dtype: KvDtype) -> RowScales:
    random = torch.Generator().manual_seed(3)
    channels = torch.randn(heads, 2, 2, 2, width, generator=random)
    channels[:, :, 1] = channels[:, :, 1].abs() + 0.25
    return RowScales(channels.bfloat16(), kv_dtype)


def plain_scales(width: int, kv_dtype: KvDtype) -> RowScales:
    """Return scales by which a number is a code times the factor of its row."""
    channels = torch.zeros(1, 1, 2, 2, width, dtype=torch.bfloat16)
    channels[:, :, 1] = 1.0
    return RowScales(channels, kv_dtype)


def rows_of(heads: int, tokens: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return K and V ``[2, KV, S, d]`` whose sizes differ by row and channel."""
    random = torch.Generator().manual_seed(4)
    rows = torch.randn(2, heads, tokens, width, generator=random)
    rows *= 2.0 ** torch.randint(-12, 7, (2, heads, tokens, 1), generator=random)
    return rows.to(dtype)


def empty(heads: int, tokens: int, width: int) -> Tensor:
    return torch.full((heads, tokens, 2 * width + 4), 77, dtype=torch.uint8)


def run(
    module: Any, rows: Tensor, scales: RowScales, device: str, first: int = FIRST
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bytes written, and K and V as they are read back."""
    target = empty(*rows.shape[1:])
    into = StoredRows(host(target, device), to(scales, device))
    key, value = module.quantise_rows(*rows.to(device), into, first)
    return into.rows.cpu(), key.cpu(), value.cpu()


def read(
    module: Any, written: Tensor, scales: RowScales, dtype: torch.dtype, device: str, first: int = FIRST
) -> Tensor:
    width = (written.shape[2] - 4) // 2
    out = torch.full((*written.shape[:2], 2, width), float("nan"), dtype=dtype, device=device)
    module.dequantise_rows(StoredRows(to(written, device), to(scales, device)), out, first)
    return out.cpu()


@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_read_back_is_the_nearest_code_by_an_oracle(
    shape: tuple[int, int, int], kv_dtype: KvDtype
) -> None:
    rows, scales = rows_of(*shape, torch.float32), scales_of(shape[0], shape[2], kv_dtype)
    written, key, value = run(reference, rows, scales, "cpu")
    found = torch.stack((key, value), 2).double().numpy()
    exact = rows.permute(1, 2, 0, 3).double().numpy()
    block = [(FIRST + row) // SCALE_TOKENS for row in range(shape[1])]
    centre, spread = (scales.channels.double().numpy()[:, block, part] for part in range(2))
    relative = (exact - centre) / spread
    top = {"int8": 127, "fp8": 448}[kv_dtype]
    bits = written[:, :, 2 * shape[2] :].numpy().copy().view(np.uint16).astype(np.uint32)
    factor = (bits << 16).view(np.float32).astype(np.float64)[..., None]
    least = np.abs(relative).max(3, keepdims=True) / top
    # The scale is the least one, at most one step of bfloat16 above.
    assert (factor >= least * (1 - 1e-6)).all()
    assert (factor <= least * (1 + 2**-7)).all()
    codes = every_code(kv_dtype)
    nearest = np.abs(relative[..., None] / factor[..., None] - codes).min(-1)
    error = np.abs((found - centre) / spread / factor - relative / factor)
    assert (error <= nearest + 1e-4 * top).all()


def every_code(kv_dtype: KvDtype) -> np.ndarray[Any, np.dtype[np.float64]]:
    if kv_dtype == "int8":
        return np.arange(-127.0, 128.0)
    # By the definition of e4m3: exponents with a bias of 7, no infinities.
    size = [f / 8 * 2.0**-6 for f in range(8)]
    size += [(1 + f / 8) * 2.0 ** (e - 7) for e in range(1, 16) for f in range(8)][:-1]
    return np.array(sorted({*size, *(-x for x in size)}))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_reference(
    shape: tuple[int, int, int], kv_dtype: KvDtype, dtype: torch.dtype, device: str
) -> None:
    rows, scales = rows_of(*shape, dtype), scales_of(shape[0], shape[2], kv_dtype)
    expected = run(reference, rows, scales, "cpu")
    found = run(kernel, rows, scales, device)
    assert torch.equal(found[0], expected[0])
    # A GPU fuses the last two operations; the interpreter cuts bfloat16 off where a GPU rounds.
    rounding = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
    assert_same(found[1:], expected[1:], atol=1e-6, rtol=rounding)
    # Whoever reads a row reads the same numbers, to the bit.
    for module, place, (written, key, value) in ((reading, "cpu", expected), (reader, device, found)):
        assert torch.equal(read(module, written, scales, dtype, place), torch.stack((key, value), 2))


@pytest.mark.parametrize("device", DEVICES)
def test_every_code_of_fp8_is_read_as_torch_reads_it(device: str) -> None:
    written = empty(1, 1, 256)
    written[0, 0, :256] = written[0, 0, 256:512] = torch.arange(256)
    written[0, 0, 512:] = torch.tensor([1.0, 2.0]).bfloat16().view(torch.uint8)
    found = read(reader, written, plain_scales(256, "fp8"), torch.float32, device, 0)[0, 0]
    expected = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
    is_number = ~expected.isnan()  # which are never written
    assert torch.equal(found[0][is_number], expected[is_number])
    assert torch.equal(found[1][is_number], 2 * expected[is_number])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
def test_ties_round_to_even(kv_dtype: KvDtype, device: str) -> None:
    codes = torch.from_numpy(every_code(kv_dtype))
    middle = (codes[1:] + codes[:-1]) / 2
    numbers = torch.cat((codes, middle, torch.tensor([-0.0]))).float()
    width = len(numbers)
    rows = numbers.expand(2, 1, 1, width).contiguous()
    written = run(kernel, rows, plain_scales(width, kv_dtype), device, 0)[0]
    expected = numbers.round().to(torch.int8) if kv_dtype == "int8" else numbers.to(torch.float8_e4m3fn)
    assert torch.equal(written[0, 0, :width], expected.view(torch.uint8))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
def test_a_row_at_its_channels_centres_is_read_back_exactly(kv_dtype: KvDtype, device: str) -> None:
    scales = scales_of(2, 64, kv_dtype)
    rows = scales.channels[:, 0, 0].float().permute(1, 0, 2).unsqueeze(2).contiguous()
    for module, place in ((reference, "cpu"), (kernel, device)):
        written, key, value = run(module, rows, scales, place)
        assert written[:, :, :128].view(torch.int8).abs().max() == 0
        assert torch.equal(torch.stack((key, value)), rows)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
def test_the_largest_number_of_float16_is_read_back_as_a_number(kv_dtype: KvDtype, device: str) -> None:
    most = torch.finfo(torch.float16).max
    rows = torch.tensor([most, -most, 1.0, 0.0]).half().expand(2, 1, 5, 4).contiguous()
    scales = plain_scales(4, kv_dtype)
    for module, reads, place in ((reference, reading, "cpu"), (kernel, reader, device)):
        written, *back = run(module, rows, scales, place, 0)
        found = read(reads, written, scales, torch.float16, place, 0)
        assert_same(torch.stack(back), rows, atol=64.0)
        assert torch.equal(found.unbind(2)[0].cpu(), back[0].cpu())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", IN_8_BITS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
# The interpreter computes with numpy, which warns.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_what_is_not_finite_is_not_read_back_as_a_number(
    value: float, kv_dtype: KvDtype, device: str
) -> None:
    rows = rows_of(2, 5, 64, torch.float16)
    rows[0, 1, 2, 3] = value
    scales = scales_of(2, 64, kv_dtype)
    for module, place in ((reference, "cpu"), (kernel, device)):
        _, key, _ = run(module, rows, scales, place)
        is_number = key.isfinite().all(-1).cpu()
        assert is_number.tolist() == [[True] * 5, [True, True, False, True, True]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("token", [0, 4, SCALE_TOKENS - 1, SCALE_TOKENS, SCALE_TOKENS + 1])
def test_writes_one_row_where_the_device_says(token: int, device: str) -> None:
    """The first token of a block takes the scales of the block before it."""
    rows = rows_of(2, 1, 64, torch.float32)
    for module, place in ((reference, "cpu"), (kernel, device)):
        scales = scales_of(2, 64, "int8")
        if token == SCALE_TOKENS:
            scales.channels[:, 1] = float("nan")
        into = StoredRows(host(empty(2, SCALE_TOKENS + 9, 64), place), to(scales, place))
        found = module.quantise_rows(*rows.to(place), into, position=torch.tensor([token], device=place))
        if place == "cuda":
            torch.cuda.synchronize()
        if token == SCALE_TOKENS:
            scales.channels[:, 1] = scales.channels[:, 0]
        assert torch.equal(into.scales.channels.cpu(), scales.channels)
        alone = StoredRows(empty(2, 1, 64), scales)
        expected = reference.quantise_rows(*rows, alone, token)
        assert torch.equal(into.rows[:, token : token + 1], alone.rows)
        assert_same(tuple(found), tuple(expected), atol=1e-6, rtol=1e-6)
        is_other = torch.arange(SCALE_TOKENS + 9) != token
        assert (into.rows[:, is_other] == 77).all()


@pytest.mark.parametrize("device", DEVICES)
def test_takes_rows_as_a_model_lays_them_out(device: str) -> None:
    rows, scales = rows_of(3, 5, 64, torch.float32), scales_of(3, 64, "int8")
    expected = run(reference, rows, scales, "cpu")[0]
    transposed = rows.transpose(1, 2).contiguous().transpose(1, 2)
    assert not transposed.is_contiguous()
    assert torch.equal(run(kernel, transposed.to(device), scales, device)[0], expected)
