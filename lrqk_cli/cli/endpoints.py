"""``--endpoint`` and ``--no-server``: whether a server answers, or a model that this process loads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.attention_options import ATTENTION_OPTIONS
from lrqk_cli.connections import is_key
from lrqk_cli.errors import UsageError
from lrqk_cli.naming import flag

if TYPE_CHECKING:
    from lrqk_cli.chat.chat_model import ChatModel

Endpoint = Annotated[
    str | None,
    options.model_option(
        "--endpoint",
        "Let a server answer that speaks the OpenAI protocol, such as http://localhost:8000. --model names "
        "one of its models, and LRQK_API_KEY or OPENAI_API_KEY holds its key. An empty text asks none, "
        "whatever a variable or the config file says.",
        "URL",
    ),
]

NoServer = Annotated[
    bool,
    options.model_option(
        "--no-server",
        "Load the model here, although 'lrqk serve' runs with the same model and settings and could answer.",
    ),
]

_KEY_VARIABLES = ("LRQK_API_KEY", "OPENAI_API_KEY")
# What only a model of this process has.
_OF_THIS_PROCESS = ATTENTION_OPTIONS | {
    "cache_size",
    "ctx",
    "device",
    "dtype",
    "no_cache",
    "no_server",
    "offload_weights",
    "ram",
    "threads",
    "vram",
    "weights",
}


def model_at(context: typer.Context, url: str, model: str) -> ChatModel:
    """Return the model that ``--endpoint`` and ``--model`` name.

    Args:
        context: of the command; tells which options were given.
        model: the value of ``--model``, which counts if it was given on the command line: in a variable or
            the config file it is that of a model to load.

    Raises:
        UsageError: the address is none, or an option was given that would not act.
    """
    for name in options.on_command_line(context, _OF_THIS_PROCESS):
        raise UsageError(
            f"{flag(name)} is for a model that lrqk loads itself, and --endpoint asks a server.",
            f"Leave {flag(name)} out"
            + ("." if name == "no_server" else ", or set it where the server is started."),
        )
    from lrqk_cli.chat.endpoint_model import EndpointModel
    from lrqk_cli.endpoint.client import EndpointClient

    is_named = options.on_command_line(context, {"model"})
    return EndpointModel(EndpointClient(url, _key()), model if is_named else "")


def _key() -> str | None:
    """Return the key for the server.

    Raises:
        UsageError: it has characters that no key has.
    """
    for name in _KEY_VARIABLES:
        # Several keys are those that a server of lrqk takes; any of them will do.
        if keys := os.environ.get(name, "").split():
            if not is_key(keys[0]):
                raise UsageError(f"The variable {name} holds no key.", "Correct or unset it.")
            return keys[0]
    return None
