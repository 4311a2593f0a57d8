"""Products with packed matrices, and rows of them, against what ``gguf`` unpacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from decode_step import DEVICES, poisoned
from packed import NAMES, matrix_of, unpacked
from torch import Tensor
from torch.nn.functional import gelu, silu

from lrqk_cli.formats import FORMATS
from lrqk_cli.kernels.fixed_point.reference import (
    empty_fixed,
    fixed_point,
)
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_experts_gemv import reference as experts_reference
from lrqk_cli.kernels.packed_gated_gemv import reference as gated_reference
from lrqk_cli.kernels.packed_gemv import reference
from lrqk_cli.kernels.unpack_rows import reference as unpack_reference
from lrqk_cli.models.repack import repack

kernel = pytest.importorskip("lrqk_cli.kernels.packed_gemv.triton", reason="Triton is not installed")
experts_kernel = pytest.importorskip(
    "lrqk_cli.kernels.packed_experts_gemv.triton", reason="Triton is not installed"
)
gated_kernel = pytest.importorskip(
    "lrqk_cli.kernels.packed_gated_gemv.triton", reason="Triton is not installed"
)
unpack_kernel = pytest.importorskip("lrqk_cli.kernels.unpack_rows.triton", reason="Triton is not installed")

# Fewer units than a program takes, as many, and more; rows that do not fill a program.
SHAPES = [(1, 256), (13, 1536), (8, 4096), (3, 4864), (3, 14336)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# The interpreter is slow; there the types of ``test_matrices_of_several_formats_share_a_launch`` must do.
TYPED_DEVICES = [
    pytest.param(dtype, *device.values, marks=device.marks)
    for device in DEVICES
    for dtype in DTYPES
    if dtype == torch.float16 or "cpu" not in device.values
]
MIXED = [("Q4_K", "Q4_K", "Q6_K"), ("Q5_0", "Q8_0", "Q4_1"), ("Q5_K", "Q5_1"), ("MXFP4", "IQ4_NL"), ("Q4_0",)]


def vector(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(7)).to(dtype)


def fixed(row: Tensor, device: str = "cpu") -> Tensor:
    out = empty_fixed(row.shape[0], row.dtype, row.device)
    fixed_point(out, row)
    return out.to(device)


def on(device: str, matrix: PackedMatrix) -> PackedMatrix:
    return replace(matrix, data=matrix.data.to(device))


def check(found: Tensor, weights: Tensor, row: Tensor, bias: Tensor | None = None) -> None:
    """Compare with the product in float64, to the rounding of sums in float32, and of the result."""
    expected = weights.double() @ row.double()
    size = weights.double().abs() @ row.double().abs()
    if bias is not None:
        expected, size = expected + bias.double(), size + bias.double().abs()
    allowed = 1e-6 * size + torch.finfo(found.dtype).eps * expected.abs()
    assert ((found.cpu().double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_product_is_that_of_the_unpacked_matrix(name: str, rows: int, width: int, device: str) -> None:
    if width > 10_000 and device == "cpu":
        pytest.skip("takes the interpreter too long")
    matrix, weights = matrix_of(name, rows, width)
    row = vector(width)
    for module, place in ((reference, "cpu"), (kernel, device)):
        out = poisoned(torch.empty(rows, device=place))
        module.packed_gemv((on(place, matrix),), fixed(row, place), out, biases=(None,))
        check(out, weights, row)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("names", MIXED)
def test_matrices_of_several_formats_share_a_launch(
    names: tuple[str, ...], dtype: torch.dtype, device: str
) -> None:
    width, counts = 1536, (5, 8, 3)[: len(names)]
    made = [matrix_of(n, rows, width, seed=rows, size=0.01) for n, rows in zip(names, counts, strict=True)]
    row = vector(width, dtype)
    # One matrix does without a bias.
    biases = [None if rows == 8 else torch.linspace(-1, 1, rows).to(dtype) for rows in counts]
    for module, place in ((reference, "cpu"), (kernel, device)):
        out = poisoned(torch.empty(sum(counts), dtype=dtype, device=place))
        module.packed_gemv(
            tuple(on(place, matrix) for matrix, _ in made),
            fixed(row, place),
            out,
            biases=tuple(None if bias is None else bias.to(place) for bias in biases),
        )
        for part, (_, weights), bias in zip(out.split(counts), made, biases, strict=True):
            check(part, weights, row, bias)


@pytest.mark.parametrize(("dtype", "device"), TYPED_DEVICES)
@pytest.mark.parametrize("names", MIXED)
def test_a_residual_is_added_to_the_rounded_product(
    names: tuple[str, ...], dtype: torch.dtype, device: str
) -> None:
    rows, width = 3, 512
    matrices = [matrix_of(name, rows, width, seed=n, size=0.01)[0] for n, name in enumerate(names)]
    row = vector(width, dtype)
    residual = 100 * vector(rows * len(names), dtype)
    for module, place in ((reference, "cpu"), (kernel, device)):
        alone, found = (poisoned(torch.empty_like(residual, device=place)) for _ in range(2))
        given = tuple(on(place, matrix) for matrix in matrices), fixed(row, place)
        named = {"biases": (None,) * len(names)}
        module.packed_gemv(*given, alone, **named)
        module.packed_gemv(*given, found, **named, residual=residual.to(place))
        # Triton's interpreter cuts numbers to bfloat16 instead of rounding them.
        cut = torch.finfo(dtype).eps if module is kernel and place == "cpu" else 0.0
        torch.testing.assert_close(found, alone + residual.to(place), rtol=cut, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("names", MIXED[:2])
def test_several_vectors_have_the_bits_of_each_alone(names: tuple[str, ...], device: str) -> None:
    dtype = torch.bfloat16
    width, count, rows = 256, 3, 3
    matrices = tuple(matrix_of(name, rows, width, seed=n, size=0.01)[0] for n, name in enumerate(names))
    given = torch.randn(count, width, generator=torch.Generator().manual_seed(3)).to(dtype)
    residual = torch.randn(count, rows * len(names), generator=torch.Generator().manual_seed(4)).to(dtype)
    for module, gated_module, place in ((reference, gated_reference, "cpu"), (kernel, gated_kernel, device)):
        vectors = torch.stack([fixed(one, place) for one in given])
        moved = tuple(on(place, matrix) for matrix in matrices)
        named = {"biases": (None,) * len(names)}
        found = poisoned(torch.empty_like(residual, device=place))
        module.packed_gemv(moved, vectors, found, **named, residual=residual.to(place))
        gated = poisoned(torch.empty(count, rows, dtype=dtype, device=place))
        gated_module.packed_gated_gemv(moved[0], moved[-1], vectors, gated, activation="silu")
        for number in range(count):
            alone = poisoned(torch.empty_like(found[number]))
            module.packed_gemv(moved, vectors[number], alone, **named, residual=residual[number].to(place))
            assert torch.equal(found[number], alone)
            alone = poisoned(torch.empty_like(gated[number]))
            gated_module.packed_gated_gemv(moved[0], moved[-1], vectors[number], alone, activation="silu")
            assert torch.equal(gated[number], alone)


@pytest.mark.parametrize(("dtype", "device"), TYPED_DEVICES)
@pytest.mark.parametrize(("vectors", "has_bias"), [(1, False), (3, True)])
@pytest.mark.parametrize(
    ("name", "rows", "width"),
    [("Q4_K", 13, 768), ("Q6_K", 8, 2048), ("Q8_0", 5, 96), ("MXFP4", 7, 2880), ("Q5_0", 1, 4096)],
)
def test_each_expert_has_the_product_of_its_own_matrix(
    name: str, rows: int, width: int, vectors: int, has_bias: bool, dtype: torch.dtype, device: str
) -> None:
    experts, chosen = 5, torch.tensor([4, 0, 4])
    matrix, weights = matrix_of(name, experts * rows, width, size=0.01)
    given = torch.randn(vectors, width, generator=torch.Generator().manual_seed(3)).to(dtype)
    bias = torch.linspace(-1, 1, experts * rows).view(experts, rows).to(dtype) if has_bias else None
    for module, place in ((experts_reference, "cpu"), (experts_kernel, device)):
        out = poisoned(torch.empty(3, rows, dtype=dtype, device=place))
        module.packed_experts_gemv(
            out,
            on(place, matrix),
            chosen.to(place),
            torch.stack([fixed(row, place) for row in given]),
            bias=None if bias is None else bias.to(place),
        )
        for number, expert in enumerate(chosen.tolist()):
            own = None if bias is None else bias[expert]
            check(out[number], weights.view(experts, rows, width)[expert], given[number % vectors], own)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(
    ("gate_name", "up_name"), [("Q4_K", "Q4_K"), ("Q6_K", "Q4_0"), ("Q5_1", "Q8_0"), ("IQ4_NL", "MXFP4")]
)
def test_a_gate_is_that_of_the_unpacked_matrices(
    gate_name: str, up_name: str, activation: Any, device: str
) -> None:
    rows, width = 7, 2816
    gate, gate_weights = matrix_of(gate_name, rows, width, seed=1, size=1e-3)
    up, up_weights = matrix_of(up_name, rows, width, seed=2, size=1e-3)
    row = vector(width)
    gated, scaled = (weights.double() @ row.double() for weights in (gate_weights, up_weights))
    expected = (silu(gated) if activation == "silu" else gelu(gated, approximate="tanh")) * scaled
    for module, place in ((gated_reference, "cpu"), (gated_kernel, device)):
        out = poisoned(torch.empty(rows, device=place))
        given = fixed(row, place)
        module.packed_gated_gemv(on(place, gate), on(place, up), given, out, activation=activation)
        torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [256, 1536, 4864])
@pytest.mark.parametrize("name", NAMES)
def test_rows_are_unpacked_as_gguf_does(name: str, width: int, device: str) -> None:
    matrix, weights = matrix_of(name, 21, width)
    rows = torch.tensor([20, 0, 7, 7, 13])
    exact = poisoned(torch.empty(5, width))
    unpack_reference.unpack_rows(exact, matrix, rows)
    assert torch.equal(exact, weights[rows])
    found = poisoned(torch.empty(5, width, device=device))
    unpack_kernel.unpack_rows(found, on(device, matrix), rows.to(device))
    # A GPU rounds product and difference once, together.
    size = weights[rows].abs().amax()
    assert ((found.cpu() - exact).abs() <= 2e-7 * size).all()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("device", DEVICES)
def test_every_exponent_of_a_scale_is_exact(device: str) -> None:
    """Unit u of row r has the byte 4 u + r; the last have products beyond float32, as for ``gguf``."""
    blocks = torch.randint(0, 256, (4, 64, 17), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    blocks[..., 0] = torch.arange(256).view(64, 4).mT
    blocks = blocks.flatten(1)
    matrix = on(device, repack(FORMATS["MXFP4"], blocks, 2048))
    weights = unpacked("MXFP4", blocks)
    assert (weights[0, :32].abs().amax(), weights[3].abs().amax()) == (12 * 2.0**-128, torch.inf)
    for module in (unpack_reference, unpack_kernel):
        out = poisoned(torch.empty(4, 2048, device=device))
        module.unpack_rows(out, matrix, torch.arange(4, device=device))
        assert torch.equal(out.cpu(), weights)
    for place in (5, 37, 1029, 2047):
        row = torch.zeros(2048)
        row[place] = 1
        out = poisoned(torch.empty(4, device=device))
        kernel.packed_gemv((matrix,), fixed(row, device), out, biases=(None,))
        assert torch.equal(out.cpu(), weights[:, place])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["MXFP4", "IQ4_NL"])
def test_every_code_at_every_place_means_its_value(name: str, device: str) -> None:
    """Row n has the code n + k at place k; all products are integers, and exact."""
    format = FORMATS[name]
    codes = (torch.arange(16)[:, None] + torch.arange(32)) % 16
    one = [128] if format.has_exponents else [0, 60]
    blocks = torch.cat((torch.tensor([one] * 16), codes[:, :16] | codes[:, 16:] << 4), 1).to(torch.uint8)
    weights = torch.tensor(format.values)[codes].float()
    assert torch.equal(unpacked(name, blocks), weights)
    row = torch.randint(-1000, 1000, (32,), generator=torch.Generator().manual_seed(5)).float()
    out = poisoned(torch.empty(16, device=device))
    matrix = on(device, repack(format, blocks, 32))
    kernel.packed_gemv((matrix,), fixed(row, device), out, biases=(None,))
    assert torch.equal(out.cpu().double(), weights.double() @ row.double())
