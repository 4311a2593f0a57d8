"""Plan which rows a step fetches, and into which slots, so that the best candidates are resident.

A token's score is the sum (or maximum) of ``softmax(logits)`` over the set's queries. Scores are compared by
their bins in a histogram. All bins have as many float32 numbers, so the bits of a score give its bin, without
a logarithm. A bin is some 0.1 nats wide above a power of two, and 0.05 below the next.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from lrqk_cli.config import Aggregate
from lrqk_cli.kernels.buffers import LOWEST_SCORE, FetchPlan, Residents, TokenScores
from lrqk_cli.kernels.launch_scratch import SelectScratch
from lrqk_cli.memory.scratch import BINS, blocks_of


def select_rows(
    scores: TokenScores,
    residents: Residents,
    length: Tensor,
    scratch: SelectScratch,
    out: FetchPlan,
    *,
    top_k: int,
    aggregate: Aggregate = "sum",
    sink_tokens: int = 0,
) -> None:
    """Plan the fetches of a step.

    A step demands the candidates in the highest bins of each set: as many whole bins as have at most m
    candidates in all. Demanded tokens that are not resident replace the residents in the lowest bins, in slot
    order within a bin, so a demanded resident stays. If all candidates fit, nothing is fetched.

    Args:
        scores: from ``score_tokens``.
        residents: see ``Residents``; not changed.
        length: int64 ``[1]``, tokens before this step.
        scratch: see ``SelectScratch``.
        out: receives the plan; its totals grow by the rows demanded and the rows to fetch.
        top_k: m; values above C act as C.
        aggregate: ``sum`` or ``max`` over the queries.
        sink_tokens: the number of first tokens that are in the highest bin whatever their scores; at most m.
    """
    candidates = max(0, int(length) + 1 - residents.recent)
    if candidates > residents.hot:
        bin_scores(scores, residents, length, scratch, aggregate, sink_tokens)
        list_fetches_by_bins(residents, length, scratch, out, top_k)
    else:
        out.counts.zero_()
        out.leaving.zero_()
        out.totals[0] += min(top_k, candidates) * len(out.counts)


@cache
def bin_width(highest: float) -> int:
    """Return how many float32 numbers are in a bin, for scores up to ``highest``."""
    lowest, top = torch.tensor([LOWEST_SCORE, highest]).view(torch.int32).tolist()
    return blocks_of(top - lowest, BINS)


def highest_score(queries: int, aggregate: Aggregate) -> float:
    """Return the largest possible score."""
    return float(queries) if aggregate == "sum" else 1.0


def bin_scores(
    scores: TokenScores,
    residents: Residents,
    length: Tensor,
    scratch: SelectScratch,
    aggregate: Aggregate,
    sink_tokens: int = 0,
) -> None:
    """Compute the bin of each candidate's score."""
    count = int(length) + 1
    candidates = count - residents.recent
    logits = scores.logits[:, :, :count]
    shares = logits.softmax(-1)[:, :, :candidates]
    score = shares.sum(1) if aggregate == "sum" else shares.amax(1)
    width = bin_width(highest_score(logits.shape[1], aggregate))
    lowest = torch.tensor(LOWEST_SCORE).view(torch.int32)
    place = ((score.view(torch.int32) - lowest) // width).clamp(0, BINS - 1).to(torch.int16)
    place[:, :sink_tokens] = BINS - 1
    scratch.token_bin[:, :candidates] = place


def list_fetches_by_bins(
    residents: Residents, length: Tensor, scratch: SelectScratch, out: FetchPlan, top_k: int
) -> None:
    """List fetches from the bins: tokens in order, slots from the lowest bin up; add to the totals."""
    candidates = int(length) + 1 - residents.recent
    out.leaving.zero_()
    scratch.slot_bin.copy_(scratch.token_bin.gather(1, residents.slot_token))
    for row_set in range(len(out.counts)):
        bins = scratch.token_bin[row_set, :candidates]
        edge = bins.sort(descending=True).values[min(top_k, residents.hot)]
        demanded = bins > edge
        incoming = (demanded & ~residents.resident[row_set, :candidates]).nonzero().flatten()
        outgoing = scratch.slot_bin[row_set].argsort(stable=True)[: len(incoming)]
        in_last = scratch.slot_bin[row_set, outgoing] == scratch.slot_bin[row_set, outgoing[-1:]]
        outgoing = torch.cat((outgoing[~in_last].sort().values, outgoing[in_last]))
        out.token[row_set, : len(incoming)] = incoming.to(torch.int32)
        out.slot[row_set, : len(incoming)] = outgoing.to(torch.int32)
        out.leaving[row_set, outgoing] = True
        out.counts[row_set] = len(incoming)
        out.totals.add_(torch.stack((demanded.sum(), out.counts[row_set].long())))
