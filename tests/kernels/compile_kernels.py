"""Compile the kernels of a decode step for a GPU that need not be there, at the shapes of common models.

Run as a program with a compute capability such as 86. Prints of each kernel its shared memory in bytes,
whether it is a dependent launch, and whether it waits for the launch before it touches any memory. With
``briefly`` as second argument, it compiles for a part of the shapes.
"""

from __future__ import annotations

import json
import math
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).parents[1]))
from decode_step import Shape, make_index, make_layer, make_maps, make_tail, noise, stored
from packed import matrix_of

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.buffers import Fetch, FetchPlan, Projected, StoredRows
from lrqk_cli.kernels.fixed_point.reference import empty_fixed
from lrqk_cli.kernels.launch_scratch import AttendScratch, SelectScratch
from lrqk_cli.memory import machine

CPU = torch.device("cpu")
DRIVER = "580.159.04"
# Llama 3.1 8B, Qwen2.5 0.5B, Gemma 3 270M, and an odd one.
SHAPES = [
    (Shape(3000, context=4096, heads=1, queries=4, width=128, rank=64, hot=1024, recent=64), torch.uint8),
    (Shape(3000, context=4096, heads=1, queries=7, width=64, rank=64, hot=1024, recent=64), torch.uint8),
    (Shape(3000, context=4096, heads=1, queries=4, width=256, rank=32, hot=1024, recent=64), torch.int8),
    (Shape(3000, context=4100, heads=1, queries=16, width=80, rank=30, hot=1000, recent=60), torch.uint8),
]
KV_DTYPES: list[KvDtype] = ["fp8", "int8"]
# Mixtures as files have them: those of rows of whole blocks, and of others.
PACKED = [
    (4096, ("Q4_K", "Q5_K", "Q6_K")),
    (14336, ("Q4_K", "Q6_K", "Q8_0")),
    (896, ("Q5_0", "Q8_0", "Q4_0")),
    (576, ("Q4_1", "Q5_1", "Q8_0")),
    (2880, ("MXFP4", "IQ4_NL", "Q8_0")),
]


class AbsentGpu:
    """What Triton asks its driver while it compiles."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled(TypedDict):
    shared: int
    is_dependent: bool
    waits_first: bool


def waits_first(ptx: str) -> bool:
    """Return whether programs wait for the launch before them: all, and before they touch any memory."""
    before, waits, _ = ptx.partition("griddepcontrol.wait")
    touches = r"\b(ld|st|atom|red)\.[\w.:]*global|cp\.async|launch_dependents|\b(bra|ret)\b"
    return bool(waits) and re.search(touches, before) is None


def compile_only(compiled: dict[str, Compiled]) -> None:
    """Let every launch end with the compilation, and note what it takes."""
    launch = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        made: Compiled = {
            "shared": kernel.metadata.shared,
            "is_dependent": getattr(kernel.metadata, "launch_pdl", False),
            "waits_first": waits_first(kernel.asm["ptx"]),
        }
        earlier = compiled.setdefault(self.fn.__name__, made)
        earlier["shared"] = max(earlier["shared"], made["shared"])
        for flag in ("is_dependent", "waits_first"):
            earlier[flag] &= made[flag]
        return kernel

    JITFunction.run = run


def operation(package: str, name: str | None = None) -> Any:
    return getattr(import_module(f"lrqk_cli.kernels.{package}.triton"), name or package)


def run_step(shape: Shape, codes_dtype: torch.dtype, dtype: torch.dtype, kv_dtype: KvDtype) -> None:
    """Launch all that a layer does in a step."""
    plain, residents = make_layer(shape, dtype)
    store = stored(plain, "cpu", kv_dtype)
    codes, tail, length = (
        make_index(shape, codes_dtype)[1],
        make_tail(shape, codes_dtype),
        shape.device_length,
    )
    projected = Projected.empty(shape.sets, shape.queries, shape.rank, CPU)
    scaling = 1 / math.sqrt(shape.width)
    query = noise(11, shape.sets, shape.queries, shape.width).to(dtype)
    key, value = noise(12, 2, shape.heads, 1, shape.width).to(dtype)
    operation("append_token")(
        query, key, value, maps=make_maps(shape), codes=codes, store=store, residents=residents,
        length=length, out=projected,
    )  # fmt: skip
    operation("score_tokens")(
        projected, codes, residents.resident, length, tail.scores, recent=shape.recent, scaling=scaling
    )
    plan = FetchPlan.empty(shape.sets, shape.hot, CPU)
    select = SelectScratch.empty(shape.sets, shape.hot, shape.context, CPU)
    operation("select_rows")(tail.scores, residents, length, select, plan, top_k=256)
    operation("replace_rows")(residents, plan, store)
    operation("copy_rows", "copy_from_host")(residents.rows, residents.rows.clone())
    scratch = AttendScratch.empty(
        shape.sets, shape.queries, shape.rows, shape.width, CPU, tail_rank=shape.rank, fetching=shape.hot
    )
    out, lse = torch.empty_like(query), torch.empty(query.shape[:2])
    operation("attend_residents")(
        query, residents, length, scratch, out, lse, scaling=scaling, fetch=Fetch(plan, store), tail=tail
    )
    if shape.width % 32 == 0:
        fixed = empty_fixed(query.numel(), dtype, CPU)
        operation("attend_residents")(
            query, residents, length, scratch, out, lse, scaling=scaling, tail=tail, fixed=fixed
        )
    weights = torch.zeros(shape.context)
    operation("weigh_tokens")(query, residents, lse, length, weights, scaling=scaling)
    rows = query.flatten(0, 1)
    operation("rms_norm")(rows, rows[0].clone(), out.view_as(rows), eps=1e-6, offset=0.0, rounds_first=True)
    angle = rows[0].clone()
    heads = rows.unsqueeze(1)
    turned = out.view_as(heads), torch.empty_like(heads[:1])
    operation("rotate")(heads, heads[:1], angle[None], angle[None], *turned)
    weights = noise(13, 3, 96, shape.width).to(dtype)
    operation("gemv")(weights.unbind(), rows[0], torch.empty(288), biases=(None, weights[0, 0], None))
    operation("gated_gemv")(*weights[:2], rows[0], torch.empty(96), activation="silu")
    parts = out.float(), lse, out.float(), lse
    parts = tuple(part.unsqueeze(2) for part in parts)
    operation("merge")(*parts)
    operation("merge")(*parts, parts[:2])
    members, shift = heads.to(dtype).unsqueeze(2), torch.zeros(heads.shape[0], shape.width)
    operation("sum_products")(members, members, shift, shift)
    operation("sum_products")(members, members)
    operation("encode_codes")(torch.empty(shape.sets, 64, shape.rank), torch.ones(1, 1, 1), codes[:, :64])


def run_seeding(rank: int, dtype: torch.dtype) -> None:
    """Launch what scores all tokens for the newest queries."""
    shape = Shape(3000, context=4096, heads=1, queries=128, rank=rank)
    operation("total_scores")(*make_index(shape, dtype), shape.length, scaling=0.1)


def run_packed(width: int, names: tuple[str, str, str], dtype: torch.dtype) -> None:
    """Launch what reads packed matrices."""
    matrices = tuple(matrix_of(name, 40, width)[0] for name in names)
    row, bias = noise(14, width).to(dtype), noise(15, 40).to(dtype)
    fixed = empty_fixed(width, dtype, CPU)
    operation("fixed_point")(fixed, row)
    norm = row[None], row, torch.empty(1, width, dtype=dtype)
    operation("rms_norm")(*norm, eps=1e-6, offset=0.0, rounds_first=True, fixed=fixed)
    operation("packed_gemv")(matrices, fixed, torch.empty(120, dtype=dtype), biases=(None, bias, None))
    product = matrices[:1], fixed, torch.empty(40, dtype=dtype)
    operation("packed_gemv")(*product, biases=(None,), residual=bias)
    operation("packed_gated_gemv")(*matrices[:2], fixed, torch.empty(40, dtype=dtype), activation="silu")
    operation("fit_scales")(torch.empty(48), noise(17, 48, 16), zero=32)
    for negative in (True, False):
        fit = operation("fit_scales", "fit_scales_and_minima")
        fit(torch.empty(2, 24), noise(18, 24, 32), most=15, at_most_zero=negative)
    several = empty_fixed(width, dtype, CPU, 2)
    operation("fixed_point")(several, torch.stack((row, row)))
    for matrix in matrices:
        experts = torch.empty(2, 10), matrix, torch.zeros(2, dtype=torch.int64), several
        operation("packed_experts_gemv")(*experts, bias=noise(16, 4, 10).to(dtype))
        operation("unpack_rows")(torch.empty(2, width, dtype=dtype), matrix, torch.arange(2))


def run_segment(shape: Shape, kv_dtype: KvDtype) -> None:
    """Launch what a prefill does with rows in 8 bits."""
    store = stored(make_layer(shape)[0], "cpu", kv_dtype)
    key, value = noise(12, 2, shape.heads, 64, shape.width).bfloat16()
    operation("quantise_rows")(key, value, store)
    out = torch.empty(shape.heads, 64, 2, shape.width, dtype=torch.bfloat16)
    operation("dequantise_rows")(StoredRows(store.rows[:, :64], store.scales), out)


def main() -> None:
    compiled: dict[str, Compiled] = {}
    triton.runtime.driver.set_active(AbsentGpu(int(sys.argv[1])))
    machine.driver_version = lambda: DRIVER
    compile_only(compiled)
    run_step(*SHAPES[0], torch.bfloat16, "bf16")
    if sys.argv[2:] == ["briefly"]:
        run_segment(SHAPES[0][0], "int8")
        run_packed(*PACKED[0], torch.bfloat16)
    else:
        # By itself, because other indexes need more shared memory.
        compiled["_score of packed codes"] = compiled["_score"].copy()
        run_all()
    sys.stdout.write(json.dumps(compiled))


def run_all() -> None:
    for shape, codes in SHAPES:
        for dtype in (torch.bfloat16, torch.float16):
            run_step(shape, codes, dtype, "bf16")
        for kv_dtype in KV_DTYPES:
            run_step(shape, codes, torch.bfloat16, kv_dtype)
            run_segment(shape, kv_dtype)
    for rank in (64, 128, 256):
        for codes in (torch.uint8, torch.int8, torch.bfloat16):
            run_seeding(rank, codes)
    for width, names in PACKED:
        run_packed(width, names, torch.bfloat16)


if __name__ == "__main__":
    main()
