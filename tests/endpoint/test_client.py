"""What a server answers, and how it fails, over a real socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

import pytest
from local_http import serving
from scripted_server import STOP, WAIT, ScriptedServer

from lrqk_cli.endpoint import client
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.failures import EndpointError
from lrqk_cli.endpoint.protocol import Chunk, ServedModel, TokenUsage
from lrqk_cli.errors import ContextLengthError, LrqkError, UsageError

pytestmark = pytest.mark.short


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().running() as running:
        yield running


def answer_of(server: ScriptedServer) -> list[Chunk]:
    return list(EndpointClient(server.url, "mine").stream({"model": "small"}, lambda: False))


def test_models_are_listed_with_the_context_that_each_engine_names(server: ScriptedServer) -> None:
    server.models = {
        "data": [
            {"id": "a", "max_model_len": 8192, "owned_by": "vllm"},
            {"id": "b", "context_length": 4096, "owned_by": "lrqk"},
            {"id": "c", "max_model_len": "long"},
            {"id": "d", "meta": {"n_ctx": 6144, "n_ctx_train": 8192}},
            {"name": "no id"},
        ]
    }
    client = EndpointClient(server.url.removesuffix("/v1"), "mine")
    assert client.models() == [
        ServedModel("a", 8192, False),
        ServedModel("b", 4096, True),
        ServedModel("c", None, False),
        ServedModel("d", 6144, False),
    ]
    assert server.keys == ["Bearer mine"]


def test_a_stream_is_read_to_its_end_with_its_usage(server: ScriptedServer) -> None:
    usage = {
        "prompt_tokens": 50,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": None,
    }
    server.answers = [
        [
            {"choices": [{"delta": {"role": "assistant", "content": None, "reasoning": "Hm."}}]},
            "Yes.",
            STOP,
            {"choices": [], "usage": usage},
            "[DONE]",
            "never read",
        ]
    ]
    chunks = answer_of(server)
    assert [(chunk.text, chunk.reasoning, chunk.end) for chunk in chunks] == [
        ("", "Hm.", None),
        ("Yes.", "", None),
        ("", "", "stop"),
        ("", "", None),
    ]
    assert chunks[-1].usage == TokenUsage(50, 40, 9, 0)
    assert server.asked == [{"model": "small", "stream": True, "stream_options": {"include_usage": True}}]


def test_whoever_stops_closes_the_connection(server: ScriptedServer) -> None:
    server.answers = [["Ye", WAIT]]
    seen = list[str]()
    for chunk in EndpointClient(server.url).stream({}, lambda: bool(seen)):
        seen.append(chunk.text)
    assert seen == ["Ye"]
    assert server.left.wait(10)


_CONTEXT = {
    "message": "This model's maximum context length is 8 tokens",
    "type": "BadRequestError",
    "code": 400,
}


@pytest.mark.parametrize(
    ("status", "error", "kind", "words"),
    [
        (401, {"message": "No."}, EndpointError, "refuses the key"),
        (404, {"message": "The model `x` does not exist."}, EndpointError, "The model `x` does not exist."),
        (429, {"message": "Busy"}, EndpointError, "too much to do: Busy. Ask again in 7 seconds."),
        (503, {"message": "It loads."}, EndpointError, "failed: It loads."),
        (500, None, EndpointError, "with the status 500"),
        (400, _CONTEXT, ContextLengthError, "maximum context length is 8 tokens."),
        (400, {"message": "Long.", "code": "context_length_exceeded"}, ContextLengthError, "Long."),
        (400, {"message": "Long.", "type": "exceed_context_size_error"}, ContextLengthError, "Long."),
        (413, None, ContextLengthError, "no request of this size"),
        (422, {"message": "top_k is unknown"}, UsageError, "refuses the request: top_k is unknown."),
    ],
)
def test_a_refusal_is_a_sentence_and_a_hint(
    server: ScriptedServer, status: int, error: object, kind: type[LrqkError], words: str
) -> None:
    body = json.dumps({"error": error}) if error is not None else "<html>a proxy</html>"
    server.refusal = status, body, {"Retry-After": "7"}
    with pytest.raises(kind) as failure:
        answer_of(server)
    assert words in f"{failure.value.message} {failure.value.hint}"
    assert failure.value.hint
    assert "<html>" not in failure.value.message


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        (["Ye"], EndpointError, "broke before the answer ended"),
        (["Ye", {"error": {"message": "Out of memory", "code": 500}}], EndpointError, "Out of memory."),
        ([{"error": {"message": "No.", "type": "invalid_request_error"}}], UsageError, "No."),
        ([{"error": {"message": "x", "code": "context_length_exceeded"}}], ContextLengthError, "x."),
    ],
)
def test_a_stream_that_fails_is_no_answer(
    server: ScriptedServer, pieces: list[object], kind: type[LrqkError], words: str
) -> None:
    server.answers = [pieces]  # type: ignore[list-item]
    with pytest.raises(kind, match=words):
        answer_of(server)


def test_a_server_that_is_not_there_or_another_one_is_named(server: ScriptedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for ask in (EndpointClient.models, lambda client: list(client.stream({}, lambda: False))):
        with pytest.raises(EndpointError, match="the connection is refused"):
            ask(EndpointClient(f"http://127.0.0.1:{port}"))
    server.models = ["no", "list"]
    with pytest.raises(EndpointError, match="does not speak the OpenAI protocol"):
        EndpointClient(server.url).models()


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host", "http://", "http://[::1", "http://host:99999", "http://host?x=1", ""],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        EndpointClient(url)


def test_a_key_in_the_address_is_refused() -> None:
    with pytest.raises(UsageError, match="could see a key"):
        EndpointClient("http://me:secret@host/v1")
    assert EndpointClient(" https://host/openai/ ").url == "https://host/openai"


def test_a_list_of_models_that_has_no_end_is_left(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_MOST_BYTES", 100)
    server.models = {"data": [{"id": "x" * 200_000}]}
    with pytest.raises(EndpointError, match="does not speak"):
        EndpointClient(server.url).models()


def test_a_server_that_sends_byte_after_byte_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dripping(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            with suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"H")
                    time.sleep(0.02)

    monkeypatch.setattr(client, "_LIST_S", 0.2)
    with serving(Dripping, waits=False) as port:
        began = time.monotonic()
        with pytest.raises(EndpointError, match="does not answer"):
            EndpointClient(f"http://127.0.0.1:{port}").models()
        assert time.monotonic() - began < 3
