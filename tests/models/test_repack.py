"""Blocks of a GGUF file on their way to planes: nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from packed import NAMES, matrix_of, random_blocks, unpacked

from lrqk_cli.formats import FORMATS
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows
from lrqk_cli.models import repack as repack_module
from lrqk_cli.models.repack import repack, unpack_blocks


def plain(matrix) -> torch.Tensor:
    out = torch.full((matrix.rows, matrix.width), float("nan"))
    unpack_rows(out, matrix, torch.arange(matrix.rows))
    return out


@pytest.mark.parametrize("size", [1e-7, 1.0, 9000.0])
@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_the_same_bit_for_bit(name: str, size: float) -> None:
    matrix, weights = matrix_of(name, 9, 1024, size=size)
    finite = weights.isfinite()
    assert torch.equal(plain(matrix)[finite], weights[finite])
    assert finite.float().mean() > 0.6


@pytest.mark.parametrize("name", NAMES)
def test_blocks_can_be_unpacked_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repack_module, "_UNPACKED_AT_ONCE", 1100)
    blocks = random_blocks(FORMATS[name], 7, 512)
    for order in (None, torch.tensor([6, 0, 5, 1, 4, 2, 3])):
        out = torch.full((7, 512), float("nan"))
        unpack_blocks(FORMATS[name], blocks, out, order)
        expected = unpacked(name, blocks)
        assert torch.equal(out, expected if order is None else expected[order])


@pytest.mark.parametrize("name", NAMES)
def test_rows_can_come_in_another_order_and_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repack_module, "_AT_ONCE", 1000)
    blocks = random_blocks(FORMATS[name], 7, 512)
    order = torch.tensor([6, 0, 5, 1, 4, 2, 3])
    matrix = repack(FORMATS[name], blocks, 512, order)
    assert torch.equal(plain(matrix), unpacked(name, blocks)[order])


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_takes_no_more_than_its_file_but_for_whole_bytes_of_scales(name: str) -> None:
    format = FORMATS[name]
    matrix, _ = matrix_of(name, 16, 4096)
    in_file = 16 * 4096 // format.block * format.block_bytes
    units, blocks = 4096 // 32, 4096 // format.block
    row = units * (4 * format.bits + format.scales) + format.float_bytes * format.floats * blocks
    assert matrix.data.numel() == 16 * row
    assert in_file <= matrix.data.numel() <= 1.03 * in_file


def test_all_codes_occur_in_the_test_data() -> None:
    for name in NAMES:
        blocks = random_blocks(FORMATS[name], 64, 1024)
        scaled = unpacked(name, blocks)
        assert len(np.unique(scaled.numpy())) > 2 ** FORMATS[name].bits


@pytest.mark.parametrize("place", [slice(0, 3), slice(3, 6), slice(1, None, 2)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_takes_another_one_in_each_of_its_shares(name: str, place: slice) -> None:
    whole, weights = matrix_of(name, 4 * 6, 512, seed=1)
    other, others = matrix_of(name, 4 * 3, 512, seed=2)
    whole.put_in_each(4, place, other)
    weights.view(4, 6, 512)[:, place] = others.view(4, 3, 512)
    assert torch.equal(plain(whole), weights)
