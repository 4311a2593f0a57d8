"""Which matrix gets which format: mixes that people know by name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from lrqk_cli.config import WeightBytes
from lrqk_cli.formats import FORMATS, UNIT, PackedFormat
from lrqk_cli.kernels.packed import size_bytes

_LAYER = re.compile(r"\.layers\.(\d+)\.")
# Where rows are no multiple of a block of 256.
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def q4_k_m(
    model: PreTrainedModel, *, is_tied: bool
) -> Iterator[tuple[str, nn.Linear | nn.Embedding, PackedFormat]]:
    """Yield the path and the format of all matrices of a model that llama.cpp's Q4_K_M packs.

    The output head, and of some layers the values and the MLP's last matrix, get Q6_K, all others Q4_K
    (``llama_tensor_get_type`` of llama.cpp). Matrices whose rows are no multiple of 32 are left out.

    Args:
        is_tied: one matrix serves as input embeddings and output head.
    """
    layers = 1 + max(
        (int(found[1]) for path, _ in model.named_modules() if (found := _layer(path))), default=0
    )
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            # Where it is the output head too, it is as fine as that.
            name = "Q6_K" if is_tied else "Q4_K"
            width = module.embedding_dim
        elif isinstance(module, nn.Linear):
            name, width = _of_linear(path, layers), module.in_features
        else:
            continue
        if width % FORMATS[name].block:
            name = _FALLBACKS[name]
        if width % UNIT == 0:
            yield path, module, FORMATS[name]


def packed_weight_bytes(model: PreTrainedModel, item: int) -> WeightBytes:
    """Return what the weights of a model would take.

    Args:
        item: bytes of a number that is not packed.
    """
    is_tied = model.config.tie_word_embeddings
    packed = {module.weight: (module, format) for _, module, format in q4_k_m(model, is_tied=is_tied)}
    total = read = 0
    for weight in model.parameters():
        size = weight.numel() * item
        is_read = True
        if weight in packed:
            module, format = packed[weight]
            size = size_bytes(format, *weight.shape)
            # A step takes one row of the input embeddings.
            is_read = isinstance(module, nn.Linear)
        total += size
        read += size if is_read else 0
    return WeightBytes(total, read)


def _layer(path: str) -> re.Match[str] | None:
    return _LAYER.search(f".{path}.")


def _of_linear(path: str, layers: int) -> str:
    found = _layer(path)
    if found is None:
        return "Q6_K"
    if path.endswith(("v_proj", "down_proj")) and _is_finer(int(found[1]), layers):
        return "Q6_K"
    return "Q4_K"


def _is_finer(layer: int, layers: int) -> bool:
    first = layers // 8
    return layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2
