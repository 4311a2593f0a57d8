"""The matrices of a built model that can be packed, and what stands in for them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import PackedFormat
from lrqk_cli.models.mixes import Matrix, format_of


def is_packable(module: nn.Module) -> bool:
    """Tell whether a packed module can stand in for this one: a plain linear layer or plain embeddings."""
    is_embedding = isinstance(module, nn.Embedding) and (
        type(module) is nn.Embedding or hasattr(module, "embed_scale")
    )
    return type(module) is nn.Linear or is_embedding


def matrices_of(model: PreTrainedModel) -> Iterator[Matrix]:
    """Yield the matrices of a model that can be packed, each once."""
    seen = set[nn.Parameter]()
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if is_packable(module) and isinstance(weight, nn.Parameter) and weight not in seen:
            seen.add(weight)
            rows, width = weight.shape
            yield Matrix(path, rows, width, isinstance(module, nn.Embedding))


def formats_of(model: PreTrainedModel, form: WeightForm, *, is_tied: bool) -> dict[str, PackedFormat]:
    """Return the formats of a model's matrices in a form, by the paths of their modules."""
    layers = model.config.num_hidden_layers
    found = {matrix.path: format_of(form, matrix, layers, is_tied=is_tied) for matrix in matrices_of(model)}
    return {path: format for path, format in found.items() if format is not None}
