"""Checks weights: accepts only safetensors in the model's own folder, with finite numbers.

The other formats that transformers reads are pickles, which can hold code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.errors import ModelError
from lrqk_cli.models.support import attention_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ADAPTER = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_weight_files(name: str, folder: Path) -> None:
    """Refuse a folder whose weights are not safetensors, or whose index leads elsewhere.

    Args:
        name: the user's name of the model.
        folder: the folder for ``from_pretrained``.

    Raises:
        ModelError: the message names the file.
    """
    if (folder / _ADAPTER).is_file():
        raise ModelError(
            f"The model '{name}' is an adapter for another model ({_ADAPTER}), which lrqk does not apply.",
            "Merge it into its base model first: merge_and_unload of peft.",
        )
    if (folder / _SINGLE).is_file():
        return
    if (folder / _INDEX).is_file():
        _check_index(name, folder / _INDEX)
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"The weights of '{name}' are in {pickles[0]}, and lrqk reads safetensors only.",
            "Convert them with save_pretrained of transformers, or fetch a copy that has safetensors.",
        )


def check_finite(name: str, model: PreTrainedModel) -> None:
    """Refuse weights that make keys NaN: attention may ignore such keys, and the answer would be wrong.

    NaN from other weights reaches the logits, which every step checks. Weights without a device yet are not
    checked.

    Raises:
        ModelError: the message names a tensor.
    """
    import torch

    from lrqk_cli.models.packed_layers import PackedModule

    parts = {"embeddings": model.get_input_embeddings()}
    parts |= {f"layer {layer.layer_idx}": layer for layer in attention_layers(model)}
    looked_at = {
        f"{name_} of {where}": torch.stack(torch.aminmax(weight.detach())).isfinite().all()
        for where, part in parts.items()
        for name_, weight in part.named_parameters()
        if not weight.is_meta
    }
    looked_at |= {
        f"{path or 'matrix'} of {where}": module.matrix.is_finite
        for where, part in parts.items()
        for path, module in part.named_modules()
        if isinstance(module, PackedModule)
    }
    finite = torch.stack([flag.to(model.device) for flag in looked_at.values()]).tolist() if looked_at else []
    damaged = [tensor for tensor, is_finite in zip(looked_at, finite, strict=True) if not is_finite]
    if damaged:
        raise damaged_weights(name, damaged[0])


def damaged_weights(name: str, tensor: str) -> ModelError:
    """Return the error of weights that are not finite numbers."""
    return ModelError(
        f"The weights of '{name}' are damaged: {tensor} holds values that are not finite numbers.",
        "Fetch the model again; in float16, try `dtype` float32 or bfloat16.",
    )


def _check_index(name: str, index: Path) -> None:
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ModelError(
            f"The index of the weights of '{name}', {index.name}, cannot be read.", "Fetch the model again."
        ) from None
    for file in files:
        # A backslash separates folders on Windows.
        is_here = isinstance(file, str) and not {"/", "\\", ":"} & set(file)
        if not is_here or not file.endswith(".safetensors"):
            raise ModelError(
                f"The index of the weights of '{name}' names {str(file)[:80]!r}, "
                "which is not a safetensors file of its folder.",
                "Fetch the model again, from a source that you trust.",
            )
        if not (index.parent / file).is_file():
            raise ModelError(f"The model '{name}' lacks its weight file {file}.", "Fetch the model again.")
