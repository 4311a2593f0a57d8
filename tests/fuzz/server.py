"""Serves a scripted engine, for programs that try the routes: ``cd tests; python -m fuzz.server``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import uvicorn
from fake_chat import FakeEngine, FakePlain, new_session
from tiny import save_tiny_chat_model
from transformers import AutoTokenizer

from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.server.app import create_app
from lrqk_cli.server.service import Service
from lrqk_cli.server.uploads import UploadedFiles
from lrqk_cli.server.vocabulary import Vocabulary
from lrqk_cli.server.worker import EngineWorker

PORT = 8200


def main() -> None:
    """Serve until Ctrl-C; what an engine's failure leaves is printed."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "tiny"
        save_tiny_chat_model(model)
        vocabulary = Vocabulary(AutoTokenizer.from_pretrained(str(model)), (0,))
    worker = EngineWorker(new_session(FakeEngine(context=4000)), 64, FakePlain(), sys.stderr.write)
    service = Service("tiny", 4000, worker, UploadedFiles(ReadLimits(), 1000), vocabulary)
    uvicorn.run(create_app(service), host="127.0.0.1", port=PORT, log_level="warning")


if __name__ == "__main__":
    main()
