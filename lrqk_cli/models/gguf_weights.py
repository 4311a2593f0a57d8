"""A model from the tensors of a GGUF file, whose blocks stay packed where a kernel multiplies them so.

Names, and what converters of checkpoints have changed (rows of queries and keys that are interleaved, norms
that count from one), are undone by transformers' own tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lrqk_cli.config import WeightBytes
from lrqk_cli.formats import FORMATS, PackedFormat, size_bytes
from lrqk_cli.models.gguf_index import GgufIndex, TensorEntry
from lrqk_cli.models.matrices import is_packable
from lrqk_cli.models.packed_layers import PackedModule, packed_module
from lrqk_cli.models.repack import repack, unpack_blocks
from lrqk_cli.models.support import meta_model
from lrqk_cli.side_by_side import run_side_by_side

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Places: TypeAlias = Mapping[str, torch.device]

_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"


@dataclass(frozen=True, slots=True)
class Survey:
    """What a file holds for a model.

    Attributes:
        weights: bytes on the device, packed, with all that is not packed in 16 bits.
        lacking: the model's weights that it does not hold by themselves: experts lie there in other tensors.
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
) -> PreTrainedModel:
    """Build the model of ``config`` on its devices.

    Args:
        index: of the file.
        places: the device of each module, by its path; "" for all others.
        dtype: of activations, and of weights that are not packed.
        packed: leave matrices packed where ``formats`` has their type; else unpack them.

    Raises:
        ValueError: the file lacks a weight, or has one of another shape.
    """
    model = _with_real_buffers(config, dtype)
    source = _Source(index, model, config)
    # Copied on write, so that torch may share the memory of what is mapped.
    mapped = np.memmap(file, mode="c")
    tasks = {
        name: partial(
            _put,
            model,
            name,
            tensor,
            mapped[tensor.start : tensor.start + tensor.size],
            source,
            device_of(places, name),
            dtype,
            packed=packed,
        )
        for tensor, name in source.tensors()
    }
    # A packed matrix takes the place of its module, with the bias that this one has by then.
    run_side_by_side([task for name, task in tasks.items() if not name.endswith(".weight")])
    weights = [task for name, task in tasks.items() if name.endswith(".weight")]
    if all(device.type == "cpu" for device in places.values()):
        run_side_by_side(weights)
    else:
        for task in weights:
            task()
    _tie(model, config, source)
    if missing := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise ValueError(f"it lacks {min(missing)}")
    model.eval()
    for path, module in model.named_modules():
        # What a model computes itself, such as RoPE's frequencies.
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device_of(places, f"{path}.{name}")))
    return model


def device_of(places: Places, name: str) -> torch.device:
    """Return the device of a weight: that of the longest path in ``places`` that leads to it."""
    path = name
    while path not in places and path:
        path = path.rpartition(".")[0]
    return places[path]


def survey(index: GgufIndex, config: PreTrainedConfig) -> Survey:
    """Return what a file holds for the model of ``config``, from its index alone."""
    skeleton = meta_model(config)
    source = _Source(index, skeleton, config)
    ends = {f"{path}.weight" for path in _paths(skeleton, *_ends(skeleton))}
    total = read = plain = 0
    found = set[str]()
    for tensor, name in source.tensors():
        format = _kept_format(tensor, skeleton.get_submodule(name.rpartition(".")[0]))
        shape = tensor.shape
        size = math.prod(shape) * torch.bfloat16.itemsize if format is None else size_bytes(format, *shape)
        total += size
        plain += size if format is None else 0
        is_input_alone = tensor.name == _EMBEDDING and not config.tie_word_embeddings
        read += 0 if is_input_alone else size
        found.add(name)
    if config.tie_word_embeddings and found & ends:
        found |= ends
    lacking = tuple(name for name, _ in skeleton.named_parameters() if name not in found)
    return Survey(WeightBytes("gguf", total, read, plain), lacking)


class _Source:
    """The tensors of a file, and what they are called in a model."""

    def __init__(self, index: GgufIndex, model: PreTrainedModel, config: PreTrainedConfig) -> None:
        from transformers import modeling_gguf_pytorch_utils as reader

        kind: Any = reader.TENSOR_PROCESSORS.get(index.architecture, reader.TensorProcessor)
        self._processor = kind(config=config.to_dict())
        self._names = _names(index.architecture, model)
        self._is_tied = bool(config.tie_word_embeddings)
        self._tensors = index.tensors
        self.has_output = any(tensor.name == _OUTPUT for tensor in index.tensors)

    def tensors(self) -> Iterator[tuple[TensorEntry, str]]:
        """Yield the tensors that a model has, with its names for them.

        A file may hold a tied matrix twice, the output's copy in the finer blocks: that one serves for both.
        """
        for tensor in self._tensors:
            if self._is_tied and self.has_output and tensor.name == _EMBEDDING:
                continue
            if (name := self._names.get(tensor.name)) is not None:
                yield tensor, name

    def processed(self, name: str, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the numbers of a tensor as the model has them."""
        result: np.ndarray[Any, Any] = self._processor.process(weights=numbers, name=name).weights
        return result

    def order(self, tensor: TensorEntry) -> Tensor | None:
        """Return which row of the file each row of a matrix is; None for the same."""
        before = np.arange(tensor.shape[0])[:, None]
        after = self.processed(tensor.name, before)
        return None if np.array_equal(after, before) else torch.from_numpy(np.ascontiguousarray(after[:, 0]))


def _names(architecture: str, model: PreTrainedModel) -> dict[str, str]:
    """Return the model's name of each tensor of a file."""
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
    return names


def _with_real_buffers(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model without its weights, but with what it computes itself, such as RoPE's frequencies."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False)
    return model


def _kept_format(tensor: TensorEntry, module: nn.Module) -> PackedFormat | None:
    """Return the format in which a tensor can stay, as the weight of a module."""
    return FORMATS.get(tensor.type) if len(tensor.shape) == 2 and is_packable(module) else None


def _put(
    model: PreTrainedModel,
    name: str,
    tensor: TensorEntry,
    content: np.ndarray[Any, Any],
    source: _Source,
    device: torch.device,
    dtype: torch.dtype,
    *,
    packed: bool,
) -> None:
    """Give a weight of the model its numbers, or put a packed module in the place of its own."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    expected = tuple(getattr(module, attribute).shape)
    format = _kept_format(tensor, module)
    if format is None:
        numbers = _unpacked(tensor, content, source)
        if tuple(numbers.shape) != expected:
            raise ValueError(f"{tensor.name} does not have the shape {expected}")
        setattr(module, attribute, nn.Parameter(numbers.to(device, dtype), requires_grad=False))
        return
    if tensor.shape != expected:
        raise ValueError(f"{tensor.name} does not have the shape {expected}")
    blocks = torch.from_numpy(content).view(expected[0], -1).to(device)
    order = source.order(tensor)
    if packed:
        matrix = repack(format, blocks, expected[1], order)
        model.set_submodule(path, packed_module(module, matrix, dtype))
        return
    weight = torch.empty(expected, dtype=dtype, device=device)
    unpack_blocks(format, blocks, weight, order)
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
    assert isinstance(output, nn.Module)  # a causal language model has one
    return embedding, output


def _paths(model: PreTrainedModel, *modules: nn.Module) -> list[str]:
    paths = {module: path for path, module in model.named_modules()}
    return [paths[module] for module in modules]


def _tie(model: PreTrainedModel, config: PreTrainedConfig, source: _Source) -> None:
    """Let input and output share one matrix, where the model's do."""
    if not config.tie_word_embeddings:
        return
    given, other = _ends(model)[:: -1 if source.has_output else 1]
    if isinstance(given, PackedModule):
        (path,) = _paths(model, other)
        model.set_submodule(path, packed_module(other, given.matrix, given.dtype))
    else:
        other.weight = given.weight
