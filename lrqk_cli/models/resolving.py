"""Resolves the user's name of a model to its source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lrqk_cli.errors import ModelError
from lrqk_cli.models import catalog
from lrqk_cli.models.catalog import CatalogEntry
from lrqk_cli.models.hub_gguf import HubFile, cached

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# As in other tools: owner/name:Q4_K_M, with or without the host.
_HUB_FILE = re.compile(r"(?:(?:hf\.co|huggingface\.co)/)?(" + _HUB_ID.pattern + r"):([\w.-]+)")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The source of a model.

    Attributes:
        name: the user's name of the model.
        kind: ``catalog`` (see ``entry``), ``hub`` (a repository called ``name``), ``hub-gguf`` (a file of a
            repository, not yet fetched, see ``file``), ``folder`` or ``gguf`` (see ``path``).
    """

    name: str
    kind: Literal["catalog", "hub", "hub-gguf", "folder", "gguf"]
    entry: CatalogEntry | None = None
    path: Path | None = None
    file: HubFile | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether the weights are in a GGUF file."""
        return self.kind in ("gguf", "hub-gguf") or (self.entry is not None and self.entry.is_gguf)


def resolve(model: str) -> ModelSource:
    """Resolve an alias, a folder, a .gguf file or a Hugging Face id, in this order.

    A Hugging Face id with a tag, ``owner/name:Q4_K_M``, names a GGUF file of that repository.

    Raises:
        ModelError: the name is none of these; the hint names the closest aliases.
    """
    if model in catalog.catalog():
        return ModelSource(model, "catalog", entry=catalog.find(model))
    path = Path(model)
    try:
        path = path.expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # there is no such user, or the name is too long
        is_folder = is_file = False
    if is_folder:
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder '{model}' holds no model: it has no config.json.",
                "Name a folder with config.json, weights as safetensors and a tokenizer.",
            )
        return ModelSource(model, "folder", path=path)
    if is_file:
        if path.suffix.lower() != ".gguf":
            raise ModelError(
                f"The file '{model}' is not a .gguf file.", "Name a .gguf file or a model's folder."
            )
        return ModelSource(model, "gguf", path=path)
    if _HUB_ID.fullmatch(model) and path.suffix.lower() != ".gguf":
        return ModelSource(model, "hub")
    if found := _HUB_FILE.fullmatch(model):
        file = HubFile(*found.groups())
        here = cached(file)
        return ModelSource(model, "gguf" if here else "hub-gguf", path=here, file=file)
    if path.suffix.lower() == ".gguf" or model.startswith(("/", ".", "~")):
        raise ModelError(f"There is no file or folder '{model}'.", "Check the path.")
    raise ModelError(
        f"There is no model '{model}'.",
        f"{catalog.suggestion(model)} A Hugging Face id has the form owner/name, or owner/name:Q4_K_M for a "
        "GGUF file.",
    )
