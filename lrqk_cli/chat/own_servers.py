"""The servers of this user on this machine: ``lrqk serve`` announces itself, and a chat finds it.

A server listens on a Unix socket beside its port. The socket lies in a folder that only the user can write,
so whoever listens there is a process of the user: documents never go to a port that another process may have
taken. An announcement, a private file beside the socket, says what is served and with which settings.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrqk_cli import __version__
from lrqk_cli.chat.estimated_format import EstimatedFormat
from lrqk_cli.chat.opening import ModelRequest, needed_tokens
from lrqk_cli.chat.private_files import make_private_folder, write_private
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.models.fingerprint import source_id
from lrqk_cli.models.resolving import resolve

# Seconds in which a server of this machine takes a connection.
_CONNECT_S = 2.0
_BACKLOG = 128
# What a chat leaves to the server unless its user has set it; all else must be the same on both sides.
_LEFT_OPEN = frozenset({"device", "threads", "vram", "ram", "offload_weights", "cache_size", "no_cache"})


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a running server says of itself to chats of its user.

    Attributes:
        url: its address for other clients.
        token: lets these chats in.
        model: the name of its model for clients.
        context: tokens that it holds; ``max_context``: the most that its model can.
        source_id: what identifies the model's files, see ``fingerprint.source_id``.
        settings: what it was started with, see ``settings_of``.
        reasons: whether the model can reason.
        version: of lrqk.
    """

    url: str
    token: str
    model: str
    context: int
    max_context: int
    source_id: str
    settings: Mapping[str, Any]
    reasons: bool
    version: str = __version__


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running server of this user, and the socket that it listens on."""

    said: Announcement
    socket: Path


@contextmanager
def announced(said: Announcement) -> Iterator[socket.socket]:
    """Give the socket for chats of this user, and announce it; remove both at the end.

    Raises:
        UsageError: this system has no such sockets, or there is no folder that only this user can write.
    """
    folder = _folder(makes=True)
    place = folder / f"{os.getpid()}.sock"
    file = place.with_suffix(".json")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            _listen(listening, place)
            write_private(file, json.dumps(asdict(said)))
            yield listening
        finally:
            _remove(file)


def find_server(
    request: ModelRequest,
    texts: Sequence[str],
    system: str | None,
    generation: GenerationConfig,
    questions: Sequence[str] | None,
    said: Sequence[str] = (),
) -> tuple[OwnServer | None, str]:
    """Return a running server that answers as a model would that this process loads.

    Args:
        request: for the model that would be loaded.
        texts: those of the documents; see ``open_session`` for the others.

    Returns:
        The server, or None and, if there is a server of the model, why it does not do.
    """
    if not (servers := _running_servers()):
        return None, ""
    model = _source_id(request.name)
    needed = needed_tokens(EstimatedFormat(system), texts, questions, generation, said)
    reason = ""
    for server in servers:
        if server.said.source_id == model:
            difference = _difference(server.said, request, needed, generation)
            if not difference:
                return server, ""
            reason = f"The running server at {server.said.url} is not used: {difference}."
    return None, reason


def settings_of(request: ModelRequest) -> dict[str, Any]:
    """Return the settings of a request for a model, but for its context, by parameter, in JSON's types."""
    attention: dict[str, Any] = {**asdict(LrqkConfig()), "attention": "auto"}
    for name, value in request.wanted.items():
        attention[name] = asdict(value) if name == "als" else value
    als = {f"als.{name}": value for name, value in attention.pop("als").items()}
    others = {
        "dtype": request.dtype or "auto",
        "weights": request.weights,
        "device": request.device,
        "threads": request.threads,
        "vram": request.vram,
        "ram": request.ram,
        "offload_weights": request.offload_weights,
        "cache_size": request.cache.limit,
        "no_cache": not request.cache.is_on,
    }
    settings: dict[str, Any] = json.loads(json.dumps({**attention, **als, **others}))
    return settings


def _difference(said: Announcement, request: ModelRequest, needed: int, generation: GenerationConfig) -> str:
    """Return in which respect a server would answer otherwise than this process; empty if in none."""
    if said.version != __version__:
        return f"it is lrqk {said.version}, and this is {__version__}"
    for name, value in settings_of(request).items():
        is_open = name in _LEFT_OPEN and not value
        if not is_open and value != said.settings.get(name):
            return f"it was started with another `{name}`"
    if generation.think:
        return "a number of `think` is for a model that lrqk loads itself"
    if (request.context or 0) > said.context:
        return f"it holds {said.context:,} tokens, and `context` is {request.context:,}"
    # Without --ctx a model that is loaded here would get a context that holds them, if it can.
    if request.context is None and said.context < min(needed, said.max_context):
        return f"it holds {said.context:,} tokens, and text and answers may need {needed:,}"
    return ""


def _running_servers() -> list[OwnServer]:
    """Return the servers that run; remove what others have left that ended at once."""
    try:
        files = sorted(_folder(makes=False).glob("*.json"))
    except LrqkError:
        return []
    found = []
    for file in files:
        server = OwnServer(said, file.with_suffix(".sock")) if (said := _read(file)) is not None else None
        if server is not None and _listens(server.socket):
            found.append(server)
    return found


def _listen(listening: socket.socket, place: Path) -> None:
    try:
        # An earlier process of the same number may have been killed.
        place.unlink(missing_ok=True)
        listening.bind(str(place))
        place.chmod(0o600)
        listening.listen(_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"Nothing can listen on {place}: {error}.", "Set XDG_RUNTIME_DIR to a folder with a short path."
        ) from error


def _read(file: Path) -> Announcement | None:
    """Return an announcement; None if it is none, or one of a version that says other things."""
    try:
        return Announcement(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _listens(place: Path) -> bool:
    """Whether a server listens on a socket; if its process has ended, remove what it has left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(str(place))
        except (ConnectionRefusedError, FileNotFoundError):
            _remove(place.with_suffix(".json"))
        except OSError:
            pass
        else:
            return True
    return False


def _remove(file: Path) -> None:
    for path in (file, file.with_suffix(".sock")):
        with suppress(OSError):
            path.unlink()


def _source_id(name: str) -> str | None:
    """Return what identifies the files of a model; None if it is not here, or there is none of this name."""
    try:
        return source_id(resolve(name))
    except (LrqkError, OSError):
        return None


def _folder(*, makes: bool) -> Path:
    """Return the folder of the user's servers.

    Raises:
        UsageError: this system has no Unix sockets, or others could put something into the folder.
    """
    import platformdirs

    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("This system has no Unix sockets.", "Use `endpoint` with the server's address.")
    try:
        with warnings.catch_warnings():
            # It warns of an unsafe XDG_RUNTIME_DIR and takes another folder, which is checked here as well.
            warnings.simplefilter("ignore")
            folder = platformdirs.user_runtime_path("lrqk", ensure_exists=makes) / "servers"
        if makes:
            make_private_folder(folder)
        for path in (folder, *folder.parents[:2]):
            status = path.lstat()
            is_safe = stat.S_ISDIR(status.st_mode) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if not is_safe or status.st_uid != os.geteuid():
                raise UsageError(f"Others could write to {path}.", "Set XDG_RUNTIME_DIR to a private folder.")
    except OSError as error:
        raise UsageError(
            f"There is no folder for running servers: {error}.", "Set XDG_RUNTIME_DIR to a private folder."
        ) from error
    return folder
