"""Models of a published shape with random weights, to measure speed and memory without a download."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from lrqk_cli.config import WeightForm
from lrqk_cli.errors import UsageError, did_you_mean
from lrqk_cli.memory import accounting
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.support import spec_from_config, text_config, with_form

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

_STANDARD_DEVIATION = 0.02
# Size of the direction that all embeddings share, in multiples of an embedding's own part. Without it
# consecutive queries would be independent, and a step would miss most rows it demands (docs/experiments.md).
_COMMON = 2.0

_NULL = "null"


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A model with random weights, ready to run; it has no tokenizer.

    Attributes:
        spec: the model's spec, with the shape's name.
    """

    model: PreTrainedModel
    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype


@cache
def shapes() -> Mapping[str, Mapping[str, Any]]:
    """Every shape's configuration with transformers' keys, by name."""
    text = resources.files(__package__).joinpath("shapes.toml").read_text(encoding="utf-8")
    parsed: dict[str, dict[str, Any]] = tomllib.loads(text)
    # TOML has no null, and a missing key means something else.
    return {
        name: {key: None if value == _NULL else value for key, value in shape.items()}
        for name, shape in parsed.items()
    }


def check_shape(name: str) -> None:
    """Refuse a name that is not a shape's.

    Raises:
        UsageError: there is no such shape; the hint names the closest, or all of them.
    """
    if name in shapes():
        return
    raise UsageError(f"There is no shape '{name}'.", did_you_mean(name, shapes(), is_long=True))


def shape_config(name: str, context: int | None = None) -> PreTrainedConfig:
    """The configuration of a shape.

    Args:
        context: tokens that the positions must reach; random weights have no limit of their own.

    Raises:
        UsageError: there is no such shape.
    """
    check_shape(name)
    config = text_config(shapes()[name])
    if context is not None:
        config.max_position_embeddings = max(config.max_position_embeddings, context)
    return config


def build(
    name: str,
    context: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    form: WeightForm | None = None,
    experts_on_host: bool = False,
) -> RandomModel:
    """Make a model of a shape; draw its weights on the device from a normal distribution.

    The embeddings of all tokens share a direction, as in trained models.

    Args:
        context: tokens that its positions must reach.
        form: the form of the weights, whose codes are then drawn uniformly; None for plain numbers.
        experts_on_host: packed experts stay in host memory, which the device can read.

    Raises:
        UsageError: there is no such shape.
        OutOfMemoryError: the weights do not fit on the device.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from lrqk_cli.memory import probe
    from lrqk_cli.models.random_packed import draw_packed, replace_by_packed

    config = shape_config(name, context)
    config.initializer_range = _STANDARD_DEVIATION
    is_tied = config.tie_word_embeddings
    # transformers can tie plain weights only.
    config.tie_word_embeddings = is_tied and form is None
    described = spec_from_config(shape_config(name, context), name)
    spec = with_form(described, form, experts_on_host=experts_on_host)
    room = probe.free_device_bytes(device)
    accounting.check_weights_fit(
        spec, accounting.dtype_name(dtype), str(device), room, "Choose a smaller `shape`."
    )
    with quiet_transformers():
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if form is not None:
            experts_for = device if experts_on_host else None
            replace_by_packed(model, form, dtype, is_tied=is_tied, experts_for=experts_for)
        model.to_empty(device=device)
        # Tie before drawing, so that tied weights are drawn once; this also computes the buffers, such as
        # RoPE's frequencies.
        model.tie_weights()
        model.init_weights()
    model.requires_grad_(False)
    if form is not None:
        model.config.tie_word_embeddings = is_tied
        draw_packed(model, _STANDARD_DEVIATION, _COMMON)
        return RandomModel(model.eval(), spec, device, dtype)
    embeddings = cast("torch.Tensor", model.get_input_embeddings().weight)
    embeddings += torch.randn_like(embeddings[0]) * (_COMMON * _STANDARD_DEVIATION)
    return RandomModel(model.eval(), spec, device, dtype)
