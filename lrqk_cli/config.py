"""Frozen settings, checked on construction. Sizes are in tokens, rows or bytes as each field says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Literal, get_args

from lrqk_cli.errors import UsageError

AttentionMode = Literal["lrqk", "dense", "offload"]
TailMode = Literal["linear", "mean", "none"]
SolverName = Literal["joint", "als"]
GroupingMode = Literal["kv", "head"]
HotPolicy = Literal["sticky", "exact", "refetch"]
AlsInit = Literal["randn", "top", "topcol"]
Aggregate = Literal["sum", "max"]
WeightForm = Literal["gguf", "q8", "q4"]
WeightChoice = Literal["auto", "bf16", "q8", "q4"]
KvDtype = Literal["bf16", "fp8", "int8"]

# Values of ``GenerationConfig.think`` that have a name.
THINK_WORDS: dict[str, int | None] = {"on": None, "off": 0}


def require(condition: bool, message: str, hint: str = "") -> None:
    """Raise a UsageError unless a condition holds."""
    if not condition:
        raise UsageError(message, hint)


def _require_one_of(choices: object, chosen: str, what: str) -> None:
    known = get_args(choices)
    require(chosen in known, f"There is no {what} '{chosen}'.", f"Choose one of {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class AlsPenalties:
    """Weights of the paper's constraints, which its solves keep as squared penalties; each at least 0.

    Attributes:
        query, key: of ``Q = A_Q B_Q`` and ``K = A_K B_K``, during prefill.
        new: of ``q̂ k̂ᵀ = q kᵀ``, in a decode step.
        active: of ``q̂ A_{K,Ω}ᵀ = q K_Ωᵀ`` over the resident tokens Ω, in a decode step.
    """

    query: float = 1.0
    key: float = 1.0
    new: float = 1.0
    active: float = 1.0

    def __post_init__(self) -> None:
        for name in ("query", "key", "new", "active"):
            require(getattr(self, name) >= 0.0, "A weight of `als.penalties` cannot be negative.")


@dataclass(frozen=True, slots=True)
class AlsConfig:
    """Settings of the paper's alternating least squares; the defaults are the paper's.

    Attributes:
        init: how A_Q and A_K begin: ``randn`` at random; ``top`` as the r columns of Q, and of K, with the
            largest sum of magnitudes; ``topcol`` as the same r columns of both.
        iterations: alternations at most, in prefill and in a decode step.
        tolerance: alternation ends when no entry of a factor moves more than this in the mean square.
        penalties: see ``AlsPenalties``.
    """

    init: AlsInit = "randn"
    iterations: int = 2
    tolerance: float = 1e-2
    penalties: AlsPenalties = field(default_factory=AlsPenalties)

    def __post_init__(self) -> None:
        _require_one_of(AlsInit, self.init, "`als.init`")
        require(self.iterations > 0, "`als.iterations` must be at least 1.")
        require(self.tolerance >= 0.0, "`als.tolerance` cannot be negative.")


# Together with the recent window, these hold a text of 8,192 tokens with an answer of 250, for which no index
# is needed; and they are a quarter of 32K.
_HOT = 8384

# Models put unused attention on the first tokens, whose keys are unlike all others (Xiao et al., "Efficient
# streaming language models with attention sinks", 2024). If the index scores such a token too low, its row is
# evicted and the output of that head is wrong. At most one in 32 hot rows is kept for them.
_SINK_TOKENS, _SINK_SHARE = 4, 32


def default_top_k(hot: int) -> int:
    """Return the default m for C: demanding a quarter of the hot set keeps it current at little traffic."""
    return max(1, hot // 4)


@dataclass(frozen=True, slots=True)
class LrqkConfig:
    """Settings of the attention.

    Attributes:
        attention: ``lrqk``; or the baselines ``dense`` (all rows on the device) and
            ``offload`` (all rows in host memory, streamed at every step).
        rank: r, the width of the low-rank index.
        index_bits: 4 or 8 (integers with a scale per dimension and row set) or 16 (bfloat16).
        hot: C, the resident rows of a KV head, under the ``sticky`` policy.
        top_k: m, the highest-scoring rows, which each step demands to be resident.
        recent: the newest rows, always resident beside the hot set.
        tail: ``linear`` adds the contribution of the non-resident rows, with values predicted from their
            codes; ``mean`` adds it with the mean value of all rows; ``none`` drops it.
        segment: tokens of a prefill segment; None lets the engine choose.
        solver: ``joint``, the closed form; ``als``, the paper's alternating least squares, whose
            factors are also updated in every decode step.
        grouping: an index and a hot set per ``kv`` head or per query ``head``.
        hot_policy: ``sticky`` keeps C rows and evicts the worst; ``exact``: the hot set is exactly the
            best ``top_k``, and attention stays approximate; ``refetch`` keeps the same rows, but fetches all
            of them in every step.
        als: settings of the ``als`` solver.
        aggregate: how the softmax weights of a row under the queries of its row set become one score.
        kv_dtype: numbers of the rows in host memory: ``bf16`` as the model computes them, whatever its type;
            ``fp8`` (e4m3) or ``int8`` with scales.
        lookup: draft tokens of a verify step, which earlier text predicts; 0 for steps of one token only.
            ``accounting.draft_tokens`` says how many are in force.
    """

    attention: AttentionMode = "lrqk"
    rank: int = 64
    index_bits: Literal[4, 8, 16] = 4
    hot: int = _HOT
    top_k: int = default_top_k(_HOT)
    recent: int = 64
    tail: TailMode = "linear"
    segment: int | None = None
    solver: SolverName = "joint"
    grouping: GroupingMode = "kv"
    hot_policy: HotPolicy = "sticky"
    als: AlsConfig = field(default_factory=AlsConfig)
    aggregate: Aggregate = "sum"
    kv_dtype: KvDtype = "bf16"
    lookup: int = 3

    @property
    def sink_tokens(self) -> int:
        """The number of first tokens that stay resident whatever their scores."""
        tokens = min(_SINK_TOKENS, self.hot // _SINK_SHARE) if self.hot_policy == "sticky" else 0
        # They count among the demanded rows, of which they may take at most half.
        return tokens if 2 * tokens <= self.top_k else 0

    def __post_init__(self) -> None:
        _require_one_of(AttentionMode, self.attention, "attention mode")
        _require_one_of(TailMode, self.tail, "tail")
        _require_one_of(SolverName, self.solver, "solver")
        _require_one_of(GroupingMode, self.grouping, "grouping")
        _require_one_of(HotPolicy, self.hot_policy, "hot policy")
        _require_one_of(Aggregate, self.aggregate, "way to aggregate")
        _require_one_of(KvDtype, self.kv_dtype, "KV dtype")
        require(
            self.index_bits in (4, 8, 16),
            f"The index cannot have {self.index_bits} bits.",
            "Choose 4, 8 or 16.",
        )
        require(
            self.index_bits != 4 or self.rank % 2 == 0,
            f"An index of 4 bits needs an even `rank`, and {self.rank} is odd.",
            "Choose an even `rank`, or `index_bits` 8.",
        )
        for name in ("rank", "hot", "top_k", "recent", "segment"):
            size = getattr(self, name)
            require(size is None or size > 0, f"`{name}` must be at least 1.")
        require(self.lookup >= 0, "`lookup` cannot be negative.", "0 switches it off.")
        require(
            self.top_k <= self.hot or self.hot_policy != "sticky",
            f"`top_k` {self.top_k} rows cannot be resident in `hot` {self.hot} rows.",
            "Raise `hot` or lower `top_k`.",
        )
        require(
            self.kv_dtype == "bf16" or self.attention != "dense",
            f"`kv_dtype` {self.kv_dtype} is for rows in host memory, and `attention` dense has none there.",
            "Choose another `attention`, or leave `kv_dtype` out.",
        )


# What only LRQK reads, of the fields that have an option. Setting one asks for LRQK; ``lookup`` is a limit.
SETTINGS_OF_LRQK = frozenset(
    {"rank", "index_bits", "hot", "top_k", "recent", "tail", "solver", "grouping", "hot_policy", "als"}
)
# Settings, another one, and its values under which those are read.
_CONDITIONS: tuple[tuple[frozenset[str], str, tuple[str, ...]], ...] = (
    (SETTINGS_OF_LRQK | {"lookup"}, "attention", ("lrqk",)),
    (frozenset({"kv_dtype"}), "attention", ("lrqk", "offload")),
    (frozenset({"als"}), "solver", ("als",)),
    (frozenset({"lookup"}), "solver", ("joint",)),
    (frozenset({"hot", "lookup"}), "hot_policy", ("sticky",)),
)


def asks(config: LrqkConfig, name: str) -> bool:
    """Whether a setting, such as ``top_k`` or ``als.init``, is not its default; ``lookup`` 0 asks nothing."""
    read = attrgetter(name)
    return read(config) != read(LrqkConfig()) and (name, read(config)) != ("lookup", 0)


def missing_for(config: LrqkConfig, name: str) -> str:
    """Return what a setting needs to act and the others lack, such as "`solver` als"; empty if it can act."""
    for names, other, values in _CONDITIONS:
        if name.partition(".")[0] in names and getattr(config, other) not in values:
            return f"`{other}` {' or '.join(values)}"
    return ""


def full_attention(base: LrqkConfig) -> LrqkConfig:
    """Return ``base`` with full attention over exact rows on the device."""
    return replace(base, attention="dense", kv_dtype="bf16")


def paper_settings(base: LrqkConfig) -> LrqkConfig:
    """Return ``base`` with the algorithm and the sizes of the LRQK paper: rank 32, top 2,048, 64 recent."""
    return replace(
        base,
        attention="lrqk",
        rank=32,
        index_bits=16,
        top_k=2048,
        recent=64,
        tail="none",
        solver="als",
        grouping="head",
        hot_policy="exact",
        als=AlsConfig(),
    )


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: tokens to generate at most; None means as many as the context holds.
        temperature: 0 takes the likeliest token (greedy).
        top_p: nucleus mass in (0, 1]; 1 switches it off.
        sample_top_k: candidates kept before sampling; 0 switches it off.
        repetition_penalty: above 1 discourages tokens that stand in the context; 1 switches it off.
        seed: makes sampling repeatable; None draws a fresh one.
        think: tokens of reasoning before an answer at most; 0 for none, None for as many as the context holds
            beside an answer.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    sample_top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    think: int | None = 0

    @property
    def thinks(self) -> bool:
        """Whether the model is to reason before it answers."""
        return self.think != 0

    def __post_init__(self) -> None:
        require(
            self.max_new_tokens is None or self.max_new_tokens > 0, "`max_new_tokens` must be at least 1."
        )
        for name in ("temperature", "top_p", "repetition_penalty"):
            require(
                math.isfinite(getattr(self, name)), f"`{name}` must be a finite number.", "Write it as 0.7."
            )
        require(
            self.temperature >= 0.0, "`temperature` cannot be negative.", "Choose 0 or more, such as 0.7."
        )
        require(
            0.0 < self.top_p <= 1.0,
            "`top_p` must be above 0 and at most 1.",
            "Choose a number such as 0.9; 1 switches it off.",
        )
        require(self.sample_top_k >= 0, "`sample_top_k` cannot be negative.", "0 switches it off.")
        # Beyond these the logits of some models overflow.
        require(
            0.01 <= self.repetition_penalty <= 100.0,
            "`repetition_penalty` must be between 0.01 and 100.",
            "Choose a number from 0.01 to 100, such as 1.1; 1 switches it off.",
        )
        require(self.think is None or self.think >= 0, "`think` cannot be negative.", "0 switches it off.")
        require(self.seed is None or -(2**63) <= self.seed < 2**64, "`seed` must fit in 64 bits.")
