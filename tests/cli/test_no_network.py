"""A Hugging Face id where the hub cannot be reached."""

from __future__ import annotations

import socket
import threading

import pytest


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A hub that hangs up on everyone; the list grows with each call."""
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                calls.append(address)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield calls
        # Wakes the thread.
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("arguments", [("chat", "--prompt", "x"), ("info",)], ids=["chat", "info"])
def test_one_sentence_and_one_hint_after_one_attempt(run_process, silent_hub, arguments):
    result = run_process(*arguments, "--model", "org/name")
    assert result.code == 4
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["Error:", "Hint:"]
    assert lines[0].startswith("Error: The model 'org/name' could not be fetched: ")
    # The HTTP client may connect anew; the hub's own retries would be many more, and take half a minute.
    assert 1 <= len(silent_hub) <= 2
