"""Builds a model from the tensors of a GGUF file; blocks stay packed if a kernel can multiply them.

transformers' own tables translate names, and undo the changes of checkpoint converters (interleaved rows of
queries and keys, norm weights that count from one).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lrqk_cli.formats import FORMATS, PackedFormat, size_bytes
from lrqk_cli.model_spec import WeightBytes
from lrqk_cli.models.classes import meta_model
from lrqk_cli.models.gguf_experts import expert_parts, make_room, put_part
from lrqk_cli.models.gguf_index import GgufIndex, TensorEntry
from lrqk_cli.models.matrices import is_packable
from lrqk_cli.models.mixes import share_read
from lrqk_cli.models.packed_layers import PackedModule, packed_module
from lrqk_cli.models.repack import repack, unpack_blocks
from lrqk_cli.solver_pool import run_solvers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Places: TypeAlias = Mapping[str, torch.device]

_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"


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
    source = _Source(index, model, config)
    formats = source.formats(model)
    # Copy on write, so that torch may share the mapped memory.
    mapped = np.memmap(file, mode="c")
    for one in {part.name: part for part in source.experts.values()}.values():
        format = formats.get(one.name) if packed else None
        make_room(model, one, format, device_of(places, one.name), dtype, on_host=experts_on_host)
    weights, others = list[Callable[[], None]](), list[Callable[[], None]]()
    for tensor, name in source.tensors():
        content = mapped[tensor.start : tensor.start + tensor.size]
        where = device_of(places, name), dtype
        task: Callable[[], None]
        task = partial(_put, model, name, tensor, content, source, formats.get(name), where, packed=packed)
        part = source.experts.get(tensor.name)
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
    missing = [name for name, weight in model.named_parameters() if weight.is_meta]
    # Weights of experts are allocated first, because a file has them in parts.
    held = {tensor.name for tensor in index.tensors}
    if missing := missing + [part.name for name, part in source.experts.items() if name not in held]:
        raise ValueError(f"it lacks {min(missing)}")
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
    """Return the survey of a file for the model of ``config``, from its index alone."""
    skeleton = meta_model(config)
    source = _Source(index, skeleton, config)
    formats = source.formats(skeleton)
    ends = {f"{path}.weight" for path in _paths(skeleton, *_ends(skeleton))}
    rows, sizes = Counter[str](), Counter[str]()
    found = Counter[str]()
    for tensor, name in source.tensors():
        found[name] += 1
        rows[name] += math.prod(tensor.shape[:-1])
        sizes[name] += math.prod(tensor.shape) * torch.bfloat16.itemsize
        if name in formats:
            sizes[name] = size_bytes(formats[name], rows[name], tensor.shape[-1])
    total = sum(sizes.values())
    read = sum(round(size * source.share_read(name)) for name, size in sizes.items())
    plain = sum(size for name, size in sizes.items() if name not in formats)
    experts = {part.name for part in source.experts.values()} & formats.keys()
    of_experts = sum(sizes[name] for name in experts)
    experts_read = sum(round(sizes[name] * source.share_read(name)) for name in experts)
    if config.tie_word_embeddings and found.keys() & ends:
        found.update(ends - found.keys())
    parts = Counter(part.name for part in source.experts.values())
    lacking = [name for name, _ in skeleton.named_parameters() if found[name] < parts.get(name, 1)]
    weights = WeightBytes("gguf", total, read, plain, of_experts, experts_read)
    return Survey(weights, tuple(lacking))


class _Source:
    """The tensors of a file, and their names in a model."""

    def __init__(self, index: GgufIndex, model: PreTrainedModel, config: PreTrainedConfig) -> None:
        from transformers import modeling_gguf_pytorch_utils as reader

        kind: Any = reader.TENSOR_PROCESSORS.get(index.architecture, reader.TensorProcessor)
        self._processor = kind(config=config.to_dict())
        self.experts = expert_parts(model, {tensor.name for tensor in index.tensors})
        self._names = _names(index.architecture, model)
        self._names |= {name: part.name for name, part in self.experts.items()}
        self._is_tied = bool(config.tie_word_embeddings)
        self._config = config
        self._tensors = index.tensors
        self.has_output = any(tensor.name == _OUTPUT for tensor in index.tensors)

    def tensors(self) -> Iterator[tuple[TensorEntry, str]]:
        """Yield the tensors that belong to the model, with the model's names.

        A file may hold a tied matrix twice; the output's copy has finer blocks and is used for both.
        """
        for tensor in self._tensors:
            if self._is_tied and self.has_output and tensor.name == _EMBEDDING:
                continue
            if (name := self._names.get(tensor.name)) is not None:
                yield tensor, name

    def formats(self, model: nn.Module) -> dict[str, PackedFormat]:
        """Return the formats of weights that can stay packed, by the model's names.

        Experts stay packed only if all their matrices can, with gate and up in the same type.
        """
        types: dict[str, set[str]] = {}
        for tensor, name in self.tensors():
            part = self.experts.get(tensor.name)
            is_matrix = len(tensor.shape) == 2 and is_packable(model.get_submodule(name.rpartition(".")[0]))
            if is_matrix if part is None else not part.is_bias:
                types.setdefault(name, set()).add(tensor.type)
        alike = {name: kinds.pop() for name, kinds in types.items() if len(kinds) == 1}
        found = {name: FORMATS[kind] for name, kind in alike.items() if kind in FORMATS}
        weights = {part.name for part in self.experts.values() if not part.is_bias}
        unpacked = {name.rpartition(".")[0] for name in weights - found.keys()}
        return {name: format for name, format in found.items() if name.rpartition(".")[0] not in unpacked}

    def share_read(self, name: str) -> float:
        """Return the share of a weight that a decode step reads."""
        if self._names.get(_EMBEDDING) == name and not self._is_tied:
            return 0.0  # it reads one row
        experts = next((part.shape[0] for part in self.experts.values() if part.name == name), None)
        return 1.0 if experts is None else share_read(self._config, experts)

    def processed(self, name: str, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the numbers of a tensor in the model's order and scale."""
        result: np.ndarray[Any, Any] = self._processor.process(weights=numbers, name=name).weights
        return result

    def order(self, tensor: TensorEntry) -> Tensor | None:
        """Return the file's row number for each row of a matrix; None for the same order."""
        before = np.arange(tensor.shape[0])[:, None]
        after = self.processed(tensor.name, before)
        return None if np.array_equal(after, before) else torch.from_numpy(np.ascontiguousarray(after[:, 0]))


def _names(architecture: str, model: PreTrainedModel) -> dict[str, str]:
    """Return the model's names by the names of the file's tensors."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known: Any = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        raise ValueError(f"its architecture {architecture} is unknown")
    theirs = get_tensor_name_map(known[architecture], model.config.num_hidden_layers)
    names = {}
    for name in model.state_dict():
        base, _, kind = name.rpartition(".")
        if (found := theirs.get_name(base)) is not None:
            names[f"{found}.{kind}"] = name
        elif (found := theirs.get_name(name)) is not None:  # a parameter of no linear layer, such as sinks
            names[f"{found}.weight"] = name
    return names


def _with_real_buffers(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model without weights, but with the buffers that it computes, such as RoPE's frequencies."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    return model


def _put(
    model: PreTrainedModel,
    name: str,
    tensor: TensorEntry,
    content: np.ndarray[Any, Any],
    source: _Source,
    format: PackedFormat | None,
    where: tuple[torch.device, torch.dtype],
    *,
    packed: bool,
) -> None:
    """Set a weight of the model, or replace its module by a packed one."""
    device, dtype = where
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    part = source.experts.get(tensor.name)
    expected = tuple(getattr(module, attribute).shape) if part is None else part.shape
    given = _unpacked(tensor, content, source) if format is None else torch.from_numpy(content)
    if (tuple(given.shape) if format is None else tensor.shape) != expected:
        raise ValueError(f"{tensor.name} does not have the shape {expected}")
    given = given.to(device, dtype) if format is None else given.view(math.prod(expected[:-1]), -1).to(device)
    if part is not None:
        put_part(model, part, format, given)
    elif format is None:
        setattr(module, attribute, nn.Parameter(given, requires_grad=False))
    elif packed:
        matrix = repack(format, given, expected[1], source.order(tensor))
        model.set_submodule(path, packed_module(module, matrix, dtype))
    else:
        weight = torch.empty(expected, dtype=dtype, device=device)
        unpack_blocks(format, given, weight, source.order(tensor))
        setattr(module, attribute, nn.Parameter(weight, requires_grad=False))


def _unpacked(tensor: TensorEntry, content: np.ndarray[Any, Any], source: _Source) -> Tensor:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[tensor.type]
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
    given = content.reshape(tensor.shape[0], -1) if plain is None else content.view(plain)
    numbers = np.asarray(dequantize(given, kind), dtype=np.float32).reshape(tensor.shape)
    return torch.from_numpy(np.array(source.processed(tensor.name, numbers)))


def _ends(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Return the input embeddings and the output head."""
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(output, nn.Module)  # every causal language model has a head
    return embedding, output


def _paths(model: PreTrainedModel, *modules: nn.Module) -> list[str]:
    paths = {module: path for path, module in model.named_modules()}
    return [paths[module] for module in modules]


def _tie(model: PreTrainedModel, config: PreTrainedConfig, source: _Source) -> None:
    """Let input and output share one matrix if the model ties them."""
    if not config.tie_word_embeddings:
        return
    given, other = _ends(model)[:: -1 if source.has_output else 1]
    if isinstance(given, PackedModule):
        (path,) = _paths(model, other)
        model.set_submodule(path, packed_module(other, given.matrix, given.dtype))
    else:
        other.weight = given.weight
