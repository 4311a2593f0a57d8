"""From where a model is to the model, its tokenizer and their shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrqk_cli.config import ModelSpec, WeightBytes, WeightForm
from lrqk_cli.errors import ModelError, OutOfMemoryError, UsageError
from lrqk_cli.memory.accounting import weight_bytes
from lrqk_cli.models import store
from lrqk_cli.models.catalog import HubRepository
from lrqk_cli.models.checkpoint import load_checkpoint
from lrqk_cli.models.devices import choose_device, choose_dtype
from lrqk_cli.models.failures import load_errors
from lrqk_cli.models.fetch import fetch_config, fetch_repository
from lrqk_cli.models.progress import OnProgress, ignore_progress
from lrqk_cli.models.prompt import stop_ids
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.resolving import ModelSource, resolve
from lrqk_cli.models.sanity import check_plausible
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

# Where a multimodal checkpoint keeps its language model, and what that is called when it stands alone.
_TEXT_PART = {r"^language_model\.": "", r"^model\.language_model\.": "model."}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        config: of the language model; a multimodal model's text part.
        stop_ids: tokens that end an answer.
        device: where its first layer is.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    spec: ModelSpec
    stop_ids: frozenset[int]
    device: torch.device
    dtype: torch.dtype


def load_spec(source: ModelSource) -> tuple[PreTrainedConfig, ModelSpec]:
    """The configuration and the shape of a model, without its weights and without pulling it.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        ModelError: the configuration cannot be had or read.
    """
    config = text_config(_read_config(source))
    return config, spec_from_config(config, source.name)


def load(
    source: ModelSource,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    offload_weights: bool = False,
    form: WeightForm | None = None,
    max_device_bytes: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_progress: OnProgress = ignore_progress,
) -> LoadedModel:
    """Load weights straight onto the device, pulling and unpacking them first where they are not here.

    Args:
        device, dtype: None chooses.
        offload_weights: spread over CPU memory the weights that do not fit on the device.
        form: of the weights, one of the spec's ``forms``; None for plain numbers. It needs a GPU to gain by
            it, and excludes ``offload_weights``.
        max_device_bytes: the most that the weights may take on the device; None for what is free.
        tokenizer: the model's, where it has been loaded already.

    Raises:
        UnsupportedModelError: the engine does not honour a feature of the model.
        OutOfMemoryError: the weights do not fit and ``offload_weights`` is not set.
        UsageError: ``form`` and ``offload_weights`` are both set.
        ModelError: the model cannot be had, is incomplete or damaged, or has no tokenizer.
    """
    import torch

    if form is not None and offload_weights:
        raise UsageError("Weights that stay packed cannot be spread over devices.", "Choose one of the two.")
    published = _read_config(source)
    config = text_config(published)
    spec = spec_from_config(config, source.name)
    device = device or choose_device()
    dtype = dtype or choose_dtype(
        None, device, config.dtype if isinstance(config.dtype, torch.dtype) else None
    )
    room = _room(device, max_device_bytes)
    folder = None
    if form == "gguf":  # what it takes is known exactly once it is here
        folder = _folder(source, on_progress)
        spec = replace(spec, forms=_stored_form(folder))
    spec = with_form(spec, form)
    if not offload_weights:
        _check_fits(spec, dtype, device, room)
    folder = folder or _folder(source, on_progress)
    placement = _placement(device, room, offload_weights)
    if (file := store.gguf_file(folder, source.path)) is not None:
        kind = device, dtype
        model = _load_gguf(source, file, folder, config, kind, placement, packed=form is not None)
    else:
        options = {"config": config, "dtype": dtype, **placement}
        if config is not published:
            options["key_mapping"] = _TEXT_PART
        model = load_checkpoint(source.name, folder, options, form)
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


def gguf_forms(source: ModelSource) -> tuple[WeightBytes, ...]:
    """Return what the weights of a GGUF file take as they are; nothing where they have to be unpacked.

    Of a file that is not here this is what the catalog says.

    Raises:
        ModelError: the file is no GGUF that transformers can read, or its index is damaged.
    """
    from lrqk_cli.models.gguf import survey_file

    if source.entry is not None:
        folder, known = store.path(source.entry.alias), source.entry.weights
        return _stored_form(folder) if folder else (() if known is None else (known,))
    file = _path(source)
    folder = store.prepared_folder(file)
    if folder is not None:
        return _stored_form(folder)
    found = survey_file(file)
    return () if found.lacking else (found.weights,)


def _stored_form(folder: Path) -> tuple[WeightBytes, ...]:
    from lrqk_cli.models.gguf import prepared_bytes

    stored = prepared_bytes(folder)
    return () if stored is None else (stored,)


def load_tokenizer(source: ModelSource, on_progress: OnProgress = ignore_progress) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone, pulling and unpacking the model first where it is not here.

    Raises:
        ModelError: the model cannot be had, or it has no tokenizer that can be read.
    """
    return _load_tokenizer(source, _folder(source, on_progress))


def _read_config(source: ModelSource) -> PreTrainedConfig:
    if source.entry is not None and source.entry.config:
        return text_config(source.entry.config)
    if source.kind == "gguf":
        prepared = store.prepared_folder(_path(source))
        if prepared is None:
            from lrqk_cli.models.gguf import read_config

            return read_config(_path(source))
        # Reading the header of a file takes seconds.
        return _plain_config(source, prepared)
    return _plain_config(source, _config_folder(source))


def _plain_config(source: ModelSource, folder: Path) -> PreTrainedConfig:
    from transformers import AutoConfig, PreTrainedConfig

    with load_errors(source.name), quiet_transformers():
        check_plausible(PreTrainedConfig.get_config_dict(str(folder))[0])
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    return config


def _config_folder(source: ModelSource) -> Path:
    """The folder that holds config.json; of a repository that is not here, only that file is fetched."""
    if source.kind == "folder":
        return _path(source)
    pulled = store.path(source.entry.alias) if source.entry is not None else None
    if pulled is not None:
        return pulled
    published = source.entry.huggingface if source.entry is not None else None
    return fetch_config(published or HubRepository(source.name)).parent


def _path(source: ModelSource) -> Path:
    if source.path is None:
        raise ValueError(f"A model source of the kind {source.kind} needs a path.")
    return source.path


def _folder(source: ModelSource, on_progress: OnProgress) -> Path:
    """A folder that ``from_pretrained`` reads."""
    if source.entry is not None:
        return store.pull(source.entry, on_progress)
    if source.kind == "gguf":
        return store.prepare_gguf(_path(source), on_progress)
    if source.kind == "hub":
        return fetch_repository(HubRepository(source.name), on_progress)
    return _path(source)


def _room(device: torch.device, max_device_bytes: int | None) -> int:
    from lrqk_cli.memory import probe

    free = probe.free_device_bytes(device)
    return free if max_device_bytes is None else min(free, max_device_bytes)


def _check_fits(spec: ModelSpec, dtype: torch.dtype, device: torch.device, room: int) -> None:
    needed = weight_bytes(spec, str(dtype).removeprefix("torch."))
    if needed > room:
        raise OutOfMemoryError(
            f"The weights of '{spec.name}' need {needed / 2**30:.1f} GiB in "
            f"{str(dtype).removeprefix('torch.')}, and {device} has {room / 2**30:.1f} GiB for them.",
            "Use a smaller model, or spread the weights over CPU memory with --offload-weights.",
        )


def _placement(device: torch.device, room: int, offload_weights: bool) -> dict[str, Any]:
    """Where accelerate puts the weights."""
    from lrqk_cli.memory import probe

    if not offload_weights or device.type == "cpu":
        return {"device_map": {"": device}}
    name = device.index if device.type == "cuda" else device.type
    return {"device_map": "auto", "max_memory": {name: room, "cpu": probe.free_host_bytes()}}


def _load_gguf(
    source: ModelSource,
    file: Path,
    folder: Path,
    config: PreTrainedConfig,
    kind: tuple[torch.device, torch.dtype],
    placement: dict[str, Any],
    *,
    packed: bool,
) -> PreTrainedModel:
    from lrqk_cli.models import gguf

    device, dtype = kind
    if "max_memory" not in placement:
        model = gguf.load(file, folder, config, {"": device}, dtype, packed=packed)
        check_finite(source.name, model)
        return model
    from accelerate import dispatch_model

    places = gguf.spread(config, dtype, placement["max_memory"])
    model = gguf.load(file, folder, config, places, dtype, packed=False)
    check_finite(source.name, model)
    dispatched: PreTrainedModel = dispatch_model(model, places)
    return dispatched


def _load_tokenizer(source: ModelSource, folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False
            )
        if tokenizer.encode("a", add_special_tokens=False):
            return tokenizer
    except Exception:  # the tokenizers' own parser raises nothing narrower
        pass
    raise ModelError(
        f"The model '{source.name}' has no tokenizer that can be read.",
        "Its folder needs tokenizer.json, or the files that its tokenizer class reads.",
    )
