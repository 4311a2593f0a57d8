"""Which matrix of a model gets which packed format: mixes that people know by name. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from lrqk_cli.config import WeightBytes, WeightForm
from lrqk_cli.formats import FORMATS, UNIT, PackedFormat, size_bytes

# What is not packed, such as norms and biases, has 16 bits on a GPU.
_PLAIN_BYTES = 2
_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Where rows are no multiple of a block of 256, as in llama.cpp.
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# The forms that a model's weights can be given on loading, the finest first.
ON_LOAD: tuple[WeightForm, ...] = ("q8", "q4")


class Matrix(NamedTuple):
    """The weight of a linear layer, of all experts of a layer, or of the input embeddings.

    Attributes:
        path: of its module, or of the experts' weight.
        share_read: the part of it that a step reads.
    """

    path: str
    rows: int
    width: int
    is_embedding: bool = False
    share_read: float = 1.0


def share_read(text: Any, experts: int) -> float:
    """Return which part of so many experts a step reads; all, where the configuration does not say."""
    return min(1.0, int(getattr(text, "num_experts_per_tok", None) or experts) / experts)


def format_of(form: WeightForm, matrix: Matrix, layers: int, *, is_tied: bool) -> PackedFormat | None:
    """Return the format of a matrix in a form: Q8_0 for all, or what llama.cpp's Q4_K_M gives it.

    There the output head, and of some layers the values and the MLP's last matrix, get Q6_K, fused queries,
    keys and values Q5_K, and all others Q4_K (``llama_tensor_get_type`` of llama.cpp).

    Args:
        layers: of the model.
        is_tied: one matrix serves as input embeddings and output head, and is as fine as that.

    Returns:
        None where rows are no multiple of 32: such a matrix is not packed.
    """
    if matrix.width % UNIT:
        return None
    if form == "q8":
        return FORMATS["Q8_0"]
    name = ("Q6_K" if is_tied else "Q4_K") if matrix.is_embedding else _of_linear(matrix.path, layers)
    return FORMATS[_FALLBACKS[name] if matrix.width % FORMATS[name].block else name]


def weight_bytes(
    form: WeightForm, matrices: Iterable[Matrix], layers: int, parameters: int, *, is_tied: bool
) -> WeightBytes:
    """Return what the weights of a model would take.

    Args:
        matrices: those that can be packed.
        parameters: of the model, tied embeddings once.
    """
    packed = unread = 0
    plain = parameters
    for matrix in matrices:
        format = format_of(form, matrix, layers, is_tied=is_tied)
        count = matrix.rows * matrix.width
        size = count * _PLAIN_BYTES
        if format is not None:
            size = size_bytes(format, matrix.rows, matrix.width)
            packed += size
            plain -= count
        # Of embeddings a step takes one row, unless they are the output head too.
        share = 0.0 if matrix.is_embedding and not is_tied else matrix.share_read
        unread += round(size * (1 - share))
    total = packed + plain * _PLAIN_BYTES
    return WeightBytes(form, total, total - unread, plain * _PLAIN_BYTES)


def _of_linear(path: str, layers: int) -> str:
    found = _LAYER.search(f".{path}.")
    if found is None:
        return "Q6_K"
    if path.endswith("qkv_proj"):
        return "Q5_K"
    if path.endswith(("v_proj", "down_proj")) and _is_finer(int(found[1]), layers):
        return "Q6_K"
    return "Q4_K"


def _is_finer(layer: int, layers: int) -> bool:
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2
