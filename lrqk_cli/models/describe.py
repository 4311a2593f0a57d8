"""Describes a model from its configuration alone; without importing torch if that states enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrqk_cli.config import WeightChoice
from lrqk_cli.errors import UsageError
from lrqk_cli.memory.accounting import dtype_name
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models import catalog, families, files, loading, shapes
from lrqk_cli.models.failures import config_errors, hub_errors
from lrqk_cli.models.loading import ModelSource
from lrqk_cli.models.sanity import check_plausible
from lrqk_cli.models.support import plain_config, spec_from_config, with_form


@dataclass(frozen=True, slots=True)
class Description:
    """A model's shape.

    Attributes:
        spec: the model with plain weights, and the packed forms possible on a GPU.
        dtype: the dtype of the published weights, as in ``torch.dtype`` without its prefix; None if unknown.
    """

    spec: ModelSpec
    dtype: str | None

    def with_weights(self, chosen: WeightChoice, *, on_gpu: bool) -> ModelSpec:
        """Return the spec of the model with its weights in the chosen form.

        ``auto`` keeps the types of a GGUF file, and leaves the form of other weights to the planner. A CPU
        has kernels for plain weights only, which is what ``bf16`` means there.

        Raises:
            UsageError: the weights cannot have this form on this device.
        """
        spec = self.spec
        forms = {form.form for form in spec.forms}
        if chosen in ("q8", "q4"):
            if not on_gpu:
                raise UsageError(
                    f"`weights` {chosen} needs a CUDA GPU: a CPU computes with plain numbers here.",
                    "Leave `weights` out.",
                )
            if chosen not in forms:
                raise UsageError(
                    f"The weights of '{spec.name}' cannot be packed as `weights` {chosen} asks: they are "
                    "packed already, or of a layout that lrqk does not pack.",
                    "Leave `weights` out.",
                )
            return with_form(spec, chosen)
        if chosen == "bf16" or not on_gpu:
            return with_form(spec, None)
        return with_form(spec, "gguf") if "gguf" in forms else spec


def describe(model: str) -> Description:
    """Describe an alias, a built-in shape, a folder, a .gguf file or a Hugging Face id, in this order.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        ModelError: there is no such model, or its configuration cannot be fetched or read.
    """
    if model not in catalog.catalog() and model in shapes.shapes():
        return describe_shape(model)
    return describe_source(loading.resolve(model))


def describe_shape(name: str) -> Description:
    """Describe a built-in shape.

    Raises:
        UsageError: there is no such shape.
    """
    shapes.check_shape(name)
    return _description(shapes.shapes()[name], name)


def describe_source(source: ModelSource) -> Description:
    """Describe a model, which need not be pulled yet.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        ModelError: its configuration cannot be fetched or read.
    """
    stated = _stated(source)
    described = _description(stated if stated is not None else loading.load_spec(source)[0], source.name)
    if not source.is_gguf:
        return described
    return replace(described, spec=replace(described.spec, forms=files.gguf_forms(source)))


def _description(config: Any, name: str) -> Description:
    with config_errors():
        text = plain_config(config)
    dtype = getattr(text, "dtype", None) or vars(text).get("torch_dtype")
    return Description(spec_from_config(text, name), dtype_name(dtype) if dtype else None)


def _stated(source: ModelSource) -> Mapping[str, Any] | None:
    """The published configuration if it is at hand and states enough; None if transformers must read it."""
    if source.entry is not None and source.entry.config:
        return source.entry.config
    if source.kind == "folder" and source.path is not None:
        return _read(source.path / "config.json")
    if source.kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        with hub_errors(source.name):
            cached = try_to_load_from_cache(source.name, "config.json")
        return _read(Path(cached)) if isinstance(cached, str) else None
    return None


def _read(path: Path) -> Mapping[str, Any] | None:
    """The configuration in a file if it states enough; None if transformers must read it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    check_plausible(config)
    return config if families.read_plainly(config) is not None else None
