"""Assigns packed formats to the matrices of a model, by known mixes such as Q4_K_M. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import FORMATS, UNIT, PackedFormat, size_bytes
from lrqk_cli.model_spec import WeightBytes

# Bytes of an unpacked number, such as in norms and biases, on a GPU.
_PLAIN_BYTES = 2
_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Formats for rows that are no multiple of a block of 256, as in llama.cpp.
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# The forms into which loading can pack weights, the finest first.
ON_LOAD: tuple[WeightForm, ...] = ("q8", "q4")


class Matrix(NamedTuple):
    """The weight of a linear layer, of all experts of a layer, or of the input embeddings.

    Attributes:
        path: path of its module, or of the experts' weight.
        share_read: the share of it that a decode step reads.
    """

    path: str
    rows: int
    width: int
    is_embedding: bool = False
    share_read: float = 1.0

    @property
    def is_of_experts(self) -> bool:
        """Whether it is the weight of all experts of a layer."""
        return ".experts." in self.path


def experts_per_token(text: Any) -> int:
    """Return how many experts a token has in a layer; 0 without experts."""
    return getattr(text, "num_experts_per_tok", None) or getattr(text, "top_k_experts", None) or 0


def share_read(text: Any, experts: int) -> float:
    """Return the share of the experts that a decode step reads; 1 if the configuration does not say."""
    return min(1.0, (experts_per_token(text) or experts) / experts)


def format_of(form: WeightForm, matrix: Matrix, layers: int, *, is_tied: bool) -> PackedFormat | None:
    """Return the format of a matrix in a form: Q8_0 in ``q8``, the type of llama.cpp's Q4_K_M in ``q4``.

    Q4_K_M has Q6_K for the output head and, in some layers, for the values and the MLP's last matrix; Q5_K
    for fused queries, keys and values; Q4_K for the others (``llama_tensor_get_type`` of llama.cpp).

    Args:
        layers: number of layers of the model.
        is_tied: one matrix is both input embeddings and output head, and has the head's format.

    Returns:
        None if the row length is no multiple of 32: such a matrix is not packed.
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
    """Return the bytes of a model's weights in a form.

    Args:
        matrices: the packable matrices.
        parameters: number of parameters of the model, tied embeddings once.
    """
    packed = unread = experts = experts_read = 0
    plain = parameters
    for matrix in matrices:
        format = format_of(form, matrix, layers, is_tied=is_tied)
        count = matrix.rows * matrix.width
        size = count * _PLAIN_BYTES
        if format is not None:
            size = size_bytes(format, matrix.rows, matrix.width)
            packed += size
            plain -= count
            if matrix.is_of_experts:
                experts += size
                experts_read += round(size * matrix.share_read)
        # A step reads one row of the embeddings, unless they are the output head too.
        share = 0.0 if matrix.is_embedding and not is_tied else matrix.share_read
        unread += round(size * (1 - share))
    total = packed + plain * _PLAIN_BYTES
    return WeightBytes(form, total, total - unread, plain * _PLAIN_BYTES, experts, experts_read)


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
