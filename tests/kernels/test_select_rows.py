"""What a step fetches and what leaves, against the definition written with sets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from decode_step import DEVICES, Shape, assert_same, make_layer, make_scores, poisoned, to
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lrqk_cli.config import Aggregate
from lrqk_cli.kernels.buffers import LOWEST_SCORE, FetchPlan, Residents, TokenScores
from lrqk_cli.kernels.launch_scratch import SelectScratch
from lrqk_cli.kernels.select_rows import reference
from lrqk_cli.memory.scratch import BINS

kernel = pytest.importorskip("lrqk_cli.kernels.select_rows.triton", reason="Triton is not installed")

# The largest width of a bin in the logarithm of a score of up to eight queries, and what rounding may add.
WIDTH = math.log1p(reference.bin_width(8.0) / 2**23) + 1e-3


def buffers(shape: Shape, columns: int, device: str) -> tuple[SelectScratch, FetchPlan]:
    scratch = SelectScratch.empty(shape.sets, shape.hot, columns, torch.device(device))
    plan = FetchPlan.empty(shape.sets, shape.hot, torch.device(device))
    for tensor in (*scratch, *plan[:3], plan.leaving):
        # Only the histogram of the tokens must be zero.
        poisoned(tensor[:, 1] if tensor is scratch.histogram else tensor)
    return scratch, plan


def log_scores(scores: TokenScores, count: int, candidates: int, aggregate: Aggregate) -> Tensor:
    shares = scores.logits[:, :, :count].double().log_softmax(-1)[:, :, :candidates]
    score = shares.logsumexp(1) if aggregate == "sum" else shares.amax(1)
    return score.clamp(min=math.log(LOWEST_SCORE))


def check_bijection(residents: Residents, plan: FetchPlan) -> None:
    for row_set, count in enumerate(plan.counts.tolist()):
        incoming, slots = plan.token[row_set, :count].long(), plan.slot[row_set, :count].long()
        assert not residents.resident[row_set, incoming.cpu()].any()
        after = residents.slot_token[row_set].clone()
        after[slots.cpu()] = incoming.cpu()
        assert len({*slots.tolist()}) == count
        assert len({*after.tolist()}) == residents.hot


def check_plan(residents: Residents, plan: FetchPlan, score: Tensor, wanted: int) -> None:
    """Check that the best ``wanted`` are resident after the plan, and that the worst left."""
    for row_set, count in enumerate(plan.counts.tolist()):
        incoming = plan.token[row_set, :count].tolist()
        slots = plan.slot[row_set, :count].tolist()
        assert len(set(incoming)) == len(set(slots)) == count
        assert not residents.resident[row_set, incoming].any()
        held = residents.slot_token[row_set]
        assert sorted(slots) == plan.leaving[row_set].nonzero().flatten().tolist()
        leaving = held[slots].tolist()
        after = sorted(set(held.tolist()) - set(leaving) | set(incoming))
        # A bijection of slots and residents again.
        assert len(after) == residents.hot
        own = score[row_set]
        threshold = own.topk(wanted).values[-1].item()
        # What is better by a bin was demanded, so it stays or comes; what is worse by a bin does not come.
        assert set((own > threshold + WIDTH).nonzero().flatten().tolist()) <= set(after)
        assert all(own[token] >= threshold - WIDTH for token in incoming)
        # What left is no better than what was not demanded and stayed.
        stays = [token for token in after if token not in incoming and own[token] < threshold - WIDTH]
        if leaving and stays:
            assert own[leaving].max() <= own[stays].min() + WIDTH


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("module", [reference, kernel], ids=["reference", "triton"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU here")
def test_the_best_become_resident_and_the_worst_leave(module: Any, data: st.DataObject) -> None:
    hot = data.draw(st.integers(1, 40))
    recent = data.draw(st.integers(1, 9))
    length = data.draw(st.integers(hot + recent, hot + recent + 60))
    shape = Shape(length, heads=1, queries=data.draw(st.integers(1, 8)), hot=hot, recent=recent, width=16)
    wanted = data.draw(st.integers(1, hot))
    # Narrow spreads make ties, wide ones reach below the lowest bin.
    scores = make_scores(shape, scaling=data.draw(st.sampled_from([0.0, 1e-4, 0.01, 0.1, 1.0])))
    aggregate = data.draw(st.sampled_from(["sum", "max"]))
    _, residents = make_layer(shape)
    scratch, plan = buffers(shape, shape.context, "cpu")
    module.select_rows(
        scores, residents, shape.device_length, scratch, plan, top_k=wanted, aggregate=aggregate
    )
    candidates = length + 1 - recent
    check_plan(residents, plan, log_scores(scores, length + 1, candidates, aggregate), wanted)
    demanded, fetched = plan.totals.tolist()
    assert fetched == int(plan.counts.sum()) <= demanded <= wanted


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [300, 1100, 2500])
def test_programs_that_bin_several_blocks_choose_the_same(
    length: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Shape(length, context=length + 20, hot=70, queries=5)
    scores, residents = make_scores(shape), make_layer(shape)[1]
    inputs = to((scores, residents, shape.device_length), device)
    found = list[tuple[Tensor, ...]]()
    for resident in (kernel._BIN_RESIDENT, 1):
        monkeypatch.setattr(kernel, "_BIN_RESIDENT", resident)
        scratch, plan = buffers(shape, shape.context, device)
        kernel.select_rows(*inputs, scratch, plan, top_k=30)
        found.append((plan.counts, plan.leaving, scratch.token_bin[:, : length + 1 - shape.recent]))
    assert int(found[0][0].sum()) > 0
    assert_same(found[1], found[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("module", [reference, kernel], ids=["reference", "triton"])
@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("tokens", [slice(None), slice(3, 5)], ids=["all", "some"])
# The interpreter computes with numpy, which warns.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_whatever_the_scores_slots_and_residents_are_a_bijection(
    module: Any, tokens: slice, value: float, device: str
) -> None:
    if module is reference and device == "cuda":
        pytest.skip("references are for the CPU")
    shape = Shape(120, hot=40, share=2)
    scores, residents = make_scores(shape), make_layer(shape)[1]
    scores.logits[:, :, tokens] = value
    blocks = scores.logits[:, :, : shape.length + 1].split(scores.span, 2)
    peaks = torch.stack([block.amax(-1) for block in blocks], -1)
    masses = torch.stack([(block - block.amax(-1, keepdim=True)).exp().sum(-1) for block in blocks], -1)
    scores.masses[..., : len(blocks)] = torch.stack((peaks, masses, masses), 2)
    scratch, plan = buffers(shape, shape.context, device)
    inputs = to((scores, residents, shape.device_length), device) if device == "cuda" else None
    module.select_rows(
        *(inputs or (scores, residents, shape.device_length)), scratch, plan, top_k=shape.hot // 2
    )
    check_bijection(residents, plan)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("module", [reference, kernel], ids=["reference", "triton"])
@pytest.mark.parametrize("are_resident", [True, False])
def test_sink_tokens_come_and_stay_whatever_their_scores(
    module: Any, are_resident: bool, device: str
) -> None:
    """A head that rests on the first tokens loses its output with them, whatever an index says."""
    if module is reference and device == "cuda":
        pytest.skip("references are for the CPU")
    sinks, wanted = 3, 24
    shape = Shape(250, hot=40, share=2)
    scores, residents = make_scores(shape, 1.0), make_layer(shape)[1]
    scores.logits[:, :, :sinks] -= 100.0
    for slot_token, resident in zip(residents.slot_token, residents.resident, strict=True):
        others = [token for token in slot_token.tolist() if token >= sinks]
        others += [token for token in range(sinks, 200) if token not in others]
        held = (list(range(sinks)) if are_resident else []) + others
        slot_token.copy_(torch.tensor(held[: shape.hot]))
        resident.zero_()
        resident[slot_token] = True
    scratch, plan = buffers(shape, shape.context, device)
    inputs = to((scores, residents, shape.device_length), device) if device == "cuda" else None
    inputs = inputs or (scores, residents, shape.device_length)
    module.select_rows(*inputs, scratch, plan, top_k=wanted, sink_tokens=sinks)
    for row_set, count in enumerate(plan.counts.tolist()):
        incoming = plan.token[row_set, :count].tolist()
        leaving = residents.slot_token[row_set][plan.slot[row_set, :count].cpu().long()].tolist()
        held = set(residents.slot_token[row_set].tolist())
        assert set(range(sinks)) <= (held - set(leaving)) | set(incoming)
        assert count > 0
    assert wanted * len(plan.counts) >= int(plan.totals[0]) > sinks * len(plan.counts)


SHAPES = [
    Shape(150, hot=40, share=2),
    Shape(1023, context=1030, hot=100, queries=1),
    Shape(2500, context=3000, hot=1500, queries=4, heads=1),
    Shape(5000, context=6001, hot=2100, queries=7, heads=1, recent=64),
    Shape(2500, context=3000, hot=900, queries=28, heads=1),
    pytest.param(Shape(70_000, context=1 << 17, hot=8192, queries=4, heads=3), marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("share", "spread", "aggregate"), [(4, 0.5, "sum"), (1, 0.003, "sum"), (3, 0.4, "max")]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(
    shape: Shape, share: int, spread: float, aggregate: Aggregate, device: str
) -> None:
    if shape.length > 6000 and device == "cpu":
        pytest.skip("takes the interpreter too long")
    if shape.queries > 16 and spread < 0.01:
        pytest.skip("sums over so many queries are all in one bin")
    top_k = max(1, shape.hot // share)
    scores, residents = make_scores(shape, spread), make_layer(shape)[1]
    length = shape.device_length
    inputs = to((scores, residents, length), device) if device == "cuda" else (scores, residents, length)

    def run() -> tuple[SelectScratch, FetchPlan]:
        scratch, plan = buffers(shape, shape.context, device)
        for _ in range(2):  # The histograms must be as they were.
            kernel.select_rows(*inputs, scratch, plan, top_k=top_k, aggregate=aggregate)
        return scratch, plan

    scratch, plan = run()
    candidates = shape.length + 1 - shape.recent
    expected_scratch, expected = buffers(shape, shape.context, "cpu")
    reference.bin_scores(scores, residents, length, expected_scratch, aggregate)
    distance = scratch.token_bin.cpu().int() - expected_scratch.token_bin
    # Rounding moves a score on the edge of two bins.
    assert distance.abs().max() <= 1
    assert distance.count_nonzero() <= 1 + distance.numel() // 200
    assert_same(scratch.slot_bin, scratch.token_bin.cpu().gather(1, residents.slot_token))
    # Given the same bins, the plan is the same to the order of its entries.
    same_bins = expected_scratch._replace(token_bin=scratch.token_bin.cpu())
    reference.list_fetches_by_bins(residents, length, same_bins, expected, top_k)
    assert_same(plan[:3], expected[:3])
    assert_same(plan.leaving, expected.leaving)
    assert plan.counts.sum() > 0
    assert_same(plan.totals, 2 * expected.totals)
    assert (scratch.token_bin[:, candidates:] == -7).all()
    assert_same(run(), (scratch, plan))


@pytest.mark.parametrize("device", DEVICES)
def test_more_slots_than_16_bits_count(device: str) -> None:
    hot = 70_000
    shape = Shape(140_000, context=140_050, heads=1, hot=hot, queries=1, width=1)
    candidates = shape.length + 1 - shape.recent
    resident = torch.zeros(1, shape.context, dtype=torch.bool)
    resident[:, :hot] = True
    residents = Residents(torch.zeros(1, shape.rows, 2, 1), torch.arange(hot)[None], resident)
    scratch, plan = buffers(shape, shape.context, device)
    expected_scratch, expected = buffers(shape, shape.context, "cpu")
    # 69,400 tokens come: for all 68,900 of the lowest bin, and for 500 of the 1,000 of the next.
    bins = torch.zeros(1, shape.context, dtype=torch.int16)
    bins[0, :100] = 250
    bins[0, 30_000:31_000] = 1
    bins[0, hot : hot + 69_400] = 200
    for made in (scratch, expected_scratch):
        made.token_bin[:, :candidates] = bins[:, :candidates].to(made.token_bin.device)
    scratch.histogram[0, 0] = torch.bincount(bins[0, :candidates].int(), minlength=BINS).int()
    scratch.histogram[0, 1] = 0
    length = shape.device_length
    kernel.list_fetches_by_bins(to(residents, device), length.to(device), scratch, plan, hot)
    reference.list_fetches_by_bins(residents, length, expected_scratch, expected, hot)
    assert plan.counts.tolist() == [69_400]
    assert_same(plan[:3], expected[:3])
    assert_same(plan.leaving, expected.leaving)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [0, 7, 31])
def test_nothing_is_fetched_while_all_candidates_fit(length: int, device: str) -> None:
    shape = Shape(length, share=2)
    wanted = min(5, max(0, length + 1 - shape.recent))
    for module, place in ((reference, "cpu"), (kernel, device)):
        scratch, plan = buffers(shape, shape.context, place)
        # Of no use, and so not to be read: the scores are poison.
        scores = TokenScores.empty(shape.sets, shape.queries, shape.context, torch.device(place))
        inputs = (poisoned(scores), to(make_layer(shape)[1], place), shape.device_length.to(place))
        module.select_rows(*inputs, scratch, plan, top_k=5)
        assert plan.counts.tolist() == [0] * shape.sets
        assert plan.totals.tolist() == [wanted * shape.sets, 0]
        assert not plan.leaving.any()
        assert (scratch.histogram[:, 0] == 0).all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_chooses_rows_after_one_that_did_not(device: str) -> None:
    """Layers share their scratch, and an answer may be rewound: no step may depend on the ones before."""
    few, many = Shape(20, queries=3), Shape(250, queries=3)
    plans = []
    for lengths in ([few, many], [many, few, many], [many]):
        scratch, _ = buffers(many, many.context, device)
        for shape in lengths:
            _, plan = buffers(many, many.context, device)
            inputs = to((make_scores(shape), make_layer(shape)[1], shape.device_length), device)
            kernel.select_rows(*inputs, scratch, plan, top_k=9)
        plans.append(plan)
    assert plans[2].counts.sum() > 0
    assert_same(plans[0], plans[2])
    assert_same(plans[1], plans[2])
