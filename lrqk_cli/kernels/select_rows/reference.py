"""Demand that the best candidates are resident: which rows come, and which slots they take.

A token's score for its set is, in logs, the sum over the set's queries of ``softmax(logits)`` (or their
maximum). Scores are compared by bins of a histogram, linear in the log, about 0.07 nats wide.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lrqk_cli.config import Aggregate
from lrqk_cli.kernels.buffers import LOWEST_SCORE, FetchPlan, Residents, SelectScratch, TokenScores
from lrqk_cli.memory.scratch import BINS


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

    Demanded are the best candidates of each set, bin by bin as long as they are m at most. Those that are not
    resident replace the residents in the lowest bins, in slot order within a bin, so a demanded resident
    stays. Nothing is fetched while all candidates fit.

    Args:
        scores: as ``score_tokens`` left them.
        residents: see ``Residents``; not changed.
        length: int64 ``[1]``, tokens before this step.
        scratch: see ``SelectScratch``.
        out: gets the plan; its totals grow by the rows demanded and the rows to fetch.
        top_k: m; at most C count.
        aggregate: ``sum`` or ``max`` over the queries.
        sink_tokens: so many tokens, from the first on, are in the highest bin whatever their scores; m at
            most.
    """
    candidates = max(0, int(length) + 1 - residents.recent)
    if candidates > residents.hot:
        bin_scores(scores, residents, length, scratch, aggregate, sink_tokens)
        plan_fetches(residents, length, scratch, out, top_k)
    else:
        out.counts.zero_()
        out.leaving.zero_()
        out.totals[0] += min(top_k, candidates) * len(out.counts)


def bins_per_nat(highest: float) -> float:
    """Return how many bins a nat of log-score spans, where scores reach ``highest``."""
    return BINS / (highest - LOWEST_SCORE)


def highest_score(queries: int, aggregate: Aggregate) -> float:
    """Return the largest log-score there can be."""
    return math.log(queries) if aggregate == "sum" else 0.0


def bin_scores(
    scores: TokenScores,
    residents: Residents,
    length: Tensor,
    scratch: SelectScratch,
    aggregate: Aggregate,
    sink_tokens: int = 0,
) -> None:
    """Put each candidate's score, and the score of each slot's token, into its bin."""
    count = int(length) + 1
    candidates = count - residents.recent
    logits = scores.logits[:, :, :count]
    shares = (logits - logits.logsumexp(-1, keepdim=True))[:, :, :candidates]
    score = shares.logsumexp(1) if aggregate == "sum" else shares.amax(1)
    scale = bins_per_nat(highest_score(logits.shape[1], aggregate))
    place = ((score - LOWEST_SCORE) * scale).clamp(0, BINS - 1).to(torch.int16)
    place[:, :sink_tokens] = BINS - 1
    scratch.token_bin[:, :candidates] = place
    scratch.slot_bin.copy_(place.gather(1, residents.slot_token))


def plan_fetches(
    residents: Residents, length: Tensor, scratch: SelectScratch, out: FetchPlan, top_k: int
) -> None:
    """Plan by the bins: tokens in their order, slots from the lowest bin up; add to the totals."""
    candidates = int(length) + 1 - residents.recent
    out.leaving.zero_()
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
