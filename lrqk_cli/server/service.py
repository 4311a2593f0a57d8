"""What the server serves, and its settings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lrqk_cli.config import GenerationConfig
from lrqk_cli.server.uploads import UploadedFiles
from lrqk_cli.server.vocabulary import Vocabulary
from lrqk_cli.server.worker import EngineWorker


@dataclass(frozen=True)
class Service:
    """What the routes serve.

    Attributes:
        model: its name for clients.
        context: tokens that it holds.
        generation: the settings that a request does not say.
        keys: the keys of clients; empty if nobody needs one.
        token: see ``KeyGuard``.
        max_body: bytes of a request.
        is_local: see ``PageGuard``.
    """

    model: str
    context: int
    worker: EngineWorker
    files: UploadedFiles
    vocabulary: Vocabulary
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    keys: Sequence[str] = ()
    token: str = ""
    max_body: int = 256 << 20
    is_local: bool = False
    began: int = field(default_factory=lambda: int(time.time()))
