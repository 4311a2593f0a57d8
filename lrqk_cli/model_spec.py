"""The shape of a model, as far as memory and attention depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from lrqk_cli.config import WeightForm, require

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


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of a model's weights, most of which are packed.

    Attributes:
        form: ``gguf`` as in a GGUF file, ``q8`` in 8 bits or ``q4`` in 4 bits.
        total: bytes of all weights.
        read: bytes of the weights that a decode step reads.
        plain: bytes of the weights that are not packed, at 16 bits per number; a decode step reads them all.
        experts: bytes of the packed experts of mixtures; ``experts_read``: those that a decode step reads.
        has_experts_on_host: the experts stay in host memory, where the device reads the chosen ones.
    """

    form: WeightForm
    total: int
    read: int
    plain: int = 0
    experts: int = 0
    experts_read: int = 0
    has_experts_on_host: bool = False

    @property
    def on_host(self) -> int:
        """Bytes in host memory."""
        return self.experts if self.has_experts_on_host else 0

    @property
    def read_on_host(self) -> int:
        """Bytes in host memory that a decode step reads."""
        return self.experts_read if self.has_experts_on_host else 0

    def with_experts_on_host(self) -> WeightBytes:
        """Return the same weights with their experts in host memory."""
        return replace(self, has_experts_on_host=True)


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
    """What the states of all layers take.

    Attributes:
        own: numbers in the model's dtype; ``float32``: numbers in float32 in any case.
        token_bytes: bytes that come and go in one layer for each token of a segment, in bfloat16.
    """

    own: int
    float32: int
    token_bytes: int


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
        expanded_width: numbers of a token that a latent layer makes for its heads while it reads: queries,
            keys and values that are not compressed; 0 without latent attention.
        per_layer_width: numbers of a token that the model makes ahead for all layers together, beside its
            embedding (Gemma 4's per-layer inputs); 0 without any.
        is_softcapped: attention limits its logits by a softcap.
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
        may_offload: the planner may keep packed experts in host memory if nothing else fits.
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
    expanded_width: int = 0
    per_layer_width: int = 0
    is_softcapped: bool = False
    sliding_heads: HeadShape | None = None
    row_owners: tuple[int, ...] = ()
    forms: tuple[WeightBytes, ...] = ()
    may_offload: bool = False

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads", "head_dim", "vocab_size", "max_context"):
            require(getattr(self, name) > 0, f"The model's {name} must be positive.")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"{self.num_heads} query heads cannot be shared evenly by {self.num_kv_heads} KV heads.",
        )
        require(set(self.layer_kinds) != {"none"}, "No layer of the model has attention.")
        require(
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
    def attending(self) -> list[int]:
        """The numbers of the layers with attention."""
        return [number for number, kind in enumerate(self.layer_kinds) if kind != "none"]

    def row_owner(self, number: int) -> int:
        """Return the number of the layer whose K and V a layer uses."""
        return self.row_owners[number] if self.row_owners else number

    @property
    def num_row_layers(self) -> int:
        """Number of full-attention layers that store rows of their own."""
        full = (number for number, kind in enumerate(self.layer_kinds) if kind == "full")
        return sum(self.row_owner(number) == number for number in full)

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

    def with_experts_on_host(self) -> ModelSpec:
        """Return the same model with packed experts in host memory.

        Of several forms it keeps the coarsest, because a step's experts then take as long as their bytes.
        """
        packed = self.packed and self.packed.with_experts_on_host()
        forms = tuple(form.with_experts_on_host() for form in self.forms[-1:])
        return replace(self, packed=packed, forms=forms)

    @property
    def group_size(self) -> int:
        """G, the query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads
