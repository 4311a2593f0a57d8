"""``lrqk serve`` with a tiny random model, and a client that people have."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from openai import APIStatusError, AuthenticationError, BadRequestError, OpenAI
from pydantic import BaseModel, ConfigDict, Field
from refused import fails_with

from lrqk_cli.chat.journal import SessionStore

WORDS = "The revenue of the year was 48.2 million. "


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    address: str
    model: str

    def client(self, key: str = "mine") -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=60)

    def metrics(self, key: str = "mine") -> str:
        request = urllib.request.Request(
            f"{self.address}/metrics", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read(), "utf-8")


@pytest.fixture(scope="module")
def server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, runtime_folder: Path
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LRQK_")}
    variables |= {"LRQK_CACHE_DIR": str(folder), "XDG_CONFIG_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "lrqk_cli", "serve", "--model", str(tiny_model), "--port", "0"]
    with subprocess.Popen(
        [*command, "--api-key", "mine", "--api-key", "yours"],
        stderr=subprocess.PIPE, text=True, env=variables,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        found = None
        for line in process.stderr:
            if (found := re.search(r"Serving (\S+) at (http://\S+)/v1", line)) is not None:
                break
        assert found is not None
        yield Server(process, found[2], found[1])
        assert list(runtime_folder.glob("lrqk/servers/*")) != []
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
        assert "Traceback" not in rest
        assert list(runtime_folder.glob("lrqk/servers/*")) == []


def test_it_serves_the_name_of_a_folder_and_not_its_place(server: Server, tiny_model: Path) -> None:
    (model,) = server.client().models.list().data
    assert model.id == server.model == tiny_model.name


def test_the_second_question_about_an_uploaded_document_reads_only_itself(server: Server) -> None:
    client = server.client()
    file = client.files.create(file=("notes.txt", (WORDS * 20).encode()), purpose="user_data")
    parts = [{"type": "file", "file": {"file_id": file.id}}, {"type": "text", "text": "How much?"}]
    messages: list[dict[str, object]] = [{"role": "user", "content": parts}]

    def ask(**options: object) -> tuple[str, int, int]:
        answer = client.chat.completions.create(
            model=server.model, messages=messages, max_tokens=12, **options
        )  # type: ignore[call-overload]
        usage = answer.usage
        return (
            answer.choices[0].message.content,
            usage.prompt_tokens,
            usage.prompt_tokens_details.cached_tokens,
        )

    text, first, cached = ask()
    assert (cached, first > len(WORDS) * 20) == (0, True)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
    _, second, cached = ask()
    assert second - cached < 60
    streamed = client.chat.completions.create(
        model=server.model, messages=messages[:1], max_tokens=12, stream=True
    )  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == text
    client.files.delete(file.id)


def test_many_clients_are_answered_in_turn(server: Server) -> None:
    def ask(number: int) -> str:
        answer = server.client("mine" if number % 2 else "yours").chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": f"Question {number}?"}],
            max_tokens=8,
        )
        return answer.choices[0].message.content or ""

    alone = [ask(number) for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(ask, range(10))) == alone


def test_a_client_that_leaves_is_cancelled(server: Server) -> None:
    messages = [{"role": "user", "content": "Tell me everything."}]
    for streams in (True, False):
        before = _interrupted(server)
        client = server.client()
        if streams:
            stream = client.chat.completions.create(
                model=server.model, messages=messages, max_tokens=3000, stream=True
            )  # type: ignore[call-overload]
            next(iter(stream))
            stream.close()
        else:
            with pytest.raises(Exception, match=r"(?i)timed out|timeout"):
                client.with_options(timeout=0.5).chat.completions.create(
                    model=server.model, messages=messages, max_tokens=3000
                )  # type: ignore[call-overload]
        end = time.monotonic() + 20
        while _interrupted(server) == before:
            assert time.monotonic() < end
            time.sleep(0.05)


class Report(BaseModel):
    """A form that a random model fills within its limit of tokens."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["gain", "loss"]
    pages: Annotated[list[Annotated[int, Field(ge=0, le=99)]], Field(min_length=1, max_length=3)]
    is_final: bool
    name: Annotated[str, Field(max_length=5)]


def test_an_answer_has_the_form_that_was_asked_for(server: Server) -> None:
    client = server.client()
    messages: list[Any] = [{"role": "user", "content": "Fill the form."}]
    for seed in range(3):
        answer = client.chat.completions.parse(
            model=server.model, messages=messages, response_format=Report, temperature=1.0, seed=seed
        )
        assert isinstance(answer.choices[0].message.parsed, Report)
        assert answer.choices[0].finish_reason == "stop"
    with client.chat.completions.stream(
        model=server.model, messages=messages, response_format=Report, temperature=1.0, seed=7
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Report)
    plain = client.chat.completions.create(
        model=server.model, messages=messages, max_tokens=30, response_format={"type": "json_object"}
    ).choices[0]
    assert (plain.message.content or "").startswith("{")
    assert plain.finish_reason == "length" or isinstance(json.loads(plain.message.content or ""), dict)
    # The next answer is as free as ever.
    free = client.chat.completions.create(model=server.model, messages=messages, max_tokens=30)
    assert not (free.choices[0].message.content or "").startswith("{")


def test_a_form_that_cannot_be_had_is_refused(server: Server) -> None:
    schema = {"type": "object", "not": {}}
    with pytest.raises(BadRequestError, match="Unimplemented keys"):
        server.client().chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": "x"}],
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )


def test_log_probabilities_are_those_of_the_tokens(server: Server) -> None:
    choice = (
        server.client()
        .chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": "x"}],
            max_tokens=8,
            logprobs=True,
            top_logprobs=2,
        )
        .choices[0]
    )
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert b"".join(bytes(entry.bytes or ()) for entry in content).decode("utf-8", "replace") == (
        choice.message.content
    )
    for entry in content:  # greedy
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
        assert entry.logprob >= entry.top_logprobs[1].logprob


def _interrupted(server: Server) -> float:
    found = re.search(r'lrqk_answers_total\{end="interrupted"\} (\S+)', server.metrics())
    return float(found[1]) if found else 0.0


def test_a_stranger_is_refused_and_a_fault_is_named(server: Server) -> None:
    with pytest.raises(AuthenticationError):
        server.client("other").models.list()
    with pytest.raises(APIStatusError, match="not supported"):
        server.client().chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": "x"}], logit_bias={"5": 1}
        )


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "notes.txt"
    file.write_text(WORDS * 10, encoding="utf-8")
    return file


def asking(model: Path, *options: object) -> list[str]:
    words = ["chat", "--model", model, "--max-new-tokens", "8", "--prompt", "How much?", *options]
    return [str(word) for word in words]


def test_a_chat_needs_no_torch_beside_it_and_has_the_same_answer_and_sources(
    run, server: Server, tiny_model: Path, document: Path, monkeypatch
) -> None:
    words = asking(tiny_model, document, "--sources", "--json")
    code = (
        "import sys\n"
        "from lrqk_cli.__main__ import main\n"
        f"try:\n    main({words})\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert f"The running server at {server.address}/v1 answers with {tiny_model}" in done.stderr
    monkeypatch.setenv("LRQK_NO_SERVER", "1")
    alone = run(*words)
    assert alone.code == 0, alone.err
    assert "running server" not in alone.err
    found, expected = json.loads(done.stdout), json.loads(alone.out)
    assert (found["plan"], expected["plan"] is None) == (None, False)
    for name in ("model", "answer", "prompt_tokens", "new_tokens", "finish_reason", "sources"):
        assert found[name] == expected[name], name


def test_a_session_goes_on_with_it_and_without(run, server: Server, tiny_model: Path, document: Path) -> None:
    named = "--session", "talk"
    assert "answers with" not in run(*asking(tiny_model, document, *named, "--no-server")).err
    assert "answers with" in run(*asking(tiny_model, *named)).err
    assert run("chat", *named, "--no-server", "--prompt", "Why?", "--max-new-tokens", "8").code == 0
    saved = SessionStore().archive("talk")
    assert saved is not None
    assert (saved.model, saved.endpoint, len(saved.entries)) == (str(tiny_model), None, 4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--port", "70000"], "70000"),
        (["--max-queue", "0"], "--max-queue"),
        (["--api-key", "schlüssel"], "--api-key"),
        (["--api-key", "good", "--api-key", " mine"], "--api-key"),
        (["--api-key", "mine\t"], "--api-key"),
        (["--api-key", ""], "--api-key"),
    ],
)
def test_what_would_be_unsafe_or_senseless_is_refused_at_once(run, options: list[str], word: str) -> None:
    fails_with(run("serve", "--model", "nowhere", *options), 2, word)


def test_a_port_that_is_taken_is_named_before_a_model_is_loaded(run, server: Server) -> None:
    port = server.address.rpartition(":")[2]
    result = run("serve", "--model", "nowhere", "--port", port)
    fails_with(result, 2, f"Error: Nothing can listen on 127.0.0.1, port {port}: address already in use.\n")
