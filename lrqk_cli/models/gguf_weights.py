"""Builds a model from the tensors of a GGUF file; blocks stay packed if a kernel can multiply them.

``gguf_source`` translates names, and undoes the changes of checkpoint converters (interleaved rows of queries
and keys, norm weights that count from one).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lrqk_cli.formats import PackedFormat, size_bytes
from lrqk_cli.model_spec import WeightBytes
from lrqk_cli.models.classes import meta_model
from lrqk_cli.models.gguf_index import GgufIndex, TensorEntry
from lrqk_cli.models.gguf_parts import make_room, put_part
from lrqk_cli.models.gguf_source import GgufSource, ends_of, paths_of
from lrqk_cli.models.packed_layers import PackedModule, packed_module
from lrqk_cli.models.repack import repack, unpack_blocks
from lrqk_cli.solver_pool import run_solvers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Places: TypeAlias = Mapping[str, torch.device]


@dataclass(frozen=True, slots=True)
class Survey:
    """The weights of a model in a file.

    Attributes:
        weights: bytes on the device with packed matrices, and all other weights in 16 bits.
        lacking: the model's weights that the file does not hold under known names.
    """

    weights: WeightBytes
    lacking: tuple[str, ...]


def load_weights(
    file: Path,
    index: GgufIndex,
    config: PreTrainedConfig,
    places: Places,
    dtype: torch.dtype,
    *,
    packed: bool,
    experts_on_host: bool = False,
) -> PreTrainedModel:
    """Build the model of ``config`` on its devices.

    Args:
        index: the index of the file.
        places: the device of each module, by its path; "" for all others.
        dtype: dtype of activations and of weights that are not packed.
        packed: keep matrices packed if ``formats`` has their type; else unpack them.
        experts_on_host: packed experts stay in host memory, which the devices can read.

    Raises:
        ValueError: the file lacks a weight, or a weight has another shape.
    """
    model = _with_real_buffers(config, dtype)
    source = GgufSource(index, model, config)
    if lacking := source.lacking(model):
        raise ValueError(f"it lacks {min(lacking)}")
    formats = source.formats(model)
    # Copy on write, so that torch may share the mapped memory.
    mapped = np.memmap(file, mode="c")
    for one in {part.name: part for part in source.parts.values()}.values():
        format = formats.get(one.name) if packed else None
        make_room(model, one, format, device_of(places, one.name), dtype, on_host=experts_on_host)
    weights, others = list[Callable[[], None]](), list[Callable[[], None]]()
    for tensor, name in source.tensors():
        content = mapped[tensor.start : tensor.start + tensor.size]
        where = device_of(places, name), _dtype_of(model, name, dtype)
        task: Callable[[], None]
        task = partial(_put, model, name, tensor, content, source, formats.get(name), where, packed=packed)
        part = source.parts.get(tensor.name)
        is_matrix = name.endswith(".weight") or (part is not None and not part.is_bias)
        (weights if is_matrix else others).append(task)
    # A packed module takes over the bias of the module that it replaces, so biases are loaded first.
    run_solvers(others)
    if all(device.type == "cpu" for device in places.values()):
        run_solvers(weights)
    else:
        for task in weights:
            task()
    _tie(model, config, source)
    model.eval()
    for path, module in model.named_modules():
        # Buffers that the model computes, such as RoPE's frequencies.
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device_of(places, f"{path}.{name}")))
    return model


def device_of(places: Places, name: str) -> torch.device:
    """Return the device of a weight: that of the longest path in ``places`` that contains it."""
    path = name
    while path not in places and path:
        path = path.rpartition(".")[0]
    return places[path]


def survey(index: GgufIndex, config: PreTrainedConfig) -> Survey:
    """Return the survey of a file for the model of ``config``, from its index alone.

    Raises:
        ValueError: the file has a tensor that the model has no place for; without it answers would be wrong.
    """
    skeleton = meta_model(config)
    source = GgufSource(index, skeleton, config)
    if (name := source.surplus()) is not None:
        raise ValueError(f"it has {name}, which the model of its header does not")
    formats = source.formats(skeleton)
    rows, sizes = Counter[str](), Counter[str]()
    for tensor, name in source.tensors():
        rows[name] += math.prod(tensor.shape[:-1])
        sizes[name] += math.prod(tensor.shape) * torch.bfloat16.itemsize
        if name in formats:
            sizes[name] = size_bytes(formats[name], rows[name], tensor.shape[-1])
    total = sum(sizes.values())
    read = sum(round(size * source.share_read(name)) for name, size in sizes.items())
    plain = sum(size for name, size in sizes.items() if name not in formats)
    of_experts = {name: size for name, size in sizes.items() if name in formats and source.has_experts(name)}
    experts_read = sum(round(size * source.share_read(name)) for name, size in of_experts.items())
    weights = WeightBytes("gguf", total, read, plain, sum(of_experts.values()), experts_read)
    return Survey(weights, source.lacking(skeleton))


def _with_real_buffers(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model without weights, but with the buffers that it computes, such as RoPE's frequencies."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    return model


def _dtype_of(model: PreTrainedModel, name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a weight that is not packed: float32 for those that transformers never rounds."""
    exact = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    return torch.float32 if name.endswith(tuple(f".{end}" for end in exact)) else dtype


def _put(
    model: PreTrainedModel,
    name: str,
    tensor: TensorEntry,
    content: np.ndarray[Any, Any],
    source: GgufSource,
    format: PackedFormat | None,
    where: tuple[torch.device, torch.dtype],
    *,
    packed: bool,
) -> None:
    """Set a weight of the model, or replace its module by a packed one."""
    device, dtype = where
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    part = source.parts.get(tensor.name)
    expected = tuple(getattr(module, attribute).shape) if part is None else part.shape
    given = _unpacked(tensor, content, source) if format is None else torch.from_numpy(content)
    if (tuple(given.shape) if format is None else tensor.shape) != expected:
        raise ValueError(f"{tensor.name} does not have the shape {expected}")
    given = given.to(device, dtype) if format is None else given.view(math.prod(expected[:-1]), -1).to(device)
    if part is not None:
        put_part(model, part, format, given)
    elif format is None:
        is_buffer = attribute in dict(module.named_buffers(recurse=False))
        setattr(module, attribute, given if is_buffer else nn.Parameter(given, requires_grad=False))
    elif packed:
        matrix = repack(format, given, expected[1], source.order(tensor))
        model.set_submodule(path, packed_module(module, matrix, dtype))
    else:
        weight = torch.empty(expected, dtype=dtype, device=device)
        unpack_blocks(format, given, weight, source.order(tensor))
        setattr(module, attribute, nn.Parameter(weight, requires_grad=False))


def _unpacked(tensor: TensorEntry, content: np.ndarray[Any, Any], source: GgufSource) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[tensor.type]
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
    given = content.reshape(tensor.shape[0], -1) if plain is None else content.view(plain)
    numbers = np.asarray(dequantize(given, kind), dtype=np.float32).reshape(tensor.shape)
    return torch.from_numpy(np.array(source.processed(tensor.name, numbers)))


def _tie(model: PreTrainedModel, config: PreTrainedConfig, source: GgufSource) -> None:
    """Let input and output share one matrix if the model ties them."""
    if not config.tie_word_embeddings:
        return
    given, other = ends_of(model)[:: -1 if source.has_output else 1]
    if isinstance(given, PackedModule):
        (path,) = paths_of(model, other)
        model.set_submodule(path, packed_module(other, given.matrix, given.dtype))
    else:
        other.weight = given.weight
