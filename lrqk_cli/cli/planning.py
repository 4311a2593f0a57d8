"""The options from which settings follow, and which settings the user has fixed."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

from lrqk_cli.cli.options import option
from lrqk_cli.cli.values import parse_bytes
from lrqk_cli.config import LrqkConfig

_MEMORY = "Memory"

Vram = Annotated[
    int | None,
    option(
        "--vram",
        help="Device memory to use at most, such as 12GiB; settings follow from it. (default: what is free)",
        panel=_MEMORY,
        parse=parse_bytes,
        metavar="SIZE",
    ),
]
Ram = Annotated[
    int | None,
    option(
        "--ram",
        help="Host memory to use at most. (default: what is free, less an eighth)",
        panel=_MEMORY,
        parse=parse_bytes,
        metavar="SIZE",
    ),
]


def said_settings(context: typer.Context, settings: LrqkConfig) -> dict[str, Any]:
    """Return the fields of ``settings`` that were said: by a flag, a variable or the config file."""
    said = {name for name in context.params if _is_said(context, name)}
    names = {"als" if name.startswith("als_") else name for name in said}
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.name in names}


def _is_said(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
