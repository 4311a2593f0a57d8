"""Loads a model, its tokenizer and its spec from a source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import WeightForm
from lrqk_cli.errors import LrqkError, ModelError, UsageError
from lrqk_cli.memory.accounting import check_weights_fit, dtype_name
from lrqk_cli.memory.exhaustion import memory_errors
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models import gguf, store
from lrqk_cli.models.checkpoint import check_quantisation, load_checkpoint
from lrqk_cli.models.devices import choose_device, choose_dtype
from lrqk_cli.models.files import folder_config, folder_of, read_config, stored_form
from lrqk_cli.models.progress import OnProgress, ignore_progress
from lrqk_cli.models.prompt import stop_ids
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.resolving import ModelSource, resolve
from lrqk_cli.models.support import spec_from_config, text_config, with_form
from lrqk_cli.models.weights import check_finite

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "LoadedModel",
    "ModelSource",
    "choose_device",
    "choose_dtype",
    "load",
    "load_spec",
    "load_tokenizer",
    "resolve",
]

# Prefixes of the language model in a multimodal checkpoint, and in a checkpoint of its own.
_TEXT_PART = {r"^language_model\.": "", r"^model\.language_model\.": "model."}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        config: configuration of the language model; the text part of a multimodal model.
        stop_ids: tokens that end an answer.
        device: device of its first layer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    spec: ModelSpec
    stop_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype


def load_spec(source: ModelSource) -> tuple[PreTrainedConfig, ModelSpec]:
    """The configuration and the spec of a model, without pulling or loading its weights.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        ModelError: the configuration cannot be fetched or read.
    """
    config = text_config(read_config(source))
    return config, spec_from_config(config, source.name)


def load(
    source: ModelSource,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    offload_weights: bool = False,
    form: WeightForm | None = None,
    experts_on_host: bool = False,
    max_device_bytes: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_progress: OnProgress = ignore_progress,
) -> LoadedModel:
    """Load weights directly onto the device; pull and prepare the model first if necessary.

    Args:
        device, dtype: None chooses the best.
        offload_weights: keep weights that do not fit on the device in CPU memory.
        form: the form of the weights, one of the spec's ``forms``; None for plain numbers. Packed forms are
            faster on a GPU only, and exclude ``offload_weights``.
        experts_on_host: packed experts stay in host memory, which the device can read.
        max_device_bytes: the most bytes of weights on the device; None for all free memory.
        tokenizer: the model's tokenizer, if it is loaded already.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        OutOfMemoryError: the weights do not fit and ``offload_weights`` is not set.
        UsageError: ``form`` and ``offload_weights`` are both set.
        ModelError: the model cannot be fetched, is incomplete or damaged, or has no tokenizer.
    """
    import torch

    if form is not None and offload_weights:
        raise UsageError("Weights that stay packed cannot be spread over devices.", "Choose one of the two.")
    published = read_config(source)
    config = text_config(published)
    spec = spec_from_config(config, source.name)
    device = device or choose_device()
    dtype = dtype or choose_dtype(
        None, device, config.dtype if isinstance(config.dtype, torch.dtype) else None
    )
    room = _room(device, max_device_bytes)
    folder = None
    if form == "gguf":  # the exact bytes are known once the file is prepared
        folder = folder_of(source, on_progress)
        spec = replace(spec, forms=stored_form(folder))
    spec = with_form(spec, form, experts_on_host=experts_on_host)
    if not offload_weights:
        hint = "Use a smaller model, or spread the weights over CPU memory with `offload_weights`."
        check_weights_fit(spec, dtype_name(dtype), str(device), room, hint)
    if not source.is_gguf:
        check_quantisation(source.name, config, form)
    folder = folder or folder_of(source, on_progress)
    placement = _placement(device, room, offload_weights)
    if (file := store.gguf_file(folder, source.path)) is not None:
        kind, kept = (device, dtype), {"packed": form is not None, "experts_on_host": experts_on_host}
        model = _load_gguf(source, file, folder, config, kind, placement, kept)
    else:
        options = {"config": config, "dtype": dtype, **placement}
        if config is not published:
            options["key_mapping"] = _TEXT_PART
        model = load_checkpoint(source.name, folder, options, form, experts_on_host=experts_on_host)
    if tokenizer is None:
        tokenizer = _load_tokenizer(source, folder)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        config=model.config,
        spec=spec,
        stop_ids=stop_ids(tokenizer, model.generation_config),
        device=device,
        dtype=dtype,
    )


def load_tokenizer(source: ModelSource, on_progress: OnProgress = ignore_progress) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone; pull and prepare the model first if necessary.

    Raises:
        ModelError: the model cannot be fetched, or has no readable tokenizer.
    """
    return _load_tokenizer(source, folder_of(source, on_progress))


def _room(device: torch.device, max_device_bytes: int | None) -> int:
    from lrqk_cli.memory import probe

    free = probe.free_device_bytes(device)
    return free if max_device_bytes is None else min(free, max_device_bytes)


def _placement(device: torch.device, room: int, offload_weights: bool) -> dict[str, Any]:
    """The ``from_pretrained`` options that place the weights."""
    from lrqk_cli.memory.limits import free_host_bytes

    if not offload_weights or device.type == "cpu":
        return {"device_map": {"": device}}
    name = device.index if device.type == "cuda" else device.type
    return {"device_map": "auto", "max_memory": {name: room, "cpu": free_host_bytes()}}


def _load_gguf(
    source: ModelSource,
    file: Path,
    folder: Path,
    config: PreTrainedConfig,
    kind: tuple[torch.device, torch.dtype],
    placement: dict[str, Any],
    kept: dict[str, bool],
) -> PreTrainedModel:
    device, dtype = kind
    if "max_memory" not in placement:
        model = gguf.load(file, folder, config, {"": device}, dtype, **kept)
        check_finite(source.name, model)
        return model
    from accelerate import dispatch_model

    places = gguf.spread(config, dtype, placement["max_memory"])
    model = gguf.load(file, folder, config, places, dtype, packed=False)
    check_finite(source.name, model)
    dispatched: PreTrainedModel = dispatch_model(model, places)
    return dispatched


def _load_tokenizer(source: ModelSource, folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # A model's own class would replace the splitting that was prepared for a file's vocabulary.
    kind = PreTrainedTokenizerFast if source.is_gguf else AutoTokenizer
    try:
        with memory_errors(), quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(str(folder), trust_remote_code=False)
            if tokenizer.encode("a", add_special_tokens=False):
                return tokenizer
    except LrqkError:
        raise
    except Exception:  # the tokenizers library raises plain Exception
        # transformers asks the configuration for the tokenizer's class, so this may be what cannot be read.
        folder_config(source, folder)
    raise ModelError(
        f"The model '{source.name}' has no tokenizer that can be read.",
        "Its folder needs tokenizer.json, or the files that its tokenizer class reads.",
    )
