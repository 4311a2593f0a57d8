"""Connect a transformers model to the cache: registration, attach and detach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from lrqk_cli.attention import latent
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.params import AttentionParams
from lrqk_cli.errors import LrqkError, UnsupportedModelError
from lrqk_cli.model_spec import LAYER_KINDS
from lrqk_cli.upstream import CACHE_NAMES, cache_argument

ATTENTION_NAME = "lrqk"
_CACHE_ARGUMENT = "lrqk_cache"

# Arguments that do not change which keys a query sees, or their weights.
_NEUTRAL = frozenset(
    {
        "is_causal",
        "position_ids",
        "position_embeddings",
        "cache_position",
        "use_cache",
        "logits_to_keep",
        "output_hidden_states",
    }
)


class _NoGradient(Function):
    """Identity that refuses a backward pass: the gradient would lack the path through the cache."""

    @staticmethod
    def forward(_: Any, output: Tensor, __: Tensor) -> Tensor:
        """Return the output; the second argument is the query that it depends on."""
        return output.view_as(output)

    @staticmethod
    def backward(_: Any, *__: Tensor) -> NoReturn:
        """Raise ``UnsupportedModelError``."""
        raise UnsupportedModelError(
            "LRQK attention has no gradients.", "Train and differentiate outside of the attach() context."
        )


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    lrqk_cache: LrqkCache | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Serve transformers' attention interface from the cache.

    Args:
        module: the attention module; its ``layer_idx`` is the number of the layer in the cache.
        query: ``[1, H, S, d]``, after RoPE.
        key, value: ``[1, KV, S, d]``, as returned by ``LrqkCache.update``.
        attention_mask: must be None; the cache applies the causal mask.
        scaling: factor of the logits; ``1/√d`` if None.
        softcap, s_aux: see ``AttentionParams``; ``s_aux`` are its sinks.
        lrqk_cache: added by the pre-hook of ``attached``.

    Returns:
        The output ``[1, S, H, d]``, and None for the attention weights.

    Raises:
        LrqkError: the model was called without an LRQK cache, or with ``use_cache=False``.
        UnsupportedModelError: the model passes an unsupported argument; the message names it.
    """
    if lrqk_cache is None:
        raise LrqkError(
            "The model was called without an LRQK cache.",
            f"Pass the cache that attach() yields as {cache_argument()}.",
        )
    if others.get("use_cache") is False:
        raise LrqkError(
            "The model was called with use_cache=False, which LRQK attention cannot do without.",
            "Leave use_cache out, or leave the attach() context.",
        )
    number = cast(int, module.layer_idx)
    _refuse_unknown(attention_mask, dropout, others)
    if (sliding_window is not None) != lrqk_cache.attention_layers[number].is_sliding:
        raise UnsupportedModelError(
            f"Layer {number} passes sliding_window={sliding_window}, "
            "which is not what the model's config says."
        )
    params = AttentionParams(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    with torch.no_grad():
        asked, key, value = query, key[0], value[0]
        up = latent.projections(module) if lrqk_cache.spec.is_latent else None
        if up is not None:
            key = value = lrqk_cache.take_latent_rows()
            asked = latent.absorb(query, up)
        grouped = asked[0].unflatten(0, (key.shape[0], -1))
        attended = lrqk_cache.attend(number, grouped, key, value, params).to(query.dtype).view(asked.shape)
        if up is not None:
            attended = latent.release(attended, up)
        output = attended.transpose(1, 2)
    # Without this, a backward pass would give the rest of the model wrong gradients.
    is_recorded = torch.is_grad_enabled() and query.requires_grad
    return _NoGradient.apply(output, query) if is_recorded else output, None  # type: ignore[no-untyped-call]


def _refuse_unknown(attention_mask: Tensor | None, dropout: float, others: Mapping[str, Any]) -> None:
    if attention_mask is not None:
        raise UnsupportedModelError("The model passes its own attention mask, which LRQK does not honour.")
    if dropout:
        raise UnsupportedModelError("The model asks for attention dropout.", "Call model.eval() first.")
    if others.get("is_causal") is False:
        raise UnsupportedModelError("The model asks for attention that is not causal.")
    for name, setting in others.items():
        if name not in _NEUTRAL and setting is not None and setting is not False:
            raise UnsupportedModelError(
                f"The model passes '{name}' to its attention, which LRQK does not honour."
            )


def _no_mask(*_: Any, attention_mask: Tensor | None = None, use_vmap: bool = False, **__: Any) -> None:
    """Build no mask, and refuse inputs that need one."""
    if use_vmap:
        raise UnsupportedModelError("The model overlays its causal mask with another one.")
    if attention_mask is not None and not bool(attention_mask.all()):
        raise UnsupportedModelError(
            "The input is padded, which LRQK does not honour.", "Pass one unpadded sequence."
        )


def _hand_over_cache(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    cache = next((kwargs[name] for name in CACHE_NAMES if name in kwargs), None)
    if isinstance(cache, LrqkCache):
        kwargs[_CACHE_ARGUMENT] = cache
    return args, kwargs


def attention_modules(model: PreTrainedModel) -> dict[int, nn.Module]:
    """Return the attention module of each layer that has one, by the layer's number and in order.

    Raises:
        UnsupportedModelError: a layer does not use transformers' attention interface.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    expected = [number for number, kind in enumerate(kinds) if LAYER_KINDS.get(kind) != "none"]
    found = {
        cast(int, module.layer_idx): module
        for module in model.modules()
        if hasattr(module, "layer_idx") and hasattr(module, "scaling")
    }
    if list(found) != expected:
        raise UnsupportedModelError(
            f"Of the model's {len(expected)} attention layers, {len(found)} use the attention interface of "
            "transformers."
        )
    return found


@contextmanager
def attending_by(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model attend by transformers' implementation of that name inside this context."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def attached(model: PreTrainedModel) -> Iterator[None]:
    """Let the ``LrqkCache`` that the model is called with serve its attention inside this context.

    Raises:
        UnsupportedModelError: a layer does not use transformers' attention interface.
    """
    AttentionInterface.register(ATTENTION_NAME, attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)
    handles = [
        module.register_forward_pre_hook(_hand_over_cache, with_kwargs=True)
        for module in attention_modules(model).values()
    ]
    try:
        with attending_by(model, ATTENTION_NAME):
            yield
    finally:
        for handle in handles:
            handle.remove()
