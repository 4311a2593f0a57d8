"""Settings as JSON keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lrqk_cli.config import AlsConfig, AlsPenalties, LrqkConfig, default_top_k


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, by field of ``LrqkConfig``, in JSON's types."""
    als = settings.get("als")
    return {**settings, "als": asdict(als)} if als is not None else dict(settings)


def read_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of which ``plain`` has the values.

    Raises:
        TypeError, ValueError: one is none, or has a value of a wrong kind.
        UsageError: one has a wrong value.
    """
    settings = _fields(LrqkConfig, plain)
    LrqkConfig(**{"top_k": default_top_k(settings.get("hot", LrqkConfig().hot)), **settings})
    return settings


def _fields(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    kinds = get_type_hints(kind)
    if unknown := plain.keys() - kinds:
        raise ValueError(f"'{min(unknown)}' is no setting")
    return {name: read_value(name, value, kinds[name]) for name, value in plain.items()}


def read_value(name: str, value: Any, kind: Any) -> Any:
    """Return the value of a setting, from JSON's types to ``kind``, the type of its field.

    Raises:
        TypeError, ValueError: it has another type.
    """
    if kind in (AlsConfig, AlsPenalties) and isinstance(value, dict):
        return kind(**_fields(kind, value))
    is_literal = get_origin(kind) is Literal
    kinds = {type(choice) for choice in get_args(kind)} if is_literal else set(get_args(kind) or (kind,))
    # JSON has one kind of number, and some writers write 1.0 as 1.
    if float in kinds and type(value) is int:
        value = float(value)
    if type(value) not in kinds:
        raise TypeError(f"'{name}' has a value of a wrong kind")
    return value
