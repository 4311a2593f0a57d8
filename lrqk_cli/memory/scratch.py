"""Shapes, by name, of the tensors between kernels of a decode step; ``kernels.buffers`` allocates them.

Letters as there: ``sets`` row sets, ``queries`` N of each, ``context`` reserved tokens, C hot slots.
"""

from __future__ import annotations

from lrqk_cli.config import LrqkConfig
from lrqk_cli.memory import accounting
from lrqk_cli.memory.accounting import TensorShape
from lrqk_cli.model_spec import ModelSpec

Shapes = dict[str, TensorShape]

# Programs of ``score_tokens`` for up to eight queries: as many as an H100 runs at once (12 per
# multiprocessor), so that none waits for another to end. Then the fewest tokens of a program, and those of a
# tile.
_SCORE_PROGRAMS, _SHORTEST_SPAN, SCORE_TILE = 1584, 128, 64
# Programs that ``attend_residents`` aims at; the choices for the rows of a program.
_ATTEND_PROGRAMS, _SPLIT_ROWS = 512, (64, 128, 256)
# The most programs per row set that fetch rows, and the rows that a program fetches at once. Their sums are
# merged with one more, which makes a power of two.
_FETCH_SPLITS, FETCH_ROWS = 31, 16
# Tokens, or hot slots, that a program of ``select_rows`` reads at once; bins of its histogram of scores.
SELECT_BLOCK, BINS = 2048, 256


def blocks_of(count: int, size: int) -> int:
    """Return how many blocks of ``size`` cover ``count``."""
    return -(-count // size)


def code_width(rank: int) -> int:
    """Return the width of a tile of index codes; a tensor-core product has at least 16 terms."""
    return max(16, 1 << (rank - 1).bit_length())


def score_span(sets: int, columns: int) -> int:
    """Return how many tokens of a row set one program of ``score_tokens`` scores and sums up."""
    tokens = blocks_of(columns, max(1, _SCORE_PROGRAMS // sets))
    return max(_SHORTEST_SPAN, blocks_of(tokens, SCORE_TILE) * SCORE_TILE)


def split_rows(sets: int, rows: int) -> int:
    """Return how many of the ``rows`` residents of a row set one program of ``attend_residents`` reads."""
    fair = sets * rows // _ATTEND_PROGRAMS
    return max((size for size in _SPLIT_ROWS if size <= fair), default=_SPLIT_ROWS[0])


def fetch_splits(hot: int) -> int:
    """Return how many programs per row set of ``attend_residents`` fetch rows into the C ``hot`` slots."""
    return min(_FETCH_SPLITS, blocks_of(hot, FETCH_ROWS))


def projected(sets: int, queries: int, rank: int) -> Shapes:
    """Return the shapes of ``Projected``."""
    return {
        "codes": TensorShape((sets, queries, rank), "float32"),
        "offset": TensorShape((sets, queries), "float32"),
    }


def token_scores(sets: int, queries: int, context: int, tail_rank: int | None) -> Shapes:
    """Return the shapes of ``TokenScores``."""
    spans = blocks_of(context, score_span(sets, context))
    shapes = {
        "logits": TensorShape((sets, queries, context), "float32"),
        "masses": TensorShape((sets, queries, 3, spans), "float32"),
    }
    if tail_rank is not None:
        shapes["code_sums"] = TensorShape((sets, queries, spans, tail_rank), "float32")
    return shapes


def select_scratch(sets: int, hot: int, context: int) -> Shapes:
    """Return the shapes of ``SelectScratch``."""
    return {
        "token_bin": TensorShape((sets, context), "int16"),
        "slot_bin": TensorShape((sets, hot), "int16"),
        "histogram": TensorShape((sets, 2, BINS), "int32"),
        "block_counts": TensorShape((sets, blocks_of(context, SELECT_BLOCK)), "int32"),
        "decision": TensorShape((sets, 2), "int32"),
    }


def fetch_plan(sets: int, hot: int) -> Shapes:
    """Return the shapes of ``FetchPlan``."""
    return {
        "token": TensorShape((sets, hot), "int32"),
        "slot": TensorShape((sets, hot), "int32"),
        "counts": TensorShape((sets,), "int32"),
        "totals": TensorShape((2,), "int64"),
        "leaving": TensorShape((sets, hot), "bool"),
    }


def attend_scratch(
    sets: int, queries: int, rows: int, width: int, tail_rank: int | None, *, fetching: int = 0
) -> Shapes:
    """Return the shapes of ``AttendScratch``; ``rows`` W + C, ``width`` d, ``fetching`` C, or 0 for none."""
    fetches = fetch_splits(fetching)
    splits = fetches + blocks_of(rows, split_rows(sets, rows))
    shapes = {
        "output": TensorShape((sets, splits, queries, width), "float32"),
        "lse": TensorShape((sets, queries, splits), "float32"),
        "masses": TensorShape((sets, queries, 2, fetches + 1), "float32"),
    }
    if tail_rank is not None:
        shapes["code_sums"] = TensorShape((sets, queries, fetches + 1, tail_rank), "float32")
    return shapes


def decode_scratch(spec: ModelSpec, config: LrqkConfig, context: int) -> tuple[TensorShape, ...]:
    """Return the shapes that ``decode_step`` allocates, for all layers together and for each layer."""
    # The length of the text, the number of pending rows, and the row counters and row sets of each layer.
    shapes = [TensorShape((1,), "int64")] * 2
    shapes += [TensorShape((spec.num_layers, 2), "int64"), TensorShape((spec.num_layers,), "int64")]
    heads, width = spec.num_kv_heads, spec.head_dim
    if spec.sliding_window and "sliding" in spec.layer_kinds:
        own = spec.of_sliding
        shapes += attend_scratch(
            own.num_kv_heads, own.group_size, spec.sliding_window, own.head_dim, None
        ).values()
    if config.attention == "dense" and spec.num_full_layers:
        shapes += attend_scratch(heads, spec.group_size, context, width, None).values()
    if config.attention == "lrqk" and spec.num_full_layers:
        shapes += _lrqk_scratch(spec, config, context)
    return tuple(shapes)


def _lrqk_scratch(spec: ModelSpec, config: LrqkConfig, context: int) -> list[TensorShape]:
    sets = accounting.row_sets(spec, config)
    tokens = 1 + accounting.draft_tokens(spec, config)
    queries, rank = tokens * spec.num_heads // sets, accounting.index_rank(spec, config)
    hot = accounting.hot_slots(config, context)
    rows = config.recent + hot
    tail_rank = rank if config.tail != "none" else None
    # The maps of each layer, multiplied by the scale of the index.
    own = [accounting.factor(spec, config)]
    if tail_rank is not None:
        own.append(accounting.value_slope(spec, config))
    return [
        *projected(sets, queries, rank).values(),
        *token_scores(sets, queries, context, tail_rank).values(),
        *select_scratch(sets, hot, context).values(),
        *fetch_plan(sets, hot).values(),
        *attend_scratch(sets, queries, rows, spec.head_dim, tail_rank, fetching=hot).values(),
        *(own * spec.num_full_layers),
    ]
