"""The routes, over an engine that answers with given characters."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from fake_chat import MARKS, FakeEngine, FakePlain, FakePrompt, new_session
from fake_vocabulary import FakeVocabulary
from fastapi.testclient import TestClient

from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.server.app import create_app
from lrqk_cli.server.service import Service
from lrqk_cli.server.uploads import UploadedFiles
from lrqk_cli.server.worker import EngineWorker

pytestmark = pytest.mark.short

Make = Callable[..., TestClient]
TEXT = {"type": "text", "text": "x"}


class SlowEngine(FakeEngine):
    """Waits at every token until it may go on; remembers its questions."""

    go_on = threading.Event()
    questions: ClassVar[list[str]] = []

    def generate(self, generation: Any, stop_ids: Any, *demands: Any) -> Iterator[Any]:
        self.questions.append(self.text)
        for step in super().generate(generation, stop_ids, *demands):
            assert self.go_on.wait(20)
            yield step


class Reported(list[str]):
    """The tracebacks that a server has reported."""


@pytest.fixture
def reported() -> Reported:
    return Reported()


@pytest.fixture
def make(reported: Reported) -> Iterator[Make]:
    made_ones: list[tuple[TestClient, EngineWorker]] = []

    def made(
        engine: FakeEngine | None = None, limit: int = 8, prompt: FakePrompt | None = None, **changes: Any
    ) -> TestClient:
        session = new_session(engine or FakeEngine(), prompt=prompt)
        worker = EngineWorker(session, limit, FakePlain(), reported.append)
        files = UploadedFiles(ReadLimits(), 10)
        service = Service("tiny", session.engine.context, worker, files, FakeVocabulary())
        client = TestClient(create_app(replace(service, **changes)), base_url="http://localhost")
        made_ones.append((client.__enter__(), worker))
        return client

    yield made
    for client, worker in made_ones:
        client.__exit__(None, None, None)
        worker.close()


def asking(*messages: Any, **options: Any) -> dict[str, Any]:
    turns = [
        {"role": "assistant" if number % 2 else "user", "content": content}
        for number, content in enumerate(messages)
    ]
    return {"model": "tiny", "messages": turns, **options}


def ask(client: TestClient, *messages: Any, key: str | None = None, **options: Any) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = client.post("/v1/chat/completions", json=asking(*messages, **options), headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_second_question_reads_only_itself(make: Make) -> None:
    engine = FakeEngine()
    client = make(engine)
    first = ask(client, "Why is it so?")
    assert first["choices"][0]["message"]["content"] == "Yes."
    assert first["choices"][0]["finish_reason"] == "stop"
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    second = ask(client, "Why is it so?", "Yes.", "And?")
    assert engine.text.startswith("<Why is it so?>Yes.|And?>Yes")
    usage = second["usage"]
    assert usage["prompt_tokens"] == len("<Why is it so?>Yes.|And?>")
    # The newest token of an answer has not been read when the next question comes.
    assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] <= len(".|And?>")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (engine.resets, engine.rewinds) == (0, 0)
    # The same question again takes only the last turn back.
    ask(client, "Why is it so?", "Yes.", "Or?")
    assert (engine.resets, engine.rewinds) == (0, 1)


def test_a_text_is_gone_on_with_without_a_chat_format(make: Make) -> None:
    engine = FakeEngine(answer="and on.$")
    client = make(engine)
    ask(client, "A?")
    for prompt in ("Once <upon", ["Once <upon"]):
        asked = {"model": "tiny", "prompt": prompt, "stop": "n."}
        found = client.post("/v1/completions", json=asked).json()
        assert engine.text.startswith("Once <uponand")
        assert found["object"] == "text_completion"
        assert found["choices"][0] == {"index": 0, "text": "and o", "logprobs": None, "finish_reason": "stop"}
    lines = client.post("/v1/completions", json={**asked, "stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "and o"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    # A conversation after it is one again.
    ask(client, "A?")
    assert engine.text.startswith("<A?>and")
    for wrong in ({"prompt": ["a", "b"]}, {"prompt": ""}, {"prompt": "a", "echo": True}):
        assert client.post("/v1/completions", json={"model": "tiny", **wrong}).status_code == 400


def stream(client: TestClient, *messages: Any, **options: Any) -> tuple[str, list[dict[str, Any]], list[str]]:
    """Return the text, the chunks and the comments of a streamed answer."""
    answer = client.post("/v1/chat/completions", json=asking(*messages, stream=True, **options))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event for event in answer.text.split("\n\n") if event]
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1] if event.startswith("data")]
    comments = [event for event in events if event.startswith(":")]
    deltas = (choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"])
    return "".join(filter(None, deltas)), chunks, comments


def test_a_stream_is_the_same_answer_with_the_progress_of_reading(make: Make) -> None:
    client = make(FakeEngine(answer="A long answer.$"))
    question = "What do you say to a question of several segments?"
    text, chunks, comments = stream(client, question, stream_options={"include_usage": True})
    assert text == "A long answer."
    assert comments[0] == f": read 0 of {len(question) + 2} tokens"
    assert comments[-1] == f": read {len(question) + 2} of {len(question) + 2} tokens"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(text)
    assert len({chunk["id"] for chunk in chunks}) == 1
    text, chunks, _ = stream(client, question)
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[-1]["lrqk"]["ttft_s"] > 0


def test_an_answer_ends_at_a_stop_text_or_a_limit(make: Make) -> None:
    client = make(FakeEngine(answer="One, two, three.$"))
    ended = ask(client, "Count.", stop=[" three", "two"])
    assert ended["choices"][0]["message"]["content"] == "One, "
    assert ended["choices"][0]["finish_reason"] == "stop"
    cut = ask(client, "Count.", max_completion_tokens=4)
    assert cut["choices"][0]["message"]["content"] == "One,"
    assert cut["choices"][0]["finish_reason"] == "length"


def test_reasoning_comes_apart_and_stays_out_of_later_turns(make: Make) -> None:
    engine = FakeEngine(answer="{Hm, well.}Yes.$")
    client = make(engine, prompt=FakePrompt(marks=MARKS))
    answer = ask(client, "Why?", reasoning_effort="high")
    assert answer["choices"][0]["message"]["content"] == "Yes."
    assert answer["choices"][0]["message"]["reasoning_content"] == "Hm, well."
    details = answer["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == answer["usage"]["completion_tokens"] - len("Yes.") > 0
    engine.said = 0
    text, chunks, _ = stream(client, "Why?", "Yes.", "And?", reasoning_effort="high")
    assert text == "Yes."
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm, well."
    # The newest turn is read with the next one, in the form of an earlier turn.
    assert engine.text == "<Why?=Yes."
    refused = make().post("/v1/chat/completions", json=asking("Why?", reasoning_effort="low"))
    assert (refused.status_code, "does not reason" in refused.text) == (400, True)


def test_documents_are_uploaded_once_and_named_as_sources(make: Make) -> None:
    engine = FakeEngine(looks_at="blue")
    client = make(engine)
    sent = client.post(
        "/v1/files", files={"file": ("notes.txt", b"The sky is blue.")}, data={"purpose": "user_data"}
    )
    assert sent.status_code == 200
    file = sent.json()
    assert client.get("/v1/files").json()["data"] == [file]
    assert client.get(f"/v1/files/{file['id']}").json()["filename"] == "notes.txt"
    content = [{"type": "file", "file": {"file_id": file["id"]}}, {"type": "text", "text": "What colour?"}]
    answer = ask(client, content, lrqk={"sources": True})
    assert "The sky is blue." in engine.text
    (source,) = answer["lrqk"]["sources"]
    assert (source["document"], source["page"]) == ("notes.txt", None)
    assert ask(client, content)["lrqk"]["sources"] is None
    assert client.delete(f"/v1/files/{file['id']}").json()["deleted"]
    refused = client.post("/v1/chat/completions", json=asking(content))
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "file_not_found")


def test_a_stranger_gets_nothing_and_one_key_sees_nothing_of_another(make: Make) -> None:
    client = make(keys=("first", "second"))
    for path in ("/v1/models", "/v1/files", "/metrics", "/openapi.json", "/nowhere"):
        for headers in ({}, {"Authorization": "Bearer third"}, {"Authorization": "first"}):
            answer = client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert client.get("/health").json() == {"status": "ok", "waiting": 0}
    mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("first", "second"))
    file = client.post("/v1/files", files={"file": ("a.txt", b"mine")}, headers=mine).json()
    assert client.get("/v1/files", headers=yours).json()["data"] == []
    assert client.get(f"/v1/files/{file['id']}", headers=yours).status_code == 404
    assert client.get(f"/v1/files/{file['id']}", headers=mine).status_code == 200
    assert ask(client, "Why?", key="second")["choices"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (asking("x") | {"model": "other"}, 404, "'tiny' only"),
        (asking("x", n=2), 400, "n:"),
        (asking("x", logit_bias={"5": 1}), 400, "logit_bias"),
        (asking("x", tools=[{}]), 400, "tools: This is not supported, only an empty list is."),
        (asking("x", frequency_penalty=1), 400, "frequency_penalty: This is not supported, only 0 is."),
        (asking("x", logit_bias={"1": 5}), 400, "logit_bias: This field is not supported."),
        (asking("x", temperature=-1), 400, "temperature"),
        (asking("x", temperature=float("1e400")), 400, "temperature"),
        (asking("x", temperature=True), 400, "temperature: Input should be a valid number"),
        (asking("x", n=True), 400, "n: Input should be a valid integer"),
        (asking("x", frequency_penalty=False), 400, "frequency_penalty"),
        (asking("x", repetition_penalty=1e-38), 400, "repetition_penalty: Input should be greater"),
        (asking("x", stop=["y", 1]), 400, "stop.1: Input should be a valid string."),
        (
            asking([{"type": "image_url", "image_url": {"url": "x"}}]),
            400,
            "content.0: The type 'image_url' is",
        ),
        (asking([{"text": "x"}]), 400, "messages.0.content.0: Field 'type' required."),
        (asking([{"type": "file", "file": {"file_id": 5}}]), 400, "messages.0.content.0.file.file_id: Input"),
        (
            asking([{"type": "file", "file": {"name": "x"}}]),
            400,
            "content.0.file.name: This field is not",
        ),
        (asking("x", max_tokens=5, max_completion_tokens=6), 400, "differ"),
        (asking("x", response_format={"type": "xml"}), 400, "response_format"),
        (asking("x", top_logprobs=2), 400, "needs logprobs"),
        (asking(), 400, "messages"),
        (asking("x", "y"), 400, "end with a question"),
        (asking("x" * 2000), 400, "holds 1,000. Leave out earlier questions or shorten this one, or raise"),
        ([], 400, "body"),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(make: Make, body: Any, status: int, word: str) -> None:
    client = make()
    content = json.dumps(body).encode()
    answer = client.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]
    assert ask(client, "Still there?")["choices"]


@pytest.mark.parametrize(
    "field",
    [
        {"model": "\ud800"},
        {"stop": "\ud800"},
        {"stop": ["\ud800"]},
        {"user": "\ud800"},
        {"safety_identifier": "\ud800"},
        {"metadata": {"\ud800": "x"}},
        {"metadata": {"x": "\ud800"}},
        {"\ud800": "x"},
        asking([{"type": "\ud800"}]),
        asking([{"type": "file", "file": {"file_id": "\ud800"}}]),
        asking([{"type": "file", "file": {"file_data": "YQ==", "filename": "\ud800.txt"}}, TEXT]),
        asking([{"type": "document", "title": "\ud800", "sections": []}, TEXT]),
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(make: Make, field: dict[str, Any]) -> None:
    client = make()
    content = json.dumps(asking("x") | field)  # with half of a pair as an escape sequence
    answer = client.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_broken_upload_is_refused_in_one_sentence(make: Make) -> None:
    for boundary in ("", "; boundary=a"):
        headers = {"Content-Type": f"multipart/form-data{boundary}"}
        answer = make().post("/v1/files", content=b"--", headers=headers)
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert message.endswith(".")
        assert ".." not in message


def test_a_failure_within_a_stream_is_an_event_of_it(make: Make, reported: Reported) -> None:
    failures: list[Exception] = []

    class Failing(FakeEngine):
        def generate(self, generation: Any, stop_ids: Any, *demands: Any) -> Iterator[Any]:
            yield from super().generate(generation, [], *demands)
            raise failures[-1]

    client = make(Failing(answer="Yes"))
    for failure, code, word in (
        (OutOfMemoryError("No memory.", "Ask for less."), "out_of_memory", "No memory. Ask for less."),
        (ValueError("secret"), None, "The engine failed"),
    ):
        failures.append(failure)
        answer = client.post("/v1/chat/completions", json=asking("Why?", stream=True))
        events = [event for event in answer.text.split("\n\n") if event.startswith("data: ")]
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["code"] == code
        assert word in error["message"]
        assert "secret" not in answer.text
    assert len(reported) == 1
    assert "ValueError: secret" in reported[0]
    assert client.post("/v1/chat/completions", json=asking("Why?")).status_code == 500


def test_a_stream_that_fails_before_it_begins_has_the_status_of_its_failure(make: Make) -> None:
    client = make()
    for body, status, code in (
        (asking("x" * 2000), 400, "context_length_exceeded"),
        (asking("x", reasoning_effort="high"), 400, None),
    ):
        answer = client.post("/v1/chat/completions", json={**body, "stream": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert not {"--max-new-tokens", "--think", "/undo"} & set(answer.json()["error"]["message"].split())
    text = {"model": "tiny", "prompt": "x" * 2000, "stream": True}
    assert client.post("/v1/completions", json=text).status_code == 400
    assert stream(client, "Still there?")[0] == "Yes."


def test_tokens_come_with_their_log_probabilities(make: Make) -> None:
    client = make(FakeEngine(answer="Yes, é.$"))
    choice = ask(client, "Why?", logprobs=True, top_logprobs=1)["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == choice["message"]["content"] == "Yes, é."
    best = {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]}
    assert content[5] == {**best, "top_logprobs": [best]}
    _, chunks, _ = stream(client, "Why?", logprobs=True, top_logprobs=1)
    parts = [choice for chunk in chunks for choice in chunk["choices"] if "logprobs" in choice]
    assert [entry for part in parts for entry in part["logprobs"]["content"]] == content
    assert all(part["logprobs"]["content"][0]["token"] == part["delta"]["content"] for part in parts)
    assert ask(client, "Why?")["choices"][0]["logprobs"] is None
    asked = {"model": "tiny", "prompt": "Once", "logprobs": 0}
    logprobs = client.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [*"Yes, é."]
    assert (logprobs["text_offset"], logprobs["top_logprobs"]) == ([*range(7)], [{}] * 7)


def test_too_much_is_refused_before_it_is_read(make: Make) -> None:
    client = make(max_body=1000)
    large = json.dumps(asking("x" * 1000)).encode()

    def pieces() -> Iterator[bytes]:
        yield from (large[start : start + 100] for start in range(0, len(large), 100))

    for content in (large, pieces()):
        answer = client.post(
            "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_page_with_a_name_of_its_own_reaches_nothing(make: Make) -> None:
    client = make(is_local=True)
    for host in ("localhost:8080", "LOCALHOST", "127.0.0.1:8080", "127.0.0.2", "[::1]:8080", "[::1]"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:8080", "localhost:80:80", "10.0.0.1", ""):
        refused = client.get("/v1/models", headers={"Host": host})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unknown_host")
    assert make().get("/v1/models", headers={"Host": "server.example"}).status_code == 200


@pytest.mark.parametrize("options", [{"is_local": True}, {"keys": ("mine",)}])
def test_a_page_of_another_origin_reaches_nothing(make: Make, options: dict[str, Any]) -> None:
    client = make(**options)
    client.headers |= {"Authorization": "Bearer mine", "Host": "localhost:8080"}

    def upload(**headers: str) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post("/v1/files", files={"file": ("a.txt", b"text")}, headers=given)

    for headers in (
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        refused = upload(**headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "foreign_origin"), headers
        for path in ("/v1/files", "/health", "/metrics", "/nowhere"):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            assert client.get(path, headers=given).status_code == 403
    assert client.get("/v1/files").json()["data"] == []
    own = "http://localhost:8080"
    for headers in ({}, {"Origin": own}, {"Origin": own, "Sec_Fetch_Site": "same-origin"}):
        assert upload(**headers).status_code == 200
    assert client.get("/v1/files", headers={"Sec-Fetch-Site": "none"}).status_code == 200


@pytest.fixture
def slow() -> Iterator[SlowEngine]:
    SlowEngine.go_on.clear()
    SlowEngine.questions.clear()
    yield SlowEngine(answer="Yes indeed.$")
    SlowEngine.go_on.set()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def waiting(client: TestClient) -> int:
    count: int = client.get("/health").json()["waiting"]
    return count


def go_on_once_one_waits(client: TestClient, slow: SlowEngine) -> None:
    """Let the engine answer, from another thread, as soon as a second question waits."""

    def run() -> None:
        until(lambda: waiting(client) == 1)
        slow.go_on.set()

    threading.Thread(target=run).start()


def test_owners_take_turns_and_a_full_queue_has_a_place_for_each(make: Make, slow: SlowEngine) -> None:
    client = make(slow, limit=3, keys=("many", "one"))
    threads = []
    for number, (key, name) in enumerate(
        [("many", "1"), ("many", "2"), ("many", "3"), ("many", "4"), ("one", "a")]
    ):
        threads.append(threading.Thread(target=ask, args=(client, name), kwargs={"key": key}))
        threads[-1].start()
        until(lambda number=number: slow.questions != [] and waiting(client) == number)  # type: ignore[misc]
    for key in ("many", "one"):
        refused = client.post(
            "/v1/chat/completions", json=asking("Why?"), headers={"Authorization": f"Bearer {key}"}
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    slow.go_on.set()
    for thread in threads:
        thread.join(20)
    # The first of each comes before the second of either.
    assert slow.questions == ["<1>", "<2>", "<a>", "<3>", "<4>"]


def test_a_stream_that_waits_says_how_many_are_answered_first(make: Make, slow: SlowEngine) -> None:
    client = make(slow)
    first = threading.Thread(target=ask, args=(client, "a"))
    first.start()
    until(lambda: slow.questions != [])
    go_on_once_one_waits(client, slow)
    text, chunks, _ = stream(client, "b", lrqk={"progress": True})
    assert text == "Yes indeed."
    assert [chunk["lrqk"] for chunk in chunks if "ahead" in chunk.get("lrqk", {})] == [{"ahead": 1}]
    first.join(20)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_the_queue_leaves_its_place(make: Make, slow: SlowEngine, streams: bool) -> None:
    client = make(slow, limit=1)
    first = threading.Thread(target=ask, args=(client, "First"))
    first.start()
    until(lambda: slow.questions != [])
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    body = json.dumps(asking("Second", stream=streams)).encode()
    events = iter([{"type": "http.request", "body": body}])

    async def receive() -> dict[str, Any]:
        return next(events, {"type": "http.disconnect"})

    async def send(_: Any) -> None:
        pass

    async def leave() -> None:
        await asyncio.wait_for(client.app(scope, receive, send), 20)  # type: ignore[arg-type, call-arg]

    asyncio.run(leave())
    assert waiting(client) == 0
    assert "lrqk_waiting_requests 0.0" in client.get("/metrics").text
    go_on_once_one_waits(client, slow)
    _, chunks, _ = stream(client, "Third", lrqk={"progress": True})
    assert chunks[1]["lrqk"] == {"ahead": 1}
    first.join(20)
    assert slow.questions == ["<First>", "<Third>"]


def test_questions_do_not_wait_for_uploads_of_the_same_key(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, go_on, read = make(), threading.Event(), UploadedFiles.add

    def held(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return read(*arguments)

    monkeypatch.setattr(UploadedFiles, "add", held)
    with ThreadPoolExecutor(7) as pool:
        files = [{"file": (f"{number}.txt", b"text")} for number in range(6)]
        sent = [pool.submit(client.post, "/v1/files", files=each) for each in files]
        try:
            time.sleep(0.5)
            assert pool.submit(ask, client, "Why?").result(20)["choices"]
        finally:
            go_on.set()
        assert [each.result(60).status_code for each in sent] == [200] * 6


class HeldVocabulary(FakeVocabulary):
    """Checks schemas until it may go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.checks = 0

    def constraint(self, schema: Any) -> Any:
        self.checks += 1
        assert self.go_on.wait(60)


def test_costly_preparations_keep_neither_cheap_routes_nor_other_keys_waiting(make: Make) -> None:
    vocabulary = HeldVocabulary()
    client = make(vocabulary=vocabulary, limit=64, keys=("many", "one"))
    one, costly = {"Authorization": "Bearer one"}, {"response_format": {"type": "json_object"}}

    def look() -> None:
        for path in ("/health", "/metrics", "/v1/models", "/v1/models/tiny", "/v1/files"):
            assert client.get(path, headers=one).status_code == 200
        assert client.get("/v1/files/none", headers=one).status_code == 404
        assert ask(client, "Why?", key="one")["choices"]

    with ThreadPoolExecutor(61) as pool:
        asked = [pool.submit(ask, client, "Why?", key="many", **costly) for _ in range(60)]
        try:
            until(lambda: vocabulary.checks > 0)
            time.sleep(0.5)
            pool.submit(look).result(20)
        finally:
            vocabulary.go_on.set()
        assert all(each.result(60)["choices"] for each in asked)


def test_a_server_that_ends_leaves_nobody_waiting(slow: SlowEngine) -> None:
    worker = EngineWorker(new_session(slow), 4, FakePlain(), print)
    service = Service("tiny", 1000, worker, UploadedFiles(ReadLimits(), 10), FakeVocabulary())
    ends: list[Any] = []
    with TestClient(create_app(service), base_url="http://localhost") as client:

        def post() -> None:
            answer = client.post("/v1/chat/completions", json=asking("Why?"))
            ends.append((answer.status_code, answer.json()["error"]["code"]))

        threads = [threading.Thread(target=post) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: slow.questions != [] and len(worker.queue) == 2)
        closing = threading.Thread(target=worker.close)
        closing.start()
        until(lambda: len(ends) == 2)
        slow.go_on.set()
        for thread in (*threads, closing):
            thread.join(20)
        assert ends == [(503, "closing")] * 3
        post()
        assert ends[-1] == (503, "closing")
        assert client.get("/health").status_code == 500


def test_a_document_that_is_too_long_is_refused_with_the_pages_that_fit(make: Make) -> None:
    sections = [{"text": "x" * 600, "page": page} for page in (1, 2, 3)]
    document = {"type": "document", "title": "a.pdf", "sections": sections}
    answer = make().post("/v1/chat/completions", json=asking([document, TEXT]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    said = answer.json()["error"]["message"]
    assert "Only page 1 of a.pdf would fit: try pages 1, or raise --ctx to" in said
    assert said.endswith(" Options are given when the server starts.")


def test_a_document_that_the_client_has_read_is_read_once_and_has_its_pages(make: Make) -> None:
    engine = FakeEngine(looks_at="two", segment=4)
    client = make(engine)
    sections = [{"text": "[", "page": None}, {"text": "one", "page": 1}, {"text": "two]", "page": 2}]
    document = {"type": "document", "title": "a.pdf", "sections": sections}
    for question in ("Why?", "Or?"):
        content = [document, {"type": "text", "text": question}]
        extension = {"sources": True, "progress": True}
        text, chunks, comments = stream(client, content, lrqk=extension)
        assert text == "Yes."
        assert comments == []
        details = chunks[-1]["lrqk"]
        (source,) = details["sources"]
        assert (source["document"], source["number"], source["page"]) == ("a.pdf", 0, 2)
        assert len(details["heat"]) == 1
        assert details["counters"]["rows_wanted"] > 0
    read = [chunk["lrqk"] for chunk in chunks if "read" in chunk.get("lrqk", {})]
    assert read[-1] == {"read": len("Or?>"), "total": len("Or?>")}
    assert engine.resets == 0


def test_metrics_count_tokens_and_ends(make: Make) -> None:
    client = make()
    ask(client, "Why?")
    ask(client, "Why?", "Yes.", "And?", max_tokens=2)
    text = client.get("/metrics").text
    assert 'lrqk_answers_total{end="stop"} 1.0' in text
    assert 'lrqk_answers_total{end="length"} 1.0' in text
    assert 'lrqk_tokens_total{kind="generated"} 6.0' in text
    assert "lrqk_waiting_requests 0.0" in text


@pytest.mark.parametrize("size", [1, 100_000])  # in memory as it arrives, and on the disk
def test_an_upload_that_the_disk_does_not_take_is_no_fault_of_the_client(
    make: Make, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    client, upload = make(), {"file": ("notes.txt", b"The sky is blue. " * size)}
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", "/proc/nonexistent")
        refused = client.post("/v1/files", files=upload, data={"purpose": "user_data"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_stored")
    assert "cannot take the upload: no such file" in refused.json()["error"]["message"]
    assert client.post("/v1/files", files=upload, data={"purpose": "user_data"}).status_code == 200


@pytest.mark.parametrize("letter", ["x", "漢", "😀"])
def test_a_long_name_keeps_its_ending(make: Make, letter: str) -> None:
    sent = make().post("/v1/files", files={"file": (f"{letter * 300}.txt", b"The sky is blue.")})
    assert sent.status_code == 200, sent.text
    name = sent.json()["filename"]
    assert name.endswith(f"{letter * 50}.txt")
    assert len(name.encode()) <= 255


def test_the_number_of_files_holds_for_uploads_at_the_same_time(make: Make) -> None:
    client = make()  # with room for ten

    def upload(number: int) -> int:
        file = (f"{number}.txt", f"Text {number}.".encode())
        return client.post("/v1/files", files={"file": file}).status_code

    assert [upload(0) for _ in range(9)] == [200] * 9
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(upload, range(1, 5))) == [200, 409, 409, 409]
    assert len(client.get("/v1/files").json()["data"]) == 10


def test_an_answer_that_is_too_long_for_the_context_is_to_be_shorter(make: Make) -> None:
    client = make()
    said = client.post("/v1/chat/completions", json=asking("x", max_tokens=5000)).json()["error"]["message"]
    assert "Lower max_tokens to 997, or raise --ctx to 5003. Options are given" in said
    ask(client, "x", max_tokens=997)
