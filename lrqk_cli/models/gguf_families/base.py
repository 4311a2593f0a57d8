"""What a family of GGUF files consists of, and what several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lrqk_cli.models.arranged_linear import ArrangedLinear
from lrqk_cli.models.gguf_reader import HeaderValues
from lrqk_cli.models.sanity import check_plausible

Numbers: TypeAlias = np.ndarray[Any, Any]
Change: TypeAlias = Callable[[Numbers], Numbers]
Settings: TypeAlias = dict[str, Any]

# What LongRoPE divides the frequencies of long texts by.
LONG_FACTORS = "rope_factors_long.weight"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How a linear layer of the model is made of the matrices of a file; see ``ArrangedLinear``.

    Attributes:
        rows: the rows of each of the file's matrices; empty for one with all rows.
    """

    rows: tuple[int, ...] = ()
    inputs: Tensor | None = None
    outputs: Tensor | None = None

    def apply(self, layer: nn.Linear) -> ArrangedLinear:
        """Return the layer's replacement, without weights."""
        device, bias = layer.weight.device, layer.bias is not None
        sizes = self.rows or (layer.out_features,)
        parts = [nn.Linear(layer.in_features, rows, bias, device, layer.weight.dtype) for rows in sizes]
        return ArrangedLinear(parts, self.inputs, self.outputs)


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """The tensors of a file beside those of a model.

    Tensors of a layer are named as in the file, without ``blk.<layer>.``; modules and weights as in the
    model, without ``model.layers.<layer>.``.

    Attributes:
        names: the tensors of weights whose names the package ``gguf`` does not know.
        changes: what makes the model's numbers of a tensor's; of matrices that can stay packed it only moves
            whole rows.
        arrangements: the linear layers that are made of other matrices.
        parts: the weights of linear layers that are one matrix here, and in the file several tensors
            ``[heads, rows, width]``: the rows of a head in each, by its name. They do not stay packed.
        spare: the tensors that a file may have although no layer needs them.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    changes: Mapping[str, Change] = field(default_factory=dict)
    arrangements: Mapping[str, Arrangement] = field(default_factory=dict)
    parts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    spare: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """An architecture of GGUF files.

    Attributes:
        settings: reads the configuration, with transformers' keys; raises ValueError if a value is missing.
        layout: says how tensors become weights of a configuration's model, from the names of the file's
            tensors without their layers.
    """

    settings: Callable[[HeaderValues], Settings]
    layout: Callable[[Any, frozenset[str]], GgufLayout]


def common_settings(header: HeaderValues) -> Settings:
    """Return the settings that every family has.

    Raises:
        ModelError: a size is one that no model has.
    """
    layers = header["block_count"] - header.get("nextn_predict_layers", 0)
    settings: Settings = {
        "num_hidden_layers": layers,
        "hidden_size": header["embedding_length"],
        "num_attention_heads": header["attention.head_count"],
        "max_position_embeddings": header["context_length"],
        "vocab_size": header.shapes.get("token_embd.weight", (0,))[0],
        "tie_word_embeddings": not header.has("output.weight"),
        "bos_token_id": header.token("bos"),
        "eos_token_id": header.token("eos"),
        "pad_token_id": header.token("padding"),
    }
    # Before lists are made, one value for each layer.
    check_plausible(settings)
    return settings


def mixture_settings(header: HeaderValues) -> Settings:
    """Return the settings of the experts of most mixtures."""
    return {
        "num_experts": header["expert_count"],
        "num_experts_per_tok": header["expert_used_count"],
        "moe_intermediate_size": header["expert_feed_forward_length"],
    }


def rope(header: HeaderValues, **others: Any) -> Settings:
    """Return ``rope_parameters`` for a header, with ``others`` added.

    Raises:
        ValueError: positions are scaled in a way that is not read.
    """
    kind = header.get("rope.scaling.type", "none")
    found: Settings = {"rope_type": "default", "rope_theta": header.get("rope.freq_base", 10_000.0), **others}
    if kind == "none" and (factor := header.get("rope.scale_linear", 1.0)) != 1.0:  # files of 2023
        return found | {"rope_type": "linear", "factor": factor}
    if kind == "none" or (kind == "longrope" and LONG_FACTORS in header.shapes):  # see ``supplements``
        return found
    if kind not in ("linear", "yarn"):
        raise ValueError(f"RoPE scaling of the kind {kind} is not read")
    found |= {"rope_type": kind, "factor": header["rope.scaling.factor"]}
    if kind == "yarn":
        found["original_max_position_embeddings"] = header["rope.scaling.original_context_length"]
        for name in ("beta_fast", "beta_slow"):
            if (value := header.get(f"rope.scaling.yarn_{name}")) is not None:
                found[name] = value
    return found


def less_one(numbers: Numbers) -> Numbers:
    """Undo the shift of a norm that counts from zero in the model, and from one in the file."""
    return numbers - 1


def log_of_negative(numbers: Numbers) -> Numbers:
    """Return ``A_log`` of a decay rate ``-exp(A_log)``, ``[heads]`` or ``[heads, 1]``."""
    return np.log(-numbers).reshape(-1)


def with_channel(numbers: Numbers) -> Numbers:
    """Add the channel dimension of a convolution's kernel: ``[width, 1, length]``."""
    return numbers[:, None]


def in_order(order: Numbers) -> Change:
    """Return the change that takes rows in an order."""
    return lambda numbers: numbers[order]


def as_places(order: Numbers) -> Tensor:
    """Return an order as an argument of ``index_select``."""
    return torch.from_numpy(np.ascontiguousarray(order))
