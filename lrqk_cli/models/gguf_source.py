"""The tensors of a GGUF file beside the weights of a model: names, formats, changes of numbers and rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrqk_cli.formats import FORMATS, PackedFormat
from lrqk_cli.models.gguf_families import FAMILIES
from lrqk_cli.models.gguf_families.base import GgufLayout, Numbers
from lrqk_cli.models.gguf_index import GgufIndex, TensorEntry
from lrqk_cli.models.gguf_parts import expert_parts, head_parts
from lrqk_cli.models.matrices import is_packable
from lrqk_cli.models.mixes import share_read

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"
_OF_LAYER = re.compile(r"blk\.\d+\.")
# Frequencies of RoPE and their factors, which are in the configuration.
_OF_POSITIONS = re.compile(r"rope_\w+\.weight|blk\.\d+\.attn_rot_embd\.\w+")
_IN_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")


class GgufSource:
    """The tensors of a file, and their names in a model.

    Layers of the model that the file has in another form are replaced by that form, without weights.

    Attributes:
        parts: the tensors that are parts of a weight, by the file's names.
        has_output: the file has a matrix for the output head, also if it is tied to the embeddings.
    """

    def __init__(self, index: GgufIndex, model: PreTrainedModel, config: PreTrainedConfig) -> None:
        held = {tensor.name for tensor in index.tensors}
        family = FAMILIES.get(index.architecture)
        layout = GgufLayout()
        if family is not None:
            layout = family.layout(config, frozenset(_OF_LAYER.sub("", name) for name in held))
        self._processor = _processor(index.architecture, config) if family is None else None
        self._changes, self._spare = layout.changes, layout.spare
        _arrange(model, layout)
        experts = expert_parts(model, held)
        self._experts = {part.name: part.shape[0] for part in experts.values()}
        self.parts = experts | head_parts(model, layout.parts)
        self._names = _names(index.architecture, model, layout)
        self._names |= {name: part.name for name, part in self.parts.items()}
        self._is_tied = bool(config.tie_word_embeddings)
        self._config = config
        self._tensors = index.tensors
        self.has_output = _OUTPUT in held

    def tensors(self) -> Iterator[tuple[TensorEntry, str]]:
        """Yield the tensors that belong to the model, with the model's names.

        A file may hold a tied matrix twice; the output's copy has finer blocks and is used for both.
        """
        for tensor in self._tensors:
            if self._is_tied and self.has_output and tensor.name == _EMBEDDING:
                continue
            if (name := self._names.get(tensor.name)) is not None:
                yield tensor, name

    def lacking(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the weights and saved buffers that the file does not hold under known names."""
        found = Counter(name for _, name in self.tensors())
        ends = {f"{path}.weight" for path in paths_of(model, *ends_of(model))}
        if self._is_tied and found.keys() & ends:
            found.update(ends - found.keys())
        parts = Counter(part.name for part in self.parts.values())
        return tuple(name for name in model.state_dict() if found[name] < parts.get(name, 1))

    def surplus(self) -> str | None:
        """Return the first tensor of the file that the model has no place for; None if there is none."""
        held = [tensor.name for tensor in self._tensors]
        drafts = {layer[0] for name in held if ".nextn." in name and (layer := _OF_LAYER.match(name))}
        for name in held:
            layer = _OF_LAYER.match(name)
            is_spare = layer is not None and (layer[0] in drafts or name[layer.end() :] in self._spare)
            if name not in self._names and not is_spare and not _OF_POSITIONS.fullmatch(name):
                return name
        return None

    def formats(self, model: nn.Module) -> dict[str, PackedFormat]:
        """Return the formats of weights that can stay packed, by the model's names.

        Experts stay packed only if all their matrices can, with gate and up in the same type.
        """
        types: dict[str, set[str]] = {}
        for tensor, name in self.tensors():
            part = self.parts.get(tensor.name)
            is_matrix = len(tensor.shape) == 2 and is_packable(model.get_submodule(name.rpartition(".")[0]))
            if is_matrix if part is None else part.is_packable and not part.is_bias:
                types.setdefault(name, set()).add(tensor.type)
        alike = {name: kinds.pop() for name, kinds in types.items() if len(kinds) == 1}
        found = {name: FORMATS[kind] for name, kind in alike.items() if kind in FORMATS}
        weights = {part.name for part in self.parts.values() if not part.is_bias}
        unpacked = {name.rpartition(".")[0] for name in weights - found.keys()}
        return {name: format for name, format in found.items() if name.rpartition(".")[0] not in unpacked}

    def has_experts(self, name: str) -> bool:
        """Whether a weight is that of a layer's experts."""
        return name in self._experts

    def share_read(self, name: str) -> float:
        """Return the share of a weight that a decode step reads."""
        if self._names.get(_EMBEDDING) == name and not self._is_tied:
            return 0.0  # it reads one row
        experts = self._experts.get(name)
        return 1.0 if experts is None else share_read(self._config, experts)

    def processed(self, name: str, numbers: Numbers) -> Numbers:
        """Return the numbers of a tensor in the model's order and scale."""
        if self._processor is not None:
            result: Numbers = self._processor.process(weights=numbers, name=name).weights
            return result
        change = self._changes.get(_OF_LAYER.sub("", name))
        return numbers if change is None else change(numbers)

    def order(self, tensor: TensorEntry) -> Tensor | None:
        """Return the file's row number for each row of a matrix; None for the same order."""
        before = np.arange(tensor.shape[0])[:, None]
        after = self.processed(tensor.name, before)
        return None if np.array_equal(after, before) else torch.from_numpy(np.ascontiguousarray(after[:, 0]))


def ends_of(model: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    """Return the input embeddings and the output head."""
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(output, nn.Module)  # every causal language model has a head
    return embedding, output


def paths_of(model: PreTrainedModel, *modules: nn.Module) -> list[str]:
    """Return the paths of modules in a model."""
    paths = {module: path for path, module in model.named_modules()}
    return [paths[module] for module in modules]


def _processor(architecture: str, config: PreTrainedConfig) -> Any:
    """Return transformers' own processor of an architecture's tensors."""
    from transformers import modeling_gguf_pytorch_utils as reader

    kind: Any = reader.TENSOR_PROCESSORS.get(architecture, reader.TensorProcessor)
    return kind(config=config.to_dict())


def _arrange(model: PreTrainedModel, layout: GgufLayout) -> None:
    for path, module in list(model.named_modules()):
        layer = _IN_LAYER.fullmatch(path)
        if layer is not None and (arrangement := layout.arrangements.get(layer[2])) is not None:
            assert isinstance(module, nn.Linear)
            model.set_submodule(path, arrangement.apply(module))


def _names(architecture: str, model: PreTrainedModel, layout: GgufLayout) -> dict[str, str]:
    """Return the model's names by the names of the file's tensors."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    known: Any = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        raise ValueError(f"its architecture {architecture} is unknown")
    theirs = get_tensor_name_map(known[architecture], model.config.num_hidden_layers)
    names = {}
    for name in model.state_dict():
        base, _, kind = name.rpartition(".")
        layer = _IN_LAYER.fullmatch(name)
        if layer is not None and (own := layout.names.get(layer[2])) is not None:
            names[f"blk.{layer[1]}.{own}"] = name
        elif (found := theirs.get_name(base)) is not None:
            names[f"{found}.{kind}"] = name
        elif (found := theirs.get_name(name)) is not None:  # a parameter of no linear layer, such as sinks
            names[f"{found}.weight"] = name
    return names
