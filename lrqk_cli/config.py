"""Frozen settings, checked on construction. Sizes are in tokens, rows or bytes as each field says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from lrqk_cli.errors import UsageError

AttentionMode = Literal["lrqk", "dense", "offload"]
TailMode = Literal["linear", "mean", "none"]
SolverName = Literal["joint", "als"]
GroupingMode = Literal["kv", "head"]
HotPolicy = Literal["sticky", "exact", "refetch"]
AlsInit = Literal["randn", "top", "topcol"]
Aggregate = Literal["sum", "max"]
LayerKind = Literal["full", "sliding", "none"]
# By transformers' names: the attention of a layer. ``hybrid`` layers have a state beside it.
LAYER_KINDS: Mapping[str, LayerKind] = {
    "full_attention": "full",
    "hybrid": "full",
    "sliding_attention": "sliding",
    "linear_attention": "none",
    "conv": "none",
    "moe": "none",
    "mlp": "none",
}
WeightForm = Literal["gguf", "q8", "q4"]
WeightChoice = Literal["auto", "bf16", "q8", "q4"]
KvDtype = Literal["bf16", "fp8", "int8"]


def _require(condition: bool, message: str, hint: str = "") -> None:
    if not condition:
        raise UsageError(message, hint)


def _require_one_of(choices: object, chosen: str, what: str) -> None:
    known = get_args(choices)
    _require(chosen in known, f"There is no {what} '{chosen}'.", f"Choose one of {', '.join(known)}.")


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes on the device of a model's weights, most of which are packed.

    Attributes:
        form: ``gguf`` as in a GGUF file, ``q8`` in 8 bits or ``q4`` in 4 bits.
        total: bytes of all weights.
        read: bytes of the weights that a decode step reads.
        plain: bytes of the weights that are not packed, at 16 bits per number; a decode step reads them all.
    """

    form: WeightForm
    total: int
    read: int
    plain: int = 0


@dataclass(frozen=True, slots=True)
class Mixture:
    """The experts of a layer.

    Attributes:
        per_token: experts that each token is routed to.
        inner: inner size of an expert.
        biased: whether the experts have biases.
    """

    per_token: int
    inner: int
    biased: bool


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The KV heads of a layer, and the size of its heads."""

    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class StateSize:
    """The numbers of all layers' states: those in the model's dtype, and those in float32 in any case."""

    own: int
    float32: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a decoder-only transformer, as far as memory and attention depend on it.

    Attributes:
        name: the user's name for the model.
        layer_kinds: of attention, one entry per layer; sliding layers keep ``sliding_window`` tokens only,
            and layers of the kind ``none`` have no attention, but perhaps a state.
        num_heads, num_kv_heads: query heads H and KV heads; H is a multiple of KV.
        head_dim: d.
        is_latent: multi-head latent attention: full layers have one KV head, whose row of a token is key and
            value at once, d numbers instead of 2d.
        sliding_heads: KV heads and d of sliding layers, if other than those of full layers.
        row_owners: by layer, the number of the layer whose K and V it uses, its own or an earlier one; empty
            if all use their own.
        max_context: tokens that the model's positions reach, RoPE scaling included.
        trained_context: tokens that the model's authors vouch for; more are allowed with a warning.
        num_parameters: parameters of the model, tied embeddings counted once.
        num_parameters_read: parameters that a decode step reads: without the input embeddings, of which it
            reads one row, and without the experts that the token is not routed to; None if unknown.
        mixture: the experts of a layer; None without experts, or if unknown.
        packed: bytes of packed weights; None if the weights are plain numbers of one type.
        states: of convolutions and recurrences, the same for any number of tokens; None without any.
        forms: bytes of plain weights in each packed form that loading can give them, the finest first; the
            planner chooses one of these forms or plain numbers.
    """

    name: str
    architecture: str
    layer_kinds: tuple[LayerKind, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_context: int
    trained_context: int
    num_parameters: int
    sliding_window: int | None = None
    num_parameters_read: int | None = None
    mixture: Mixture | None = None
    packed: WeightBytes | None = None
    states: StateSize | None = None
    is_latent: bool = False
    sliding_heads: HeadShape | None = None
    row_owners: tuple[int, ...] = ()
    forms: tuple[WeightBytes, ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads", "head_dim", "vocab_size", "max_context"):
            _require(getattr(self, name) > 0, f"The model's {name} must be positive.")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            f"{self.num_heads} query heads cannot be shared evenly by {self.num_kv_heads} KV heads.",
        )
        _require(set(self.layer_kinds) != {"none"}, "No layer of the model has attention.")
        _require(
            "sliding" not in self.layer_kinds or bool(self.sliding_window),
            "A model with sliding-window layers must say how wide the window is.",
        )

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layer_kinds)

    @property
    def num_full_layers(self) -> int:
        """Number of layers that attend to the whole context."""
        return self.layer_kinds.count("full")

    @property
    def num_row_layers(self) -> int:
        """Number of full-attention layers that store rows of their own."""
        owners = self.row_owners or range(self.num_layers)
        return sum(
            kind == "full" and owner == number
            for number, (kind, owner) in enumerate(zip(self.layer_kinds, owners, strict=True))
        )

    @property
    def row_parts(self) -> int:
        """The vectors of a row: K and V, or one that is both."""
        return 1 if self.is_latent else 2

    @property
    def of_sliding(self) -> ModelSpec:
        """The same model with the heads of sliding layers in all layers."""
        heads = self.sliding_heads
        if heads is None:
            return self
        return replace(self, num_kv_heads=heads.num_kv_heads, head_dim=heads.head_dim, sliding_heads=None)

    @property
    def group_size(self) -> int:
        """G, the query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads


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
            _require(getattr(self, name) >= 0.0, "A weight of `als.penalties` cannot be negative.")


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
        _require(self.iterations > 0, "`als.iterations` must be at least 1.")
        _require(self.tolerance >= 0.0, "`als.tolerance` cannot be negative.")


# Together with the recent window, these are 8,192 rows: a quarter of 32K.
_HOT = 8128

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
        _require(
            self.index_bits in (4, 8, 16),
            f"The index cannot have {self.index_bits} bits.",
            "Choose 4, 8 or 16.",
        )
        _require(
            self.index_bits != 4 or self.rank % 2 == 0,
            f"An index of 4 bits needs an even `rank`, and {self.rank} is odd.",
            "Choose an even `rank`, or `index_bits` 8.",
        )
        for name in ("rank", "hot", "top_k", "recent", "segment"):
            size = getattr(self, name)
            _require(size is None or size > 0, f"`{name}` must be at least 1.")
        _require(self.lookup >= 0, "`lookup` cannot be negative.", "0 switches it off.")
        _require(
            self.top_k <= self.hot or self.hot_policy != "sticky",
            f"`top_k` {self.top_k} rows cannot be resident in `hot` {self.hot} rows.",
            "Raise `hot` or lower `top_k`.",
        )
        _require(
            self.kv_dtype == "bf16" or self.attention != "dense",
            f"`kv_dtype` {self.kv_dtype} is for rows in host memory, and `dense` keeps them on the device.",
            "Choose another `attention`, or leave `kv_dtype` out.",
        )


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
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    sample_top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(
            self.max_new_tokens is None or self.max_new_tokens > 0, "`max_new_tokens` must be at least 1."
        )
        for name in ("temperature", "top_p", "repetition_penalty"):
            _require(
                math.isfinite(getattr(self, name)), f"`{name}` must be a finite number.", "Write it as 0.7."
            )
        _require(self.temperature >= 0.0, "`temperature` cannot be negative.")
        _require(0.0 < self.top_p <= 1.0, "`top_p` must be above 0 and at most 1.")
        _require(self.sample_top_k >= 0, "`sample_top_k` cannot be negative.")
        _require(self.repetition_penalty > 0.0, "`repetition_penalty` must be positive.")
        _require(self.seed is None or -(2**63) <= self.seed < 2**64, "`seed` must fit in 64 bits.")
