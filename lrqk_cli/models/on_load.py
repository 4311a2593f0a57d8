"""Checkpoints of plain numbers, packed while they are loaded.

transformers reads a checkpoint tensor by tensor, renames, and offers each one for quantisation
(``HfQuantizer``): what leaves it here is a packed module in the place of the model's own. So neither the host
nor the device ever holds the plain model.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from lrqk_cli.config import WeightForm
from lrqk_cli.formats import PackedFormat
from lrqk_cli.models.matrices import formats_of
from lrqk_cli.models.packed_layers import packed_module
from lrqk_cli.models.quantise import quantise

_METHOD = "lrqk"
_TIES = "all_tied_weights_keys"


class _Config(QuantizationConfigMixin):
    """What ``from_pretrained`` is told."""

    def __init__(self, form: WeightForm, **_: Any) -> None:
        # The registry takes names that are not in transformers' own list.
        self.quant_method = _METHOD  # type: ignore[assignment]
        self.form = form


def quantisation(form: WeightForm) -> QuantizationConfigMixin:
    """Return what makes ``from_pretrained`` pack a checkpoint; afterwards see ``finish``."""
    _register()
    return _Config(form)


def finish(model: PreTrainedModel) -> set[str]:
    """Let a model count as an ordinary one again: it refuses what transformers cannot do with packed ones.

    Returns:
        The weights that did not have the shape of the model's.
    """
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
    return quantizer.mismatched


class _Quantizer(HfQuantizer):
    """Packs every matrix that has a format, as it comes."""

    requires_calibration = False

    def __init__(self, quantization_config: _Config, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self._form = quantization_config.form
        self.formats: dict[str, PackedFormat] = {}
        self.output: str | None = None
        self.mismatched = set[str]()
        self.dtype = torch.bfloat16

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Take note of the type of what is not packed."""
        self.dtype = dtype
        return dtype

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        is_tied = bool(model.config.tie_word_embeddings)
        # Before the formats, so that a tied matrix is found once.
        if is_tied:
            model.tie_weights()
        self.formats = formats_of(model, self._form, is_tied=is_tied)
        paths = {module: path for path, module in model.named_modules()}
        output = model.get_output_embeddings()
        if is_tied and isinstance(output, nn.Module) and paths[model.get_input_embeddings()] in self.formats:
            # Packed ends are tied by ``_Pack``; transformers looks for plain weights to tie.
            self.output = paths[output]
            setattr(model, _TIES, {})

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:  # noqa: ARG002
        """Tell whether a tensor is the weight of a matrix that has a format."""
        path, _, kind = param_name.rpartition(".")
        return kind == "weight" and (path in self.formats or path == self.output)

    def param_element_size(self, model: PreTrainedModel, param_name: str, param: Tensor) -> float:
        """Return the bytes of a weight, of which transformers asks the device for as many beforehand."""
        path, _, kind = param_name.rpartition(".")
        if kind == "weight" and path in self.formats:
            format = self.formats[path]
            return format.block_bytes / format.block
        return float(super().param_element_size(model, param_name, param))

    def get_quantize_ops(self) -> ConversionOps:
        """Return what packs."""
        return _Pack(self)

    def is_serializable(self) -> bool:
        """Tell whether transformers could save the model: not so packed."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Return whether it could be trained: no."""
        return False


class _Pack(ConversionOps):
    """Puts a packed module in the place of the one whose weight has come, or of both that share it."""

    def __init__(self, quantizer: _Quantizer) -> None:
        self._quantizer = quantizer

    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],  # noqa: ARG002
        target_patterns: list[str],  # noqa: ARG002
        **kwargs: Any,
    ) -> dict[str, list[Tensor]]:
        """Pack one weight; nothing is left for transformers to set."""
        model: PreTrainedModel = kwargs["model"]
        missing: set[str] = kwargs["missing_keys"]
        (given,) = input_dict.values()
        weight: Tensor = given[0] if isinstance(given, list) else given
        path = kwargs["full_layer_name"].rpartition(".")[0]
        quantizer = self._quantizer
        if path == quantizer.output:  # a copy of the embeddings, which serve for both
            return {}
        if weight.shape != model.get_submodule(path).weight.shape:
            quantizer.mismatched.add(kwargs["full_layer_name"])
            return {}
        matrix = quantise(quantizer.formats[path], weight)
        places = {path}
        if isinstance(model.get_submodule(path), nn.Embedding) and quantizer.output is not None:
            places.add(quantizer.output)
        for place in places:
            model.set_submodule(place, packed_module(model.get_submodule(place), matrix, quantizer.dtype))
            missing.discard(f"{place}.weight")
        return {}


@cache
def _register() -> None:
    """Make the method known to transformers, once."""
    register_quantization_config(_METHOD)(_Config)
    register_quantizer(_METHOD)(_Quantizer)
