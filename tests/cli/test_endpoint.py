"""``lrqk chat --endpoint``: the same chat, whoever answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fake_chat import FakeEngine, FakePlain, new_session
from fake_vocabulary import FakeVocabulary
from refused import fails_with
from scripted_server import STOP, WAIT, YES, ScriptedServer
from talk import Talk

from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.chat.remote_chat import RemoteChat
from lrqk_cli.config import GenerationConfig
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.protocol import ServedModel
from lrqk_cli.server.app import create_app
from lrqk_cli.server.service import Service
from lrqk_cli.server.uploads import UploadedFiles
from lrqk_cli.server.worker import EngineWorker

pytestmark = pytest.mark.short


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().running() as running:
        yield running


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "notes.txt"
    file.write_text("The plant at Brannock employs 412 people.", encoding="utf-8")
    return file


@pytest.fixture
def lrqk_server() -> Iterator[tuple[FakeEngine, str]]:
    """The routes of ``lrqk serve`` on a socket, over an engine that looks at what it is told to."""
    engine = FakeEngine(looks_at="412", context=600)
    worker = EngineWorker(new_session(engine), 8, FakePlain(), lambda _: None)
    files = UploadedFiles(ReadLimits(), 10)
    app = create_app(Service("tiny", engine.context, worker, files, FakeVocabulary()))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield engine, f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join()
    worker.close()


def test_a_document_stands_first_in_a_prompt_that_only_grows(run, server, document):
    usage = {"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 3}}
    server.answers = [["Ye", "s.", STOP, usage, "[DONE]"]]
    options = "--system", "Be short.", "--temperature", "0.5", "--seed", "3", "--json"
    result = run(
        "chat", document, "--endpoint", server.url, *options, "--prompt", "First?", "--prompt", "Then?"
    )
    assert result.code == 0, result.err
    first, second = server.asked
    assert (first["model"], first["temperature"], first["seed"]) == ("small", 0.5, 3)
    assert not {"lrqk", "max_tokens", "top_k", "reasoning_effort"} & first.keys()
    system, turn = first["messages"]
    assert system == {"role": "system", "content": "Be short."}
    assert turn["content"].startswith("<document")
    assert turn["content"].endswith("First?")
    assert "employs 412 people" in turn["content"]
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Then?"},
    ]
    report = json.loads(result.out.splitlines()[0])
    assert (report["answer"], report["prompt_tokens"], report["new_tokens"]) == ("Yes.", 70, 3)
    assert (report["attention"], report["plan"], report["memory"]) == (None, None, None)


def test_reasoning_that_a_server_does_not_offer_is_refused_in_words_of_the_chat(run, server, lrqk_server):
    asked = "--think", "on", "--prompt", "Well?"
    hint = "Hint: Leave --think off, or choose a model that reasons."
    fails_with(run("chat", "--endpoint", lrqk_server[1], *asked), 2, "The model tiny does not reason.", hint)
    refusal = '{"error": {"message": "reasoning_effort is not a field."}}'
    server.refusal = 400, refusal, {}
    fails_with(run("chat", "--endpoint", server.url, *asked), 2, "reasoning_effort is not a field.", hint)


@pytest.mark.parametrize("way", ["variable", "file"])
def test_an_endpoint_that_always_holds_can_be_left_out_once(run, server, monkeypatch, tmp_path, way):
    server.models = {"data": [{"id": "small"}]}
    if way == "variable":
        monkeypatch.setenv("LRQK_ENDPOINT", server.url)
        monkeypatch.setenv("LRQK_MODEL", "no-such-model")
    else:
        file = tmp_path / "lrqk.toml"
        file.write_text(f'[chat]\nendpoint = "{server.url}"\nmodel = "no-such-model"\n')
        monkeypatch.setenv("LRQK_CONFIG", str(file))
    assert run("chat", "--prompt", "Well?").out == "Yes.\n"
    assert [body["model"] for body in server.asked] == ["small"]
    fails_with(run("chat", "--endpoint", "", "--prompt", "Well?"), 4, "no-such-model")
    fails_with(run("chat", "--endpoint", "", "--rank", "x", "--prompt", "Well?"), 2, "'x'")
    assert len(server.asked) == 1


def test_no_server_beside_an_endpoint_is_only_left_out(run, server):
    result = run("chat", "--endpoint", server.url, "--no-server", "--prompt", "Well?")
    fails_with(result, 2, "Hint: Leave --no-server out.\n")


def test_it_needs_no_torch_and_takes_the_key_from_the_environment(server, tmp_path):
    code = (
        "import sys\n"
        "from lrqk_cli.__main__ import main\n"
        f"try:\n    main(['chat', '--endpoint', '{server.url}', '--prompt', 'Well?'])\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "OPENAI_API_KEY": "theirs", "LRQK_API_KEY": "mine"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.stdout == "Yes.\n"
    assert server.keys == ["Bearer mine", "Bearer mine"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hot", "64"], "--hot is for a model that lrqk loads itself"),
        (["--kv-dtype", "int8"], "--kv-dtype is for a model"),
        (["--no-cache"], "--no-cache is for a model"),
        (["--no-server"], "--no-server is for a model"),
        (["--think", "100"], "limits the reasoning of its model itself"),
        (["--sources"], "Only lrqk's own engine knows the pages"),
    ],
)
def test_a_setting_that_would_not_act_is_refused_by_name(run, server, options, words):
    result = run("chat", "--endpoint", server.url, "--prompt", "Well?", *options)
    assert (result.code, server.asked) == (2, [])
    assert words in " ".join(result.err.split())


def test_one_of_several_models_has_to_be_named(run, server):
    server.models = {"data": [{"id": "small"}, {"id": "large"}]}
    result = run("chat", "--endpoint", server.url, "--prompt", "Well?")
    assert result.code == 2
    assert "Choose one with --model: small, large" in result.err
    result = run("chat", "--endpoint", server.url, "--prompt", "Well?", "--model", "large")
    assert (result.code, server.asked[-1]["model"]) == (0, "large")


def test_a_session_moves_from_one_server_to_another_and_keeps_its_document(
    run, server, lrqk_server, document
):
    engine, url = lrqk_server
    options = "--session", "talk", "--prompt"
    assert run("chat", document, "--endpoint", server.url, *options, "First?").code == 0
    result = run("chat", "--endpoint", url, *options, "Second?", "--sources")
    assert result.code == 0, result.err
    assert engine.text.startswith("<<document")
    assert "First?>Yes.|Second?>" in engine.text
    assert "The plant at Brannock employs 412 people." in " ".join(result.err.split())
    resets = engine.resets
    assert run("chat", "--endpoint", url, *options, "Third?").code == 0
    assert "Second?>Yes.|Third?>" in engine.text
    assert engine.resets == resets  # the server has gone on with what it held
    assert run("chat", "--endpoint", server.url, *options, "Fourth?").code == 0
    said = [message["content"] for message in server.asked[-1]["messages"]]
    assert said[1:] == ["Yes.", "Second?", "Yes.", "Third?", "Yes.", "Fourth?"]
    saved = SessionStore().archive("talk")
    assert (saved.endpoint, saved.model) == (server.url, "small")
    result = run("chat", *options, "Fifth?")
    assert result.code == 2
    assert f"was held with small at {server.url}" in " ".join(result.err.split())


@pytest.fixture
def talk(server: ScriptedServer, monkeypatch, tmp_path) -> Talk:
    """A chat on the terminal with the scripted server."""
    chat = Talk()
    chat.ctx.session = RemoteChat(
        EndpointClient(server.url), ServedModel("small", 900, False), None, [], GenerationConfig()
    )
    return chat


def test_a_failure_of_the_server_loses_nothing_and_the_chat_goes_on(talk, server, document):
    server.answers = [YES, ["Ye"], YES]
    shown = talk.say(f"/file {document}", "First?", "Second?", "Third?")
    assert "about" in shown
    assert "broke before the answer ended" in shown
    assert talk.questions == ["First?", "Third?"]
    assert len(server.asked[-1]["messages"]) == 3
    server.refusal = 503, "{}", {}
    assert "failed with the status 503" in talk.say("Fourth?")
    server.refusal = None
    assert "Error" not in talk.say("/undo", "/retry", "/clear", "Fifth?", "/stats")
    assert talk.questions == ["Fifth?"]
    assert "412 people" in server.asked[-1]["messages"][0]["content"]


def test_ctrl_c_keeps_what_is_there_and_closes_the_connection(talk, server):
    server.answers = [["Ye", lambda: os.kill(os.getpid(), signal.SIGINT), WAIT], YES]
    assert "The answer was stopped." in talk.say("First?")
    assert server.left.wait(10)
    talk.say("Second?")
    contents = [message["content"] for message in server.asked[-1]["messages"]]
    assert contents == ["First?", "Ye", "Second?"]


def test_a_failure_in_a_chat_names_what_can_be_typed_there(talk, document):
    lines = ("/set temperature -1", "/set max-new-tokens 0", "/set think 30", "/pages 0", "/sources on")
    shown = talk.say(*lines, "/pages 2", f"/file {document}", "/pages all", "/file nowhere.pdf")
    assert "Error: /set temperature cannot be negative." in shown
    assert "Error: /set max-new-tokens must be at least 1." in shown
    assert "Hint: Choose /set think on or off." in shown
    assert "Error: /pages '0' asks for page 0" in shown
    assert f"Error: /pages 2 was asked for, but {document.name} has no pages." in shown
    assert "Hint: Check the path.\n" in shown
    assert "--temperature" not in shown
    assert "--pages" not in shown
    assert "Hint: Ask without --endpoint, or a server that 'lrqk serve' has started. Options are" in shown


def test_what_only_an_engine_of_lrqk_knows_says_so(talk):
    shown = talk.say("/sources on", "/sources", "/set top-k 5", "/set rank", "/set", "/set think 30")
    assert shown.count("Only lrqk's own engine knows the pages") == 2
    assert "top-k is set on the server" in shown
    assert "rank is set on the server" in shown
    assert "temperature" in shown
    assert "attention" not in shown
    assert "limits the reasoning of its model itself" in shown
