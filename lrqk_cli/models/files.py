"""The files of a model: fetching them, and reading configurations and headers without the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.errors import ModelError
from lrqk_cli.formats import FORMATS
from lrqk_cli.model_spec import WeightBytes
from lrqk_cli.models import gguf, store
from lrqk_cli.models.catalog import HubRepository
from lrqk_cli.models.failures import load_errors
from lrqk_cli.models.fetch import fetch_config, fetch_repository
from lrqk_cli.models.hub_gguf import fetch_tagged
from lrqk_cli.models.progress import OnProgress, ignore_progress
from lrqk_cli.models.quiet import quiet_transformers
from lrqk_cli.models.resolving import ModelSource
from lrqk_cli.models.sanity import check_plausible, ignore_kernels
from lrqk_cli.models.support import spec_from_config, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# ggml's names of the types that are not packed.
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})


def fetched(
    source: ModelSource, on_progress: OnProgress = ignore_progress, room: int | None = None
) -> ModelSource:
    """Fetch the GGUF file if ``source`` is a file of a repository, and return it as a source.

    The header of such a file describes the model. Other sources are returned unchanged.

    Args:
        room: the most bytes that its weights may take; None for no limit.

    Raises:
        ModelError: the repository has no such file, or it cannot be fetched.
        OutOfMemoryError: the file is larger than ``room``; nothing has been fetched.
    """
    if source.kind != "hub-gguf" or source.file is None:
        return source
    path = fetch_tagged(source.file, on_progress, room)
    return replace(source, kind="gguf", path=path)


def pull(source: ModelSource, on_progress: OnProgress = ignore_progress) -> Path:
    """Fetch a model, prepare it for loading, and return its folder or file.

    Raises:
        ModelError: the model cannot be fetched, or its file is no GGUF that transformers can read.
    """
    here = fetched(source, on_progress)
    folder = folder_of(here, on_progress)
    return here.path or folder


def read_config(source: ModelSource) -> PreTrainedConfig:
    """Return the published configuration, which may have parts for other media than text.

    Raises:
        ModelError: the configuration cannot be fetched or read.
    """
    if source.entry is not None and source.entry.config:
        return text_config(source.entry.config)
    if source.is_gguf:
        prepared = store.prepared_folder(_path(source))
        if prepared is None:
            return gguf.read_config(_path(source))
        # Without a prepared folder the header has to be read, which takes seconds.
        return folder_config(source, prepared)
    return folder_config(source, _config_folder(source))


def folder_config(source: ModelSource, folder: Path) -> PreTrainedConfig:
    """Return the configuration in a model's folder.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoConfig, PreTrainedConfig

    with load_errors(source.name), quiet_transformers():
        check_plausible(PreTrainedConfig.get_config_dict(str(folder))[0])
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        ignore_kernels(config)
    return config


def has_other_parts(source: ModelSource) -> bool:
    """Whether a model has parts beside the language model, such as a vision tower, which are not loaded."""
    if source.is_gguf:
        return False
    published = read_config(source)
    return text_config(published) is not published


def folder_of(source: ModelSource, on_progress: OnProgress) -> Path:
    """The folder from which ``from_pretrained`` reads."""
    if source.entry is not None:
        return store.pull(source.entry, on_progress)
    if source.kind == "gguf":
        return store.prepare_gguf(_path(source), on_progress)
    if source.kind == "hub":
        return fetch_repository(HubRepository(source.name), on_progress)
    return _path(source)


def gguf_forms(source: ModelSource) -> tuple[WeightBytes, ...]:
    """Return the bytes of a GGUF file's weights in their own types; empty if they have to be unpacked.

    For a file that is not fetched yet this is the catalog's figure, or that of Q4_K_M.

    Raises:
        ModelError: the file is no GGUF that transformers can read, or its index is damaged.
    """
    if source.entry is not None:
        folder, known = store.path(source.entry.alias), source.entry.weights
        if folder is not None:
            return stored_form(folder)
        if known is None:  # not counted in the catalog, and so of this mix
            four_bits = spec_from_config(source.entry.config, source.name).forms[-1]
            known = replace(four_bits, form="gguf")
        return (known,)
    file = _path(source)
    folder = store.prepared_folder(file)
    if folder is not None:
        return stored_form(folder)
    found = gguf.survey_file(file)
    return () if found.lacking else (found.weights,)


def unpacked_types(source: ModelSource) -> list[str]:
    """Return ggml's names of the packed types in a GGUF file that no kernel can multiply.

    Raises:
        ModelError: the index of the file is damaged.
    """
    folder = store.path(source.entry.alias) if source.entry is not None else None
    if source.path is not None and source.is_gguf:
        folder = store.prepared_folder(source.path)
    index = None if folder is None else gguf.prepared_index(folder)
    types = set() if index is None else {tensor.type for tensor in index.tensors}
    return sorted(types - _PLAIN - FORMATS.keys())


def stored_form(folder: Path) -> tuple[WeightBytes, ...]:
    """Return the bytes of a prepared GGUF file's weights in their own types; empty if they were unpacked."""
    index = gguf.prepared_index(folder)
    return () if index is None or index.weights is None else (index.weights,)


def _config_folder(source: ModelSource) -> Path:
    """The folder that holds config.json; fetches only that file of a repository that is not cached."""
    if source.kind == "folder":
        return _path(source)
    pulled = store.path(source.entry.alias) if source.entry is not None else None
    if pulled is not None:
        return pulled
    published = source.entry.huggingface if source.entry is not None else None
    return fetch_config(published or HubRepository(source.name)).parent


def _path(source: ModelSource) -> Path:
    if source.kind == "hub-gguf":
        raise ModelError(
            f"The file '{source.name}' is not here yet.", f"Fetch it with: lrqk models pull {source.name}"
        )
    if source.path is None:
        raise ValueError(f"A model source of the kind {source.kind} needs a path.")
    return source.path
