"""``lrqk serve``: one model for all clients that speak the OpenAI protocol."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrqk_cli.cli import options
from lrqk_cli.cli.attention_options import AttentionChoices, with_attention_options
from lrqk_cli.cli.failures import warn_of_transformers
from lrqk_cli.cli.values import parse_bytes, parse_integer
from lrqk_cli.config import GenerationConfig
from lrqk_cli.connections import is_key, is_local
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.models.catalog import DEFAULT_MODEL
from lrqk_cli.system_errors import reason_of
from lrqk_cli.terminal.console import stderr_console

if TYPE_CHECKING:
    import uvicorn

    from lrqk_cli.chat.opening import OpenSession
    from lrqk_cli.chat.own_servers import Announcement
    from lrqk_cli.server.service import Service
    from lrqk_cli.server.worker import EngineWorker
    from lrqk_cli.terminal.view import View

_LIMITS = ReadLimits()
_NEEDED = ("fastapi", "llguidance", "uvicorn", "multipart", "prometheus_client")
# Seconds in which running answers may come to their end.
_GRACE_S = 3
# Connections that wait until the server takes them.
_BACKLOG = 128
# Files that a client may have uploaded at a time.
_MOST_FILES = 1000


_server_option = partial(options.option, panel="Server")

Host = Annotated[
    str, _server_option("--host", "Address to listen on; others than this machine need --api-key.", "ADDRESS")
]
Port = Annotated[
    int, _server_option("--port", "Port to listen on; 0 takes a free one.", "PORT", parse_integer)
]
ApiKey = Annotated[
    list[str],
    _server_option(
        "--api-key",
        "A key that clients must send; repeat it for more. Documents of one key are not visible to another. "
        "Better as the variable LRQK_API_KEY, because others on this machine may see command lines.",
        "KEY",
        show_default=False,
    ),
]
MaxBody = Annotated[
    int,
    _server_option(
        "--max-body",
        "The largest request or upload, such as 64MiB. (default: 256MiB)",
        "SIZE",
        parse_bytes,
        show_default=False,
    ),
]
MaxQueue = Annotated[int, _server_option("--max-queue", "Requests that may wait.", "N", parse_integer)]


@with_attention_options()
def serve(
    context: typer.Context,
    *,
    model: options.Model = DEFAULT_MODEL,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_key: ApiKey = [],  # noqa: B006 - typer only reads it
    max_body: MaxBody = 256 << 20,
    max_queue: MaxQueue = 64,
    read_timeout: options.ReadTimeout = _LIMITS.timeout,
    read_memory: options.ReadMemory = _LIMITS.memory,
    ctx: options.Context = None,
    vram: options.Vram = None,
    ram: options.Ram = None,
    cache_size: options.CacheSize = None,
    no_cache: options.NoCache = False,
    attention: AttentionChoices,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    threads: options.Threads = None,
    weights: options.Weights = "auto",
    offload_weights: options.OffloadWeights = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - its callback acts
) -> None:
    """Serve a model to clients that speak the OpenAI protocol; documents are read once."""
    warn_of_transformers()
    _check_installed()
    if not 0 <= port <= 65535:
        raise UsageError(f"There is no port {port}.", "Choose one from 1024 to 65535, or 0 for a free one.")
    if max_queue < 1 or max_body < 1:
        raise UsageError("--max-queue and --max-body must be at least 1.", "Leave them out.")
    _check_keys(api_key, host)
    attention.refuse_idle()
    from lrqk_cli.chat.opening import ModelRequest, open_session
    from lrqk_cli.chat.own_servers import Announcement, settings_of
    from lrqk_cli.terminal.view import View

    view = View(stderr_console(), quiet)
    number_format = None if dtype == "auto" else dtype
    request = ModelRequest(
        model,
        device,
        number_format,
        offload_weights,
        ctx,
        vram,
        ram,
        attention.said,
        threads,
        weights,
        options.cache_choice(context, no_cache, cache_size),
    )
    # Loading takes long, so a port that is taken is found before.
    with (
        _listening(host, port) as listening,
        open_session(request, [], None, GenerationConfig(), view) as opened,
    ):
        limits = ReadLimits(read_timeout, read_memory)
        service = _service(opened, limits, api_key, max_body, max_queue, host)
        announcement = Announcement(
            f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/v1",
            token=service.token,
            model=service.model,
            context=service.context,
            max_context=opened.session.max_context,
            source_id=opened.source_id or "",
            settings=settings_of(request),
            reasons=service.worker.reasons,
        )
        _run(service, listening, announcement, view)


def _check_installed() -> None:
    if any(find_spec(name) is None for name in _NEEDED):
        raise UsageError("The server's libraries are not installed.", "Run: pip install 'lrqk[serve]'")


def _check_keys(keys: Sequence[str], host: str) -> None:
    if not is_local(host) and not keys:
        raise UsageError(
            f"Whoever reaches {host} could read the documents of all others.",
            "Add --api-key, or leave --host out to serve this machine alone.",
        )
    if not all(map(is_key, keys)):
        raise UsageError(
            "No client could send one of the keys of --api-key.",
            "Use letters, digits and signs of ASCII, without blanks.",
        )


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket for clients, who wait until the server takes their connections.

    Raises:
        UsageError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # Python repeats the address behind the system's words.
        reason = reason_of(error).partition(" (while")[0]
        raise UsageError(
            f"Nothing can listen on {host}, port {port}: {reason}.", "Choose another --port."
        ) from None


def _service(
    opened: OpenSession,
    limits: ReadLimits,
    keys: Sequence[str],
    max_body: int,
    max_queue: int,
    host: str,
) -> Service:
    import logging

    from lrqk_cli.models.plain_text import PlainText
    from lrqk_cli.server.service import Service
    from lrqk_cli.server.uploads import UploadedFiles
    from lrqk_cli.server.vocabulary import Vocabulary
    from lrqk_cli.server.worker import EngineWorker

    log = logging.getLogger("uvicorn.error")
    worker = EngineWorker(opened.session, max_queue, PlainText(opened.tokenizer), log.error)
    name = Path(opened.model)
    return Service(
        # Clients need not learn where a model lies.
        name.name if name.exists() else opened.model,
        opened.session.engine.context,
        worker,
        UploadedFiles(limits, _MOST_FILES),
        Vocabulary(opened.tokenizer, opened.session.stop_ids),
        keys=keys,
        token=secrets.token_urlsafe(32),
        max_body=max_body,
        is_local=is_local(host),
    )


def _run(service: Service, listening: socket.socket, announcement: Announcement, view: View) -> None:
    """Serve until the user ends it."""
    import uvicorn

    from lrqk_cli.chat.own_servers import announced
    from lrqk_cli.server.app import create_app

    config = uvicorn.Config(
        create_app(service), log_level="warning", timeout_graceful_shutdown=_GRACE_S, server_header=False
    )
    try:
        with ExitStack() as stack:
            sockets = [listening]
            try:
                sockets.append(stack.enter_context(announced(announcement)))
            except LrqkError as error:
                view.note(f"'lrqk chat' finds this server with --endpoint alone: {error.message}")
            view.note(f"Serving {service.model} at {announcement.url}. Ctrl-C ends it.")
            _ending(service.worker)(config).run(sockets=sockets)
    finally:
        service.worker.close()


def _ending(worker: EngineWorker) -> type[uvicorn.Server]:
    """Return a server that stops running answers before it waits for the connections to end."""
    import uvicorn
    from fastapi.concurrency import run_in_threadpool

    class EndingServer(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await run_in_threadpool(worker.close)
            await super().shutdown(sockets)

    return EndingServer
