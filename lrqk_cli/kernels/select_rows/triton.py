"""The same in three launches; programs of the first take up to 1,024 tokens of a set at once, of the others
2,048 tokens or slots.

1. ``bin_tokens`` computes bins and their histogram, first within a program and then by integer atomics, whose
   order does not matter. Reads the logits (8 MiB at 8 sets, N 4, 64K tokens, from the L2 cache); writes 2
   bytes per token.
2. ``count_missing``: every program finds the edge in the histogram (1 KiB), and counts the missing tokens
   above it in its block, from 3 bytes per token. Others gather the bins of the slots' tokens, and count them
   in a histogram too.
3. ``list_fetches``: list positions follow from the counts of the previous blocks and a scan within the block.
   Reads 3 bytes per token, and 2 per slot. Zeroes the histogram of tokens for the next step.

Scans, not atomics, give the positions in the lists, so the slots of fetched rows are the same in every run.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from lrqk_cli.config import Aggregate
from lrqk_cli.kernels.buffers import FetchPlan, Residents, TokenScores
from lrqk_cli.kernels.dependent_launch import DEPENDENT
from lrqk_cli.kernels.launch_scratch import SelectScratch
from lrqk_cli.kernels.select_rows.reference import bin_width, highest_score
from lrqk_cli.kernels.select_rows.triton_bins import bin_tokens
from lrqk_cli.kernels.select_rows.triton_plan import count_missing, list_fetches
from lrqk_cli.memory.scratch import BINS, SELECT_BLOCK, blocks_of

# Masses that a program sums at once, of some spans for all queries, and the most of these spans.
_MASSES, _MASS_CHUNK = 4096, 256
# Logits of a block of ``bin_tokens``, the most and the fewest tokens that they are of, and its warps; how
# many programs should share the device, and how many run at once (on an H100, 6 per multiprocessor).
_BIN_LOGITS, _BIN_BLOCK, _BIN_FEWEST, _BIN_WARPS = 8192, 1024, 256, 4
_BIN_PROGRAMS, _BIN_RESIDENT = 128, 792
# Slots per program of ``count_missing``: with more, counting in bins would take registers from all programs.
_COUNT_SLOTS = 1024


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
    """See the reference."""
    bin_scores(scores, residents, length, scratch, aggregate, sink_tokens)
    list_fetches_by_bins(residents, length, scratch, out, top_k)


def bin_scores(
    scores: TokenScores,
    residents: Residents,
    length: Tensor,
    scratch: SelectScratch,
    aggregate: Aggregate,
    sink_tokens: int = 0,
) -> None:
    """See the reference; also counts the bins in the histogram of tokens."""
    sets, queries, columns = scores.logits.shape
    blocks = scores.masses.shape[3]
    queries_pad = triton.next_power_of_2(queries)
    block = min(_BIN_BLOCK, _BIN_LOGITS // queries_pad)
    while block > _BIN_FEWEST and sets * blocks_of(columns, block) < _BIN_PROGRAMS:
        block //= 2
    programs = blocks_of(columns, block)
    rounds = blocks_of(sets * programs, _BIN_RESIDENT)
    # Not a dependent launch: its few programs would crowd on the multiprocessors that are free first.
    bin_tokens[(blocks_of(programs, rounds), sets)](
        scores.logits,
        scores.masses,
        length,
        scratch.token_bin,
        scratch.histogram,
        columns,
        blocks,
        residents.hot,
        residents.recent,
        sink_tokens,
        QUERIES=queries,
        QUERIES_PAD=queries_pad,
        SUM=aggregate == "sum",
        BINS=BINS,
        WIDTH=bin_width(highest_score(queries, aggregate)),
        BLOCK=block,
        SPAN=scores.span,
        CHUNK=min(_MASS_CHUNK, _MASSES // queries_pad, triton.next_power_of_2(blocks)),
        num_warps=_BIN_WARPS,
    )


def list_fetches_by_bins(
    residents: Residents, length: Tensor, scratch: SelectScratch, out: FetchPlan, top_k: int
) -> None:
    """See the reference; needs that histogram, and the one of slots zero. Adds to the totals."""
    sets, columns = scratch.token_bin.shape
    context = residents.resident.shape[1]
    token_blocks, slot_blocks = blocks_of(columns, SELECT_BLOCK), blocks_of(residents.hot, SELECT_BLOCK)
    resident = residents.resident.view(torch.uint8)
    sizes = (context, columns, token_blocks, residents.hot, residents.recent, top_k)
    count_missing[(token_blocks + blocks_of(residents.hot, _COUNT_SLOTS), sets)](
        scratch.token_bin,
        scratch.slot_bin,
        residents.slot_token,
        resident,
        scratch.histogram,
        length,
        scratch.block_counts,
        scratch.decision,
        *sizes,
        BINS=BINS,
        BLOCK=SELECT_BLOCK,
        SLOTS=_COUNT_SLOTS,
        num_warps=8,
        **DEPENDENT,
    )
    list_fetches[(token_blocks + slot_blocks, sets)](
        scratch.token_bin,
        scratch.slot_bin,
        resident,
        scratch.block_counts,
        scratch.decision,
        scratch.histogram,
        length,
        out.token,
        out.slot,
        out.counts,
        out.leaving.view(torch.uint8),
        out.totals,
        *sizes,
        BINS=BINS,
        BLOCK=SELECT_BLOCK,
        TOKEN_BLOCKS_PAD=triton.next_power_of_2(token_blocks),
        num_warps=8,
        **DEPENDENT,
    )
