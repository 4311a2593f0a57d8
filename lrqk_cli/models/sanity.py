"""Checks a configuration before anything is built from it: its sizes, and what it would have run.

Libraries do not check sizes: for 10^9 layers they make a long list. Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from lrqk_cli.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Limits far above any model's sizes, and far below sizes that take noticeable time or memory.
_MOST = {
    "num_hidden_layers": 1 << 12,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "head_dim": 1 << 16,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "vocab_size": 1 << 28,
    "max_position_embeddings": 1 << 48,
    "sliding_window": 1 << 48,
    "num_experts": 1 << 16,
    "num_local_experts": 1 << 16,
    "num_experts_per_tok": 1 << 16,
    "n_routed_experts": 1 << 16,
    "moe_intermediate_size": 1 << 24,
    "shared_expert_intermediate_size": 1 << 24,
    "linear_num_key_heads": 1 << 12,
    "linear_num_value_heads": 1 << 12,
    "linear_key_head_dim": 1 << 12,
    "linear_value_head_dim": 1 << 12,
    "global_head_dim": 1 << 16,
    "kv_lora_rank": 1 << 16,
    "q_lora_rank": 1 << 16,
}
# The most characters of a value in a message.
_LONGEST = 40
# Zero means that the model has none.
_MAY_BE_ZERO = (
    "sliding_window",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "n_routed_experts",
)
_DTYPES = ("auto", "bfloat16", "float16", "half", "float32", "float", "float64", "double")


def check_plausible(config: Mapping[str, Any]) -> None:
    """Refuse a configuration, or a part of one, with a size, a dtype or a packing that no model has.

    Leaves a list of sizes, one per layer, to ``check_supported``.

    Raises:
        ModelError: the message names the field.
    """
    for key, most in _MOST.items():
        value = config.get(key)
        if value is None or isinstance(value, list):
            continue
        least = 0 if key in _MAY_BE_ZERO else 1
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            _refuse(key, value)
    chosen = config.get("num_experts_per_tok")
    for key in ("num_experts", "num_local_experts"):
        if chosen is not None and (config.get(key) or chosen) < chosen:
            _refuse("num_experts_per_tok", chosen)
    for key in ("dtype", "torch_dtype"):
        value = config.get(key)
        name = str(value).removeprefix("torch.")
        if value is not None and name not in _DTYPES and not name.startswith("float8_"):
            _refuse(key, value)
    packed = config.get("quantization_config")
    if packed is not None and not (isinstance(packed, Mapping) and packed.get("quant_method")):
        _refuse("quantization_config", packed)
    for key, part in config.items():
        if isinstance(part, Mapping) and str(key).endswith("_config"):
            check_plausible(part)


def ignore_kernels(config: PreTrainedConfig) -> None:
    """Drop what a published configuration says about the code that computes attention and experts.

    It may name a library that is not installed here, or a repository of code. lrqk replaces the attention,
    and transformers chooses the rest for the machine.
    """
    # transformers hands these two on to the parts of the configuration.
    config._attn_implementation = None
    config._experts_implementation = None


def _refuse(key: str, value: object) -> NoReturn:
    text = repr(value)
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    raise ModelError(
        f"The model's configuration says that {key} is {shown}, which no model has.",
        "Fetch the model again, or check its configuration.",
    )
