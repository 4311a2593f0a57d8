"""What a model is, from its configuration alone and, where that states enough, without importing torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrqk_cli.config import ModelSpec, WeightBytes
from lrqk_cli.errors import UsageError
from lrqk_cli.models import catalog, families, loading, shapes
from lrqk_cli.models.failures import config_errors, hub_errors
from lrqk_cli.models.loading import ModelSource
from lrqk_cli.models.sanity import check_plausible
from lrqk_cli.models.support import plain_config, spec_from_config


@dataclass(frozen=True, slots=True)
class Description:
    """A model's shape.

    Attributes:
        dtype: that its weights were published in, as in ``torch.dtype`` without its prefix; None if unknown.
        packed: what the weights of a GGUF file take as they are; None where there is no such file here.
    """

    spec: ModelSpec
    dtype: str | None
    packed: WeightBytes | None = None

    def on_gpu(self, *, packed: bool) -> ModelSpec:
        """Return what the model is on a GPU, with the weights of a GGUF file packed if so asked."""
        return replace(self.spec, packed=self.packed) if packed and self.packed else self.spec


ONLY_SHAPES = "Only the weights of a built-in shape can be packed on request."


def describe(model: str, *, packed: bool = False) -> Description:
    """Describe an alias, a built-in shape, a folder, a .gguf file or a Hugging Face id, in this order.

    Args:
        packed: with the matrices of a shape packed as in Q4_K_M.

    Raises:
        UsageError: ``packed``, and it is no shape.
        UnsupportedModelError: the engine does not honour a feature of the model.
        ModelError: there is no such model, or its configuration cannot be had or read.
    """
    if model not in catalog.catalog() and model in shapes.shapes():
        return describe_shape(model, packed=packed)
    if packed:
        raise UsageError(ONLY_SHAPES, f"Leave --weights out, or choose from {', '.join(shapes.shapes())}.")
    return describe_source(loading.resolve(model))


def describe_shape(name: str, *, packed: bool = False) -> Description:
    """Describe a built-in shape, with its matrices packed as in Q4_K_M or without.

    Raises:
        UsageError: there is no such shape.
    """
    shapes.check_shape(name)
    described = _description(shapes.shapes()[name], name)
    return replace(described, spec=shapes.packed_spec(name)) if packed else described


def describe_source(source: ModelSource) -> Description:
    """Describe a model that need not be here yet.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        ModelError: its configuration cannot be had or read.
    """
    stated = _stated(source)
    described = _description(stated if stated is not None else loading.load_spec(source)[0], source.name)
    return replace(described, packed=loading.packed_bytes(source))


def _description(config: Any, name: str) -> Description:
    with config_errors():
        text = plain_config(config)
    dtype = getattr(text, "dtype", None) or vars(text).get("torch_dtype")
    return Description(spec_from_config(text, name), str(dtype).removeprefix("torch.") if dtype else None)


def _stated(source: ModelSource) -> Mapping[str, Any] | None:
    """The configuration as published, where it is at hand and stands for itself."""
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
    """The configuration in a file, if it can be read without transformers; else transformers judges it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    check_plausible(config)
    return config if families.read_plainly(config) is not None else None
