"""What identifies a loaded model: rows that one model computed are of no use to another."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from lrqk_cli.errors import ModelError
from lrqk_cli.models import store
from lrqk_cli.models.fetch import cached_repository
from lrqk_cli.upstream import installed_version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lrqk_cli.config import WeightForm
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.resolving import ModelSource

_CHUNK = 1 << 23
_KNOWN = "fingerprints.json"

# Of each weight file its size, times and place on the disk.
Stamps = Mapping[Path, list[int]]


def weight_stamps(source: ModelSource) -> Stamps:
    """Return the weight files of a model that is here, and their present state; fetches nothing.

    Call it before the model is loaded: ``model_parts`` compares.
    """
    folder = _folder(source)
    if folder is None:
        return {}
    file = store.gguf_file(folder, source.path)
    files = [file] if file is not None else sorted(folder.glob("*.safetensors"))
    return {path: _stamp(path) for path in files}


def source_id(source: ModelSource) -> str | None:
    """Return what identifies a model that is here: all its files, where they lie, and their present state.

    It reads none of them. None if the model is not here.

    Raises:
        OSError: the files cannot be looked at.
    """
    folder = _folder(source)
    if folder is None:
        return None
    files = {*weight_stamps(source), *(path for path in folder.iterdir() if path.is_file())}
    stamps = {str(path.resolve()): _stamp(path) for path in files}
    return _digest(json.dumps(stamps, sort_keys=True).encode())


def model_parts(stamps: Stamps, loaded: LoadedModel, form: WeightForm | None) -> dict[str, str]:
    """Return what determines the KV rows of a text beside its tokens and the dtype of the rows.

    Args:
        stamps: of the weight files before they were loaded.
        form: the form of the weights in memory.

    Raises:
        ModelError: the weights have changed since.
        OSError: they cannot be read.
    """
    config = {
        name: value
        for name, value in loaded.config.to_dict().items()
        if not name.startswith("_") and name != "transformers_version"
    }
    return {
        "weights": weights_digest(stamps),
        "form": str(form),
        "config": _digest(json.dumps(config, sort_keys=True, default=str).encode()),
        "tokenizer": tokenizer_id(loaded.tokenizer),
        # Another release may compute a layer differently.
        "transformers": str(installed_version("transformers")),
    }


def tokenizer_id(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer: with another one, the same tokens are another text."""
    return _digest(_tokenizer_text(tokenizer).encode())


def weights_digest(stamps: Stamps) -> str:
    """Return a hash of the contents of weight files; see ``model_parts`` for what it raises.

    Files are read once: their hashes are kept, and used as long as size, times and place are the same.
    """
    if not stamps:
        raise ModelError("The files of the model's weights are not found.")
    known_file = store.cache_root() / _KNOWN
    known, found = _read_known(known_file), dict[str, list[Any]]()
    for file, stamp in stamps.items():
        place = str(file.resolve())
        entry = known.get(place)
        is_known = isinstance(entry, list) and entry[:-1] == stamp
        found[place] = entry if entry is not None and is_known else [*stamp, _digest_file(file)]
        if _stamp(file) != stamp:
            raise ModelError("The model's weights have changed since it was loaded.", "Start again.")
    if any(known.get(place) != entry for place, entry in found.items()):
        with suppress(OSError):
            known_file.parent.mkdir(parents=True, exist_ok=True)
            part = known_file.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({**known, **found}), encoding="utf-8")
            part.replace(known_file)
    return _digest(" ".join(str(entry[-1]) for entry in found.values()).encode())


def _folder(source: ModelSource) -> Path | None:
    if source.entry is not None:
        return store.path(source.entry.alias)
    if source.kind == "gguf" and source.path is not None:
        return store.prepared_folder(source.path)
    return cached_repository(source.name) if source.kind == "hub" else source.path


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_known(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _digest_file(file: Path) -> str:
    digest, buffer = xxhash.xxh3_128(), bytearray(_CHUNK)
    view = memoryview(buffer)
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def _tokenizer_text(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str())
    return json.dumps([tokenizer.get_vocab(), str(tokenizer.special_tokens_map)], sort_keys=True)
