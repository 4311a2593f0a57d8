"""What settings are called where people set them.

A message names a setting as Python does, between backticks: ``top_k``, ``als.init``. So what raises it need
not know whether it will be read on the command line, in a chat or by a client of the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from lrqk_cli.config import AlsConfig, GenerationConfig, LrqkConfig

# Settings that are no fields of a class of ``config``.
_OF_COMMANDS = (
    *("cache_size", "continue", "debug", "device", "dtype", "endpoint", "fetch_size", "memory_cap", "model"),
    *("no_cache", "no_server", "offload_weights", "pages", "prompt", "ram", "read_memory", "read_timeout"),
    *("session", "shape", "threads", "vram", "weights"),
)
_NAME = re.compile("`([a-z_.]+)`")
_END_OF_SENTENCE = re.compile(r"(?<=[.?]) (?=[A-Z`])")


def flag(name: str) -> str:
    """Return the flag of a setting or a parameter, such as ``--top-k`` of ``top_k``."""
    return "--" + re.sub("[._]", "-", name)


def _options() -> dict[str, str]:
    names = [field.name for kind in (LrqkConfig, GenerationConfig) for field in fields(kind)]
    names += [f"als.{field.name}" for field in fields(AlsConfig)]
    return {name: flag(name) for name in (*names, *_OF_COMMANDS)}


@dataclass(frozen=True, slots=True)
class Surface:
    """A place where people set something and read failures.

    Attributes:
        names: setting -> what it is called there; empty if it is not there and hints must not name it.
        note: a sentence that says where options are given, if that is elsewhere.
    """

    names: Mapping[str, str]
    note: str = ""

    def message(self, text: str) -> str:
        """Return a text with the surface's names. Other words in backticks stay: they come from libraries."""
        return _NAME.sub(lambda match: self.names.get(match[1]) or match[0], text)

    def hint(self, text: str) -> str:
        """Return a hint without the sentences that name what is not there, and with the note on options."""
        known = [part for part in _END_OF_SENTENCE.split(text) if all(map(self._has, _NAME.findall(part)))]
        said = " ".join(known)
        has_options = any(self.names.get(name, "").startswith("--") for name in _NAME.findall(said))
        return self.message(f"{said} {self.note}" if has_options and self.note else said)

    def _has(self, name: str) -> bool:
        return self.names.get(name, name) != ""


COMMAND_LINE = Surface(
    {
        **_options(),
        "als": "--als-*",
        "context": "--ctx",
        # Others on the machine may see command lines.
        "password": "--password or LRQK_PASSWORD",
        "file": "",
        "undo": "",
    }
)
