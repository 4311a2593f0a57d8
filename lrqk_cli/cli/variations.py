"""``--vary NAME=V1,V2``: the measured settings with one of them changed at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lrqk_cli.cli.values import parse_integer, parse_number, parse_tokens
from lrqk_cli.config import LrqkConfig, asks, default_top_k, missing_for
from lrqk_cli.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class _Setting:
    """One field of the settings.

    Attributes:
        path: names of the nested fields that lead to it.
        kind: its type.
    """

    path: tuple[str, ...]
    kind: Any


def parse_variations(
    texts: Sequence[str], base: LrqkConfig, *, top_k_follows: bool = True
) -> dict[str, LrqkConfig]:
    """Return the settings of every variation, by names such as ``top-k=512``.

    Args:
        texts: such as ``top-k=512,1024``; a setting has the name of its option.
        base: the settings to vary.
        top_k_follows: whether a variation of hot also sets top-k to its default.

    Raises:
        UsageError: there is no such setting, it cannot have such a value, or others make it meaningless.
    """
    settings = _settings(LrqkConfig)
    variations = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip()
        if name not in settings:
            raise UsageError(f"No setting '{name}' can be varied.", did_you_mean(name, settings))
        for value in (part.strip() for part in values.split(",")):
            parsed = _parse(name, value, settings[name].kind)
            if name == "hot" and top_k_follows:
                changed = replace(base, hot=parsed, top_k=default_top_k(parsed))
            else:
                changed = _replaced(base, settings[name].path, parsed)
            field = ".".join(settings[name].path[:2])
            if asks(changed, field) and (missing := missing_for(changed, field)):
                raise UsageError(f"`{field}` has no meaning without {missing}.", f"Add {missing}.")
            variations[f"{name}={value}"] = changed
    return variations


def _settings(config: type) -> dict[str, _Setting]:
    """Return the fields that one value sets, by the names of their options."""
    found = {}
    kinds = get_type_hints(config)
    for field in fields(config):
        kind = kinds[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            for name, inner in _settings(kind).items():
                found[f"{field.name}-{name}"] = _Setting((field.name, *inner.path), inner.kind)
        elif field.name != "attention":  # modes have their own option
            found[field.name.replace("_", "-")] = _Setting((field.name,), kind)
    return found


def _replaced(config: Any, path: tuple[str, ...], value: object) -> Any:
    name, *rest = path
    return replace(config, **{name: _replaced(getattr(config, name), tuple(rest), value) if rest else value})


def _parse(name: str, text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        if text not in choices:
            raise UsageError(
                f"The setting '{name}' cannot be '{text}'.",
                did_you_mean(text, choices, f"Choose from {', '.join(choices)}."),
            )
        return choices[text]
    if kind is float:
        return parse_number(text)
    return parse_integer(text) if text.lstrip("-").isdigit() else parse_tokens(text)
