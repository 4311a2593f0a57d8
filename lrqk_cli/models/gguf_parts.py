"""Weights that a GGUF file has in parts: gate and up of experts, keys and values of latent attention."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lrqk_cli.formats import PackedFormat
from lrqk_cli.kernels.packed import empty_host_matrix, empty_matrix
from lrqk_cli.models.matrices import EXPERT_WEIGHTS, expert_shape, is_packable_experts
from lrqk_cli.models.packed_experts import PackedExperts, put_packed
from lrqk_cli.models.packed_layers import PackedModule
from lrqk_cli.models.repack import repack, unpack_blocks

_LAYER = re.compile(r"\.layers\.(\d+)\.")
# A file's names of the parts of each weight; some files have gate and up in one tensor.
_PARTS = dict(zip(EXPERT_WEIGHTS, (("gate", "up"), ("down",)), strict=True))
_JOINED = ("gate_up",)


class WeightPart(NamedTuple):
    """The place of a file's tensor in the weights or biases of a model's experts or heads.

    Attributes:
        name: the model's name of the whole weight.
        shape: shape of the tensor: experts or heads, rows, and the width unless it is a bias.
        rows: rows of each expert's or head's whole matrix.
        place: the rows of that matrix that the tensor holds.
        is_transposed: the model's layout is ``[experts, width, rows]``.
        is_packable: the whole weight can stay packed.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    place: slice
    is_transposed: bool
    is_packable: bool = True

    @property
    def is_bias(self) -> bool:
        """Whether the tensor is a part of the biases."""
        return len(self.shape) == 2


def expert_parts(model: nn.Module, held: Container[str]) -> dict[str, WeightPart]:
    """Return the parts of a model's experts in a file, by the file's names.

    Args:
        held: names of the file's tensors.
    """
    found = {}
    for path, module in model.named_modules():
        layer = _LAYER.search(f".{path}.")
        if layer is None or not is_packable_experts(module):
            continue
        for weight, parts in _PARTS.items():
            experts, rows, width = expert_shape(module, weight)
            joined = f"blk.{layer[1]}.ffn_{_JOINED[0]}_exps.weight"
            if len(parts) > 1 and module.is_concatenated and joined in held:
                parts = _JOINED
            for number, part in enumerate(parts):
                place = slice(number, None, len(parts))
                if module.is_concatenated:
                    place = slice(number * rows // len(parts), (number + 1) * rows // len(parts))
                name, shape = f"{path}.{weight}", (experts, rows // len(parts))
                of_file = f"blk.{layer[1]}.ffn_{part}_exps"
                transposed = bool(module.is_transposed)
                found[f"{of_file}.weight"] = WeightPart(name, (*shape, width), rows, place, transposed)
                if hasattr(module, f"{weight}_bias"):
                    found[f"{of_file}.bias"] = WeightPart(f"{name}_bias", shape, rows, place, False)
    return found


def head_parts(model: nn.Module, parts: Mapping[str, Mapping[str, int]]) -> dict[str, WeightPart]:
    """Return the parts of the weights of a model's heads in a file, by the file's names.

    Args:
        parts: as in ``GgufLayout``.
    """
    found = {}
    for name, weight in model.named_parameters():
        layer = _LAYER.search(name)
        if layer is None or (held := parts.get(name[layer.end() :])) is None:
            continue
        rows, start = sum(held.values()), 0
        for of_file, count in held.items():
            shape = (weight.shape[0] // rows, count, weight.shape[1])
            place = slice(start, start + count)
            found[f"blk.{layer[1]}.{of_file}"] = WeightPart(
                name, shape, rows, place, False, is_packable=False
            )
            start += count
    return found


def make_room(
    model: nn.Module,
    part: WeightPart,
    format: PackedFormat | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    on_host: bool = False,
) -> None:
    """Allocate the whole weight to which a part belongs, packed in ``format``, or plain for None.

    Args:
        on_host: a packed weight stays in host memory, which the device can read.
    """
    experts, width = part.shape[0], part.shape[-1]
    if format is not None:
        rows = experts * part.rows
        if on_host:
            matrix = empty_host_matrix(format, rows, width, pinned=device.type == "cuda")
        else:
            matrix = empty_matrix(format, rows, width, device)
        put_packed(model, part.name, matrix, dtype, experts_on_host=on_host)
        return
    path, _, attribute = part.name.rpartition(".")
    module = model.get_submodule(path)
    empty = torch.empty_like(getattr(module, attribute), dtype=dtype, device=device)
    setattr(module, attribute, nn.Parameter(empty, requires_grad=False))


def put_part(model: nn.Module, part: WeightPart, format: PackedFormat | None, content: Tensor) -> None:
    """Write a part into the weight that ``make_room`` allocated.

    Args:
        format: format of ``content``, which then holds blocks, uint8 ``[experts × rows, bytes of a row]``, on
            the device of the model; with None it holds numbers in the shape of the part.
    """
    path, _, attribute = part.name.rpartition(".")
    module = model.get_submodule(path)
    experts, width = part.shape[0], part.shape[-1]
    if isinstance(module, PackedExperts) and not part.is_bias:
        assert format is not None
        packed: PackedModule = getattr(module, attribute)
        packed.matrix.put_in_each(experts, part.place, repack(format, content, width))
        return
    parameter: Tensor = getattr(module, attribute)
    whole = (parameter.mT if part.is_transposed else parameter).view(experts, part.rows, *part.shape[2:])
    target = whole[:, part.place]
    if format is None:
        target.copy_(content)
        return
    for out, blocks in zip(target, content.view(experts, math.prod(part.shape[1:-1]), -1), strict=True):
        unpack_blocks(format, blocks, out)
