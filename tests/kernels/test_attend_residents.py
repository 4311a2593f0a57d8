"""Decode attention over the residents, the tail and the sinks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from decode_step import (
    DEVICES,
    Shape,
    assert_same,
    host,
    make_layer,
    make_plan,
    make_tail,
    noise,
    poisoned,
    stored,
    to,
)
from torch import Tensor

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.attend_residents import reference
from lrqk_cli.kernels.buffers import Fetch, Residents, StoredRows
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.fixed_point.reference import empty_fixed, fixed_point, numbers_of
from lrqk_cli.kernels.launch_scratch import AttendScratch

kernel = pytest.importorskip("lrqk_cli.kernels.attend_residents.triton", reason="Triton is not installed")

SHAPES = [
    Shape(0, queries=1),
    Shape(6, queries=8, width=80),
    Shape(31, queries=2),
    Shape(32, queries=3, width=96),
    Shape(62, queries=7, recent=40),
    Shape(150, hot=90, queries=5, width=256, heads=1),
    Shape(250, hot=170, recent=20, share=3, queries=1, width=128, heads=1),
    Shape(250, hot=170, recent=20, queries=28),
    Shape(1024, context=1100, hot=700, queries=4, width=128, heads=1),
    pytest.param(
        Shape(70_000, context=1 << 17, hot=8192, recent=64, queries=4, width=128, heads=3),
        marks=pytest.mark.gpu,
    ),
]


def draft_rows(shape: Shape, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return noise(18, shape.heads, count, 2, shape.width).to(dtype)


def run(
    module: Any,
    shape: Shape,
    dtype: torch.dtype,
    device: str,
    *,
    tail: bool = True,
    sinks: bool = True,
    softcap: float | None = None,
    codes: torch.dtype = torch.uint8,
    fetch: int | None = None,
    kv_dtype: KvDtype = "bf16",
    fixed: Tensor | None = None,
    drafts: int = 0,
) -> tuple[Tensor, ...]:
    """Return output and log-sum-exp, and the residents afterwards.

    Args:
        fetch: seed of a plan of fetches; None means that there is none.
        kv_dtype: of the rows to fetch.
        drafts: their number; queries are then those of a verify step.
    """
    store, residents = make_layer(shape, dtype)
    every = shape.sets, shape.queries
    options = {
        "scaling": 1 / math.sqrt(shape.width),
        "softcap": softcap,
        "tail": make_tail(shape, codes) if tail else None,
        "sinks": noise(12, *every) if sinks else None,
        "drafts": draft_rows(shape, drafts, dtype) if drafts else None,
    }
    results = [torch.empty(*every, shape.width), torch.empty(every)]
    out, lse = [poisoned(to(result, device)) for result in results]
    options = to(options, device)
    sizes = (*every, shape.rows, shape.width, torch.device(device))
    fetching = 0 if fetch is None else shape.hot
    scratch = poisoned(AttendScratch.empty(*sizes, tail_rank=shape.rank if tail else None, fetching=fetching))
    if fetch is not None:
        plan = make_plan(shape, residents, fetch)
        # What is to be replaced must not be read: it may be gone.
        residents.rows[:, shape.recent :][plan.leaving] = 1e4
        options["fetch"] = Fetch(to(plan, device), stored(store, device, kv_dtype))
    query, length = noise(11, *every, shape.width).to(dtype).to(device), shape.device_length.to(device)
    found = to(residents, device)
    module.attend_residents(query, found, length, scratch, out, lse, **options, fixed=fixed)
    return out, lse, *found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [{}, {"tail": False, "sinks": False}, {"softcap": 2.0, "sinks": False, "codes": torch.int8}],
    ids=["tail-sinks", "plain", "softcap-tail"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(
    shape: Shape, dtype: torch.dtype, options: dict[str, Any], device: str
) -> None:
    if device == "cpu" and (shape.length > 5000 or dtype == torch.bfloat16):
        pytest.skip("takes the interpreter too long, or it has no bfloat16 products")
    expected = run(reference, shape, dtype, "cpu", **options)
    found = run(kernel, shape, dtype, device, **options)
    # Weights are rounded to the rows' type before they meet V.
    rounding = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert_same(found[0], expected[0], atol=rounding, rtol=rounding)
    assert_same(found[1:], expected[1:], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fetch", [None, 0])
def test_spans_are_summed_a_few_at_a_time(
    fetch: int | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of codes of more dimensions than are summed at once."""
    shape = Shape(700, context=720, hot=50, recent=16, queries=3, rank=80, heads=1)
    assert make_tail(shape, torch.uint8).scores.masses.shape[3] > 4
    expected = run(reference, shape, torch.float32, "cpu", fetch=fetch)
    monkeypatch.setattr(kernel, "_SUM_TILE", 128)
    found = run(kernel, shape, torch.float32, device, fetch=fetch)
    assert_same(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "tail": False}, {"fetch": 0}], ids=str)
@pytest.mark.parametrize(
    ("drafts", "shape"),
    [
        (3, Shape(250, hot=170, recent=20, queries=28)),
        (3, Shape(250, hot=90, queries=16, width=128, heads=1)),
        (1, Shape(120, hot=40, queries=2, share=3, width=80)),
        (3, Shape(5, queries=12, width=96)),
    ],
    ids=str,
)
def test_drafts_are_attended_causally(
    drafts: int, shape: Shape, options: dict[str, Any], device: str
) -> None:
    dtype = torch.float32
    if "fetch" in options and shape.length < shape.hot:
        pytest.skip("all candidates are resident")
    expected = run(reference, shape, dtype, "cpu", drafts=drafts, **options)
    found = run(kernel, shape, dtype, device, drafts=drafts, **options)
    assert_same(found, expected, atol=2e-5, rtol=2e-5)
    without = run(kernel, shape, dtype, device, **options)
    first = slice(None, None, drafts + 1)
    assert_same(found[0][:, first], without[0][:, first])
    assert_same(found[1], without[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(120, queries=1, hot=1),
        Shape(150, hot=90, queries=5, width=256, heads=1),
        Shape(250, hot=90, queries=3, share=3, width=80, heads=1),
        Shape(1024, context=1100, hot=700, queries=4, width=128, heads=1),
        pytest.param(
            Shape(70_000, context=1 << 17, hot=8128, recent=64, queries=4, width=128, heads=3),
            marks=pytest.mark.gpu,
        ),
    ],
    ids=str,
)
def test_fetches_while_it_attends(
    shape: Shape, dtype: torch.dtype, seed: int, tail: bool, device: str
) -> None:
    if device == "cpu" and shape.length > 5000:
        pytest.skip("takes the interpreter too long")
    options: dict[str, Any] = {"tail": tail, "fetch": seed}
    expected = run(reference, shape, dtype, "cpu", **options)
    found = run(kernel, shape, dtype, device, **options)
    rounding = {torch.float32: 2e-5, torch.float16: 2e-3}[dtype]
    assert_same(found[0], expected[0], atol=rounding, rtol=rounding)
    assert_same(found[1], expected[1], atol=2e-5, rtol=2e-5)
    assert_same(found[2:], expected[2:])
    assert_same(run(kernel, shape, dtype, device, **options), found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
@pytest.mark.parametrize(("width", "share"), [(64, 1), (80, 3), (128, 2)])
def test_fetches_rows_in_8_bits(width: int, share: int, kv_dtype: KvDtype, device: str) -> None:
    shape = Shape(250, hot=90, queries=3, share=share, width=width, heads=2)
    options: dict[str, Any] = {"fetch": 0, "kv_dtype": kv_dtype}
    expected = run(reference, shape, torch.float32, "cpu", **options)
    found = run(kernel, shape, torch.float32, device, **options)
    assert_same(found[:2], expected[:2], atol=2e-5, rtol=2e-5)
    assert_same(found[2:], expected[2:])
    exact = run(reference, shape, torch.float32, "cpu", fetch=0)
    assert not torch.equal(exact[0], expected[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("queries", "width"), [(1, 32), (3, 96), (4, 128)])
def test_an_output_is_written_in_fixed_point_too(
    queries: int, width: int, dtype: torch.dtype, device: str
) -> None:
    shape = Shape(250, hot=170, queries=queries, width=width, heads=2)
    for module, place in ((reference, "cpu"), (kernel, device)):
        size = shape.sets * queries * width
        fixed = torch.full_like(empty_fixed(size, dtype, torch.device(place)), -1)
        out = run(module, shape, dtype, place, fixed=fixed)[0].cpu()
        expected = empty_fixed(size, dtype, torch.device("cpu"))
        fixed_point(expected, out.flatten())
        # A number between two integers may go either way.
        difference = (numbers_of(fixed.cpu()) - numbers_of(expected)).view(-1, 32).abs()
        assert (difference <= expected[-1].view(torch.float32)[:, None]).all()


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_are_equal_to_the_bit(device: str) -> None:
    shape = Shape(250, hot=170, queries=3, heads=1)
    assert_same(run(kernel, shape, torch.float16, device), run(kernel, shape, torch.float16, device))


@pytest.mark.parametrize("drafts", [0, 2])
@pytest.mark.parametrize("codes", [None, torch.uint8, torch.int8, torch.bfloat16])
@pytest.mark.parametrize("module", [reference, kernel], ids=["reference", "triton"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here")
def test_matches_the_definition_in_float64(module: Any, codes: torch.dtype | None, drafts: int) -> None:
    shape = Shape(120, hot=50, recent=16, queries=3, rank=20)
    new_key, new_value = draft_rows(shape, drafts).double().unbind(2)
    store, residents = make_layer(shape)
    tail = make_tail(shape, codes or torch.uint8)
    query = noise(11, shape.sets, shape.queries, shape.width)
    sinks = noise(12, shape.sets, shape.queries)
    options: dict[str, Any] = {"tail": codes is not None, "codes": codes or torch.uint8, "drafts": drafts}
    output = run(module, shape, torch.float32, "cpu", **options)[0]
    for row_set in range(shape.sets):
        key, value = store[row_set, : shape.length + 1].double().unbind(1)
        candidates = shape.length + 1 - shape.recent
        outside = ~residents.resident[row_set, :candidates]
        inside = torch.ones(shape.length + 1, dtype=torch.bool)
        inside[:candidates] = ~outside
        code = unpack_codes(tail.codes[row_set, :candidates])[outside].double()
        predicted_values = tail.intercept[row_set].double() + code @ tail.slope[row_set].double()
        for member in range(shape.queries):
            seen = member % (drafts + 1)
            keys = torch.cat((key[inside], new_key[row_set, :seen]))
            values = torch.cat((value[inside], new_value[row_set, :seen]))
            logits = keys @ query[row_set, member].double() / math.sqrt(shape.width)
            predicted = tail.scores.logits[row_set, member, :candidates][outside].double()
            weight = predicted.exp() * (codes is not None)
            total = logits.exp().sum() + weight.sum() + sinks[row_set, member].double().exp()
            expected = (logits.exp() @ values + weight @ predicted_values) / total
            torch.testing.assert_close(output[row_set, member].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fetching", [False, True])
def test_a_tail_without_mass_adds_nothing(fetching: bool, device: str) -> None:
    shape = Shape(120, hot=50, recent=16, queries=2)
    store, residents = make_layer(shape)
    tail = make_tail(shape, torch.uint8)
    # The index predicts nothing of whatever is not resident in the end, so that only rounding is left.
    plan = make_plan(shape, residents)
    scores, codes = tail.scores, unpack_codes(tail.codes)[:, :105]
    for row_set in range(shape.sets):
        after = residents.resident[row_set, :105].clone()
        before = after.clone()
        if fetching:
            count = int(plan.counts[row_set])
            after[residents.slot_token[row_set, plan.leaving[row_set]]] = False
            after[plan.token[row_set, :count].long()] = True
        logits = scores.logits[row_set, :, :105]
        logits[:, ~after] = float("-inf")
        mass = torch.exp(logits - logits.amax(-1, keepdim=True)) * ~before
        scores.masses[row_set, :, 0, 0] = logits.amax(-1)
        scores.masses[row_set, :, 2, 0] = mass.sum(-1)
        assert scores.code_sums is not None
        scores.code_sums[row_set, :, 0] = mass @ codes[row_set]
    sizes = (shape.sets, shape.queries)
    scratch = AttendScratch.empty(
        *sizes, shape.rows, shape.width, torch.device(device), tail_rank=shape.rank, fetching=shape.hot
    )
    outputs = []
    for added in (None, to(tail, device)):
        out, lse = torch.empty(*sizes, shape.width, device=device), torch.empty(sizes, device=device)
        kernel.attend_residents(
            noise(11, *sizes, shape.width).to(device),
            to(residents, device),
            shape.device_length.to(device),
            scratch,
            out,
            lse,
            scaling=0.1,
            fetch=Fetch(to(plan, device), StoredRows(host(store, device))) if fetching else None,
            tail=added,
        )
        outputs.append(out)
    assert_same(outputs[1], outputs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_maps_of_a_tail_that_is_not_there_do_not_matter(device: str) -> None:
    shape = Shape(31, queries=2)
    tail = make_tail(shape, torch.uint8)
    sizes = (shape.sets, shape.queries)
    scratch = AttendScratch.empty(*sizes, shape.rows, shape.width, torch.device(device), tail_rank=shape.rank)
    unknown = tail._replace(slope=poisoned(tail.slope), intercept=poisoned(tail.intercept))
    outputs = []
    for added in (None, to(unknown, device)):
        out, lse = torch.empty(*sizes, shape.width, device=device), torch.empty(sizes, device=device)
        inputs = to((noise(11, *sizes, shape.width), make_layer(shape)[1], shape.device_length), device)
        kernel.attend_residents(*inputs, poisoned(scratch), out, lse, scaling=0.1, tail=added)
        outputs.append(out)
    assert_same(outputs[1], outputs[0])


def test_a_tail_needs_room_for_its_sums() -> None:
    shape = Shape(120)
    _, residents = make_layer(shape)
    sizes = (shape.sets, shape.queries)
    scratch = AttendScratch.empty(*sizes, shape.rows, shape.width, torch.device("cpu"))
    out, lse = torch.empty(*sizes, shape.width), torch.empty(sizes)
    with pytest.raises(ValueError, match="code sums"):
        kernel.attend_residents(
            out, residents, shape.device_length, scratch, out, lse, scaling=0.1, tail=make_tail(shape)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_offsets_beyond_32_bits() -> None:
    sets, queries, width, recent, hot, count = 3, 2, 256, 8, (1 << 21) - 8, 3000
    rows = torch.empty(sets, recent + hot, 2, width, dtype=torch.float16, device="cuda")
    assert rows.numel() > 2**31
    rows[:, :count] = noise(1, sets, count, 2, width).half().cuda()
    small = Residents(rows[:, :count].cpu(), torch.zeros(sets, count - recent), torch.zeros(sets, count))
    query, length = noise(2, sets, queries, width).half(), torch.tensor([count - 1])
    results = []
    for module, device, residents in (
        (reference, "cpu", small),
        (kernel, "cuda", Residents(rows, torch.zeros(sets, hot, dtype=torch.int64, device="cuda"), rows)),
    ):
        scratch = AttendScratch.empty(sets, queries, recent + hot, width, torch.device(device))
        out, lse = (torch.empty(*size, device=device) for size in ((sets, queries, width), (sets, queries)))
        inputs = (query.to(device), residents, length.to(device), scratch)
        module.attend_residents(*inputs, out, lse, scaling=0.05)
        results.append((out, lse))
    assert_same(results[1], results[0], atol=2e-3, rtol=2e-3)
