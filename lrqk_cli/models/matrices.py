"""The matrices of a built model that can be packed, and their formats."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import UNIT, PackedFormat
from lrqk_cli.models.mixes import Matrix, format_of, share_read

# Names of the experts' weights of a layer in transformers; one tensor holds all experts.
EXPERT_WEIGHTS = ("gate_up_proj", "down_proj")
_EXPERT_PARAMETERS = frozenset({*EXPERT_WEIGHTS, *(f"{name}_bias" for name in EXPERT_WEIGHTS)})


def is_packable(module: nn.Module) -> bool:
    """Return whether a packed module can replace this one: a plain linear layer or plain embeddings."""
    is_embedding = isinstance(module, nn.Embedding) and (
        type(module) is nn.Embedding or hasattr(module, "embed_scale")
    )
    return type(module) is nn.Linear or is_embedding


def is_packable_experts(module: nn.Module) -> bool:
    """Return whether packed experts can replace this module.

    It must hold gated experts with transformers' interface, and both weights must be packable.
    """
    names = {name for name, _ in module.named_parameters(recurse=False)}
    if not (set(EXPERT_WEIGHTS) <= names <= _EXPERT_PARAMETERS and hasattr(module, "is_transposed")):
        return False
    is_usual = bool(getattr(module, "has_gate", False)) and not getattr(module, "has_post_expert_norm", False)
    return is_usual and all(expert_shape(module, name)[2] % UNIT == 0 for name in EXPERT_WEIGHTS)


def expert_shape(module: nn.Module, name: str) -> tuple[int, int, int]:
    """Return number of experts, rows and width of each expert's matrix in one of ``EXPERT_WEIGHTS``."""
    experts, rows, width = getattr(module, name).shape
    return (experts, width, rows) if module.is_transposed else (experts, rows, width)


def matrices_of(model: PreTrainedModel) -> Iterator[Matrix]:
    """Yield the packable matrices of a model, each once; all experts of a layer count as one matrix."""
    seen = set[nn.Parameter]()
    for path, module in model.named_modules():
        if is_packable_experts(module):
            for name in EXPERT_WEIGHTS:
                experts, rows, width = expert_shape(module, name)
                share = share_read(model.config, experts)
                yield Matrix(f"{path}.{name}", experts * rows, width, share_read=share)
        weight = getattr(module, "weight", None)
        if is_packable(module) and isinstance(weight, nn.Parameter) and weight not in seen:
            seen.add(weight)
            rows, width = weight.shape
            yield Matrix(path, rows, width, isinstance(module, nn.Embedding))


def formats_of(model: PreTrainedModel, form: WeightForm, *, is_tied: bool) -> dict[str, PackedFormat]:
    """Return the formats of a model's matrices in a form, by the path of the module or experts' weight."""
    layers = model.config.num_hidden_layers
    found = {matrix.path: format_of(form, matrix, layers, is_tied=is_tied) for matrix in matrices_of(model)}
    return {path: format for path, format in found.items() if format is not None}
