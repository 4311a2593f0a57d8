"""Packs checkpoints of plain numbers while loading them.

transformers reads a checkpoint tensor by tensor, renames each one and offers it for quantisation
(``HfQuantizer``). The quantiser here replaces the module of the tensor by a packed one, so neither the host
nor the device ever holds the plain model.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import PackedFormat
from lrqk_cli.kernels.packed import on_host
from lrqk_cli.models.matrices import formats_of
from lrqk_cli.models.packed_experts import put_packed
from lrqk_cli.models.packed_layers import PackedModule, packed_module
from lrqk_cli.models.quantise import quantise

_METHOD = "lrqk"
_TIES = "all_tied_weights_keys"


class Packer(QuantizationConfigMixin):
    """The quantisation config for ``from_pretrained``.

    Attributes:
        quantizer: the quantiser that transformers made from this config.
    """

    def __init__(self, form: WeightForm, experts_on_host: bool, **_: Any) -> None:
        # The registry accepts names outside transformers' own enumeration.
        self.quant_method = _METHOD  # type: ignore[assignment]
        self.form = form
        self.experts_on_host = experts_on_host
        self.quantizer: _Quantizer | None = None

    @property
    def failure(self) -> Exception | None:
        """The exception that packing raised, which transformers swallows."""
        return self.quantizer.failure if self.quantizer is not None else None


def quantisation(form: WeightForm, *, experts_on_host: bool = False) -> Packer:
    """Return the config that makes ``from_pretrained`` pack a checkpoint; call ``finish`` afterwards.

    Args:
        experts_on_host: packed experts stay in host memory, which the model's device can read.
    """
    _register()
    return Packer(form, experts_on_host)


class Packing(NamedTuple):
    """Names of weights that packing reports.

    Attributes:
        mismatched: weights with another shape than the model's.
        damaged: weights with values that are not finite.
        tied: weights that share the matrix of the model's other end.
    """

    mismatched: set[str]
    damaged: set[str]
    tied: set[str]


def finish(model: PreTrainedModel) -> Packing:
    """Remove transformers' marks of quantisation from a packed model, tie its ends, and return the report."""
    quantizer = model.hf_quantizer
    assert isinstance(quantizer, _Quantizer)
    for owner, name in (
        (model.config, "quantization_config"),
        (model, "hf_quantizer"),
        (model, "is_quantized"),
        (model, "quantization_method"),
    ):
        if hasattr(owner, name):
            delattr(owner, name)
    tied = _tie(model, *quantizer.ends, quantizer.dtype) if quantizer.ends is not None else set()
    return Packing(quantizer.mismatched, quantizer.damaged, tied)


class _Quantizer(HfQuantizer):
    """Packs each matrix that has a format as soon as transformers has read it."""

    requires_calibration = False

    def __init__(self, quantization_config: Packer, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._form = quantization_config.form
        self.experts_on_host = quantization_config.experts_on_host
        quantization_config.quantizer = self
        self.formats: dict[str, PackedFormat] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.ends: tuple[str, str] | None = None
        self.mismatched = set[str]()
        self.damaged = set[str]()
        self.failure: Exception | None = None
        self.dtype = torch.bfloat16

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Remember the dtype of unpacked weights."""
        self.dtype = dtype
        return dtype

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        is_tied = bool(model.config.tie_word_embeddings)
        # Tie the ends before finding formats, so that a tied matrix is found once.
        if is_tied:
            model.tie_weights()
        self.formats = formats_of(model, self._form, is_tied=is_tied)
        self.shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
        paths = {module: path for path, module in model.named_modules()}
        output = model.get_output_embeddings()
        embedding = paths[model.get_input_embeddings()]
        if is_tied and isinstance(output, nn.Module) and embedding in self.formats:
            # ``finish`` ties packed ends, because transformers can tie plain weights only.
            self.ends = embedding, paths[output]
            self.formats[paths[output]] = self.formats[embedding]
            setattr(model, _TIES, {})

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:  # noqa: ARG002
        """Return whether a tensor is the weight of a matrix with a format."""
        return _path(param_name) in self.formats

    def param_element_size(self, model: PreTrainedModel, param_name: str, param: Tensor) -> float:
        """Return the bytes of one number of a tensor, by which transformers reserves device memory."""
        if (format := self.formats.get(_path(param_name))) is not None:
            return format.block_bytes / format.block
        return float(super().param_element_size(model, param_name, param))

    def get_quantize_ops(self) -> ConversionOps:
        """Return the operation that packs a weight."""
        return _Pack(self)

    def is_serializable(self) -> bool:
        """Return False: transformers cannot save the packed model."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Return False: the packed model cannot be trained."""
        return False


class _Pack(ConversionOps):
    """Replaces the module of a weight, or both modules that share the weight, by a packed one."""

    def __init__(self, quantizer: _Quantizer) -> None:
        self._quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],  # noqa: ARG002
        target_patterns: list[str],  # noqa: ARG002
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        """Pack one weight; return nothing, so that transformers sets no parameter."""
        try:
            self._pack(input_dict, **kwargs)
        except Exception as error:
            # transformers continues with the other tensors and hides the exception, so keep the first one.
            self._quantizer.failure = self._quantizer.failure or error
            raise
        return {}

    def _pack(
        self,
        given: dict[str, Any],
        *,
        model: PreTrainedModel,
        full_layer_name: str,
        missing_keys: set[str],
        **_: Any,
    ) -> None:
        (tensors,) = given.values()
        weight: Tensor = tensors[0] if isinstance(tensors, list) else tensors
        path = _path(full_layer_name)
        quantizer = self._quantizer
        if weight.shape != quantizer.shapes[full_layer_name]:
            quantizer.mismatched.add(full_layer_name)
            return
        # Quantising would turn NaN into zeros, so check first.
        if not bool(torch.stack(torch.aminmax(weight)).isfinite().all()):
            quantizer.damaged.add(full_layer_name)
        is_of_experts = weight.dim() > 2
        if is_of_experts:
            experts: Any = model.get_submodule(path.rpartition(".")[0])
            weight = (weight.mT if experts.is_transposed else weight).flatten(0, 1)
        matrix = quantise(quantizer.formats[path], weight)
        is_on_host = quantizer.experts_on_host and is_of_experts
        if is_on_host:
            matrix = on_host(matrix)
        put_packed(model, path, matrix, quantizer.dtype, experts_on_host=is_on_host)
        missing_keys.discard(full_layer_name)
        _spare(model.get_submodule(path.rpartition(".")[0]))


def _path(parameter: str) -> str:
    """Return the key of a weight in the formats: its module's path, or the experts' weight itself."""
    return parameter.removesuffix(".weight")


def _spare(module: nn.Module) -> None:
    """Keep transformers from initialising a module without own weights: some initialisers read its parts.

    A whole model is initialised all the same, because it may fill the buffers of its layers.
    """
    if not isinstance(module, PreTrainedModel) and not any(True for _ in module.parameters(recurse=False)):
        module._is_hf_initialized = True  # type: ignore[assignment]


def _tie(model: PreTrainedModel, input_path: str, output_path: str, dtype: torch.dtype) -> set[str]:
    """Let both ends of a model share one packed matrix, unless its checkpoint holds two different ones.

    Two different matrices stay separate, whatever the configuration says.

    Returns:
        Names of the weights that tying has set.
    """
    ends = {path: model.get_submodule(path) for path in (input_path, output_path)}
    packed = {path: module for path, module in ends.items() if isinstance(module, PackedModule)}
    if len(packed) == len(ends):
        first, second = packed.values()
        # Compare part by part, because padding between the parts is undefined.
        if all(map(torch.equal, first.matrix.parts, second.matrix.parts)):
            second.packed = first.packed
        return set()
    came = set[str]()
    for given in packed.values():
        for path in ends.keys() - packed.keys():
            model.set_submodule(path, packed_module(ends[path], given.matrix, dtype))
            came.add(f"{path}.weight")
    return came


@cache
def _register() -> None:
    """Register the quantisation method with transformers, once."""
    register_quantization_config(_METHOD)(Packer)
    register_quantizer(_METHOD)(_Quantizer)
