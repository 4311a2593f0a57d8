"""``lrqk chat`` looks for a server of its user that has loaded the same model; see also ``test_serve.py``."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import uvicorn
from fake_chat import FakeEngine, FakePlain, new_session
from fake_vocabulary import FakeVocabulary
from refused import fails_with
from scripted_server import ScriptedServer
from talk import Talk

from lrqk_cli.chat.local_model import LocalModel
from lrqk_cli.chat.opening import ModelRequest
from lrqk_cli.chat.own_servers import Announcement, announced, settings_of
from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.models.fingerprint import source_id
from lrqk_cli.models.loading import resolve
from lrqk_cli.server.app import Service, create_app
from lrqk_cli.server.uploads import UploadedFiles
from lrqk_cli.server.worker import EngineWorker

URL = "http://127.0.0.1:1/v1"


class HeldEngine(FakeEngine):
    """Waits at every token until it may go on."""

    go_on = threading.Event()

    def generate(self, *settings):
        for step in super().generate(*settings):
            assert self.go_on.wait(20)
            yield step


@dataclass(frozen=True)
class Announced:
    request: ModelRequest
    engine: HeldEngine
    file: Path
    end: Callable[[], None]


@pytest.fixture
def server(tiny_model, tmp_path_factory, monkeypatch) -> Iterator[Announced]:
    """An announced server of this process, with a key, whose engine is a fake."""
    folder = tmp_path_factory.mktemp("r")
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    request, engine = ModelRequest(str(tiny_model), None, None, False, None), HeldEngine()
    worker = EngineWorker(new_session(engine), 8, FakePlain(), lambda _: None)
    files = UploadedFiles(ReadLimits(), 10)
    service = Service("tiny", 3000, worker, files, FakeVocabulary(), keys=("theirs",), token="of its user")
    model, settings = source_id(resolve(request.name)), settings_of(request)
    HeldEngine.go_on.set()
    with announced(Announcement(URL, service.token, "tiny", 3000, 4096, model, settings, False)) as listening:
        running = uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        while not running.started:
            time.sleep(0.01)

        def end() -> None:
            running.should_exit = True
            thread.join()

        (file,) = folder.glob("lrqk/servers/*.json")
        yield Announced(request, engine, file, end)
        end()
    worker.close()


def asking(model: object, *options: object) -> list[str]:
    words = ["chat", "--model", model, "--max-new-tokens", "4", "--prompt", "How many?", *options]
    return [str(word) for word in words]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--hot", "64"], "it was started with another --hot"),
        (["--solver", "als", "--als-iterations", "5"], "it was started with another --solver"),
        (["--dtype", "float32"], "it was started with another --dtype"),
        (["--no-cache"], "it was started with another --no-cache"),
        (["--ctx", "3500"], "it holds 3,000 tokens, and --ctx is 3,500"),
        (["--system", "x" * 12000], "it holds 3,000 tokens, and text and answers may need 3,007"),
        (["--think", "5"], "a number of --think is for a model that lrqk loads itself"),
    ],
)
def test_what_a_server_would_answer_otherwise_is_answered_here(run, server, options, reason):
    shown = run(*asking(server.request.name, *options)).err
    assert f"The running server at {URL} is not used: {reason}." in shown
    assert "answers with" not in shown
    assert server.engine.length == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--temperature", "3"],
        ["--repetition-penalty", "50"],
        ["--temperature", "1", "--sample-top-k", str(10**12)],
        ["--seed", str(2**64 - 1)],
    ],
)
def test_a_server_takes_what_a_chat_takes(run, server, options):
    result = run(*asking(server.request.name, *options))
    assert (result.code, result.out) == (0, "Yes.\n"), result.err
    assert f"The running server at {URL} answers with" in result.err


def test_reasoning_of_a_model_that_has_none_is_refused_at_once(run, server):
    fails_with(run(*asking(server.request.name, "--think", "on")), 2, "does not reason.", "Leave --think off")
    talk = Talk()
    with LocalModel(server.request).open([], None, GenerationConfig(8), talk.ctx.view) as opened:
        talk.ctx = replace(talk.ctx, session=opened.session)
        shown = talk.say("/set think on", "Well?", "/set think")
    assert "Leave /set think off, or choose a model that reasons." in shown
    assert shown.strip().endswith("think off")
    assert talk.questions == ["Well?"]


def test_another_model_and_no_server_ask_nobody(run, server, tmp_path):
    other = shutil.copytree(server.request.name, tmp_path / "other")
    for words in (asking(other), asking(server.request.name, "--no-server")):
        result = run(*words)
        assert result.code == 0, result.err
        assert "running server" not in result.err
    assert server.engine.length == 0


def test_a_stranger_on_the_port_of_a_server_that_has_ended_gets_nothing(run, server):
    left = server.file.with_name("1.json")
    with ScriptedServer().running() as stranger, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left.with_suffix(".sock")))
        left.write_text(json.dumps({**json.loads(server.file.read_text()), "url": stranger.url}))
        dead.close()
        result = run(*asking(server.request.name))
    assert f"The running server at {URL} answers with" in result.err
    assert result.out == "Yes.\n"
    assert (stranger.asked, stranger.keys) == ([], [])
    assert {file.stem for file in left.parent.iterdir()} == {server.file.stem}


def test_only_files_of_the_user_and_of_this_version_are_trusted(run, server):
    (modes,) = {file.stat().st_mode & 0o777 for file in server.file.parent.iterdir()}
    assert modes == 0o600
    server.file.parent.chmod(0o777)
    assert "running server" not in run(*asking(server.request.name)).err
    server.file.parent.chmod(0o700)
    said = json.loads(server.file.read_text())
    server.file.write_text(json.dumps({**said, "version": "9.9"}))
    assert "is not used: it is lrqk 9.9, and this is " in run(*asking(server.request.name)).err
    server.file.write_text("{}")
    assert "running server" not in run(*asking(server.request.name)).err
    assert server.engine.length == 0


def test_a_chat_outlives_the_server(server):
    talk = Talk()
    with LocalModel(server.request).open([], None, GenerationConfig(8), talk.ctx.view) as opened:
        talk.ctx = replace(talk.ctx, session=opened.session)
        shown = talk.say("First?", server.end, "Second?", "/stats")
    assert f"Nothing can be asked at {URL}" in shown
    assert talk.questions == ["First?"]


def test_a_question_that_waits_says_so(run, server):
    server.engine.go_on.clear()
    command = [sys.executable, "-m", "lrqk_cli", *asking(server.request.name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 20
        while not server.engine.length:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        threading.Timer(1, server.engine.go_on.set).start()
        result = run(*asking(server.request.name))
        assert (result.code, result.out) == (0, "Yes.\n")
        assert "The server is busy, and answers another request first." in result.err
        assert first.communicate(timeout=20)[0] == "Yes.\n"
