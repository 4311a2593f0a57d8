"""GGUF files of a repository, from a hub that runs here, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from lrqk_cli.errors import ModelError
from lrqk_cli.models import catalog, store
from lrqk_cli.models.catalog import CatalogEntry, HubRepository
from lrqk_cli.models.failures import hub_errors
from lrqk_cli.models.hub_gguf import HubFile, _chosen, cached, fetch_tagged
from lrqk_cli.models.progress import ignore_progress
from lrqk_cli.models.resolving import resolve

REPOSITORY = "owner/tiny-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Run = Callable[..., subprocess.CompletedProcess[str]]


class Hub(ThreadingHTTPServer):
    """Serves files of one repository; ``breaks_at`` ends the next download after so many bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.breaks_at: int | None = None
        self.sent: list[tuple[str, int]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.server.files.items()
            ]
            content = json.dumps(listed).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        name = self.path.partition("/resolve/")[2].partition("/")[2]
        if name not in self.server.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.server.sent.append((name, start))
            end, self.server.breaks_at = self.server.breaks_at, None
            self.wfile.write(content[start:end])
            self.close_connection = True


@pytest.fixture
def hub(tmp_path: Path, quantised_gguf: Callable[[str], Path]) -> Iterator[Hub]:
    with Hub() as server:
        for kind in ("Q8_0", "Q4_0"):
            server.files[f"tiny-{kind}.gguf"] = quantised_gguf(kind).read_bytes()
        server.files["mmproj-tiny-Q8_0.gguf"] = b"pictures"
        server.files["big-Q5_0-00001-of-00002.gguf"] = b"half"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Run lrqk in a process of its own, which knows no other hub."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "LRQK_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run_process(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lrqk_cli", *arguments]
        return subprocess.run(
            command, env={**environment, **changes}, capture_output=True, text=True, timeout=120, check=False
        )

    return run_process


def test_a_file_of_a_repository_is_pulled_and_chats_without_a_network(run: Run, hub: Hub) -> None:
    model = f"{REPOSITORY}:q8_0"
    missing = run("info", "--model", model)
    assert missing.returncode == 4
    assert f"lrqk models pull {model}" in missing.stderr
    pulled = run("models", "pull", model)
    assert pulled.returncode == 0, pulled.stderr
    file = Path(pulled.stdout.strip())
    assert file.name == "tiny-Q8_0.gguf"
    assert file.read_bytes() == hub.files["tiny-Q8_0.gguf"]
    assert [name for name, _ in hub.sent] == ["tiny-Q8_0.gguf"]
    assert run("models", "path", model, HF_HUB_OFFLINE="1").stdout == pulled.stdout
    answer = run(
        "chat", "--model", model, "--prompt", "Hi", "--max-new-tokens", "4", "--json", HF_HUB_OFFLINE="1"
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["new_tokens"] >= 1
    assert len(hub.sent) == 1


def test_a_pull_that_was_cut_off_goes_on(run: Run, hub: Hub) -> None:
    # The client writes ten megabytes at a time.
    hub.files["tiny-Q4_0.gguf"] += bytes(25 << 20)
    hub.breaks_at = 15 << 20
    first = run("models", "pull", f"{REPOSITORY}:Q4_0")
    # The hub's client may go on by itself; else the next run does.
    second = run("models", "pull", f"{REPOSITORY}:Q4_0") if first.returncode else first
    assert second.returncode == 0, second.stderr
    first_start, second_start = [start for _, start in hub.sent]
    assert first_start < second_start <= 15 << 20
    assert Path(second.stdout.strip()).read_bytes() == hub.files["tiny-Q4_0.gguf"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TypeError("string indices must be integers"), "what answers is not Hugging Face"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "what answers is not Hugging Face"),
        (OSError("Consistency check failed: file should be of size 9."), "should be of size 9"),
    ],
)
def test_what_answers_in_place_of_the_hub_is_told(error: Exception, reason: str) -> None:
    with pytest.raises(ModelError, match=reason), hub_errors(REPOSITORY):
        raise error


def test_without_a_network_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(url: str) -> None:
        asked.append(url)
        raise ConnectionError("There is no network.")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", fail)
    monkeypatch.delattr("huggingface_hub.HfApi.list_repo_tree")
    with pytest.raises(ModelError, match="There is no network"):
        fetch_tagged(HubFile(REPOSITORY, "Q8_0"), ignore_progress)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("tag", "message"),
    [("Q5_0", "in several parts"), ("Q6_K", "has no GGUF file of the kind Q6_K"), ("Q8", "of the kind Q8")],
)
def test_a_tag_that_names_no_whole_file_is_refused(tag: str, message: str, run: Run, hub: Hub) -> None:
    result = run("models", "pull", f"{REPOSITORY}:{tag}")
    assert result.returncode == 4
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not hub.sent


def test_a_file_that_cannot_fit_is_not_fetched(run: Run, hub: Hub) -> None:
    hub.files["tiny-Q8_0.gguf"] += bytes(2 << 20)
    result = run(
        "chat", "--model", f"{REPOSITORY}:Q8_0", "--prompt", "Hi", "--ram", "1MiB", "--device", "cpu"
    )
    assert result.returncode == 5
    assert "take 0.0 GiB" in result.stderr
    assert not hub.sent


@pytest.mark.parametrize(
    ("tag", "chosen"),
    [
        ("Q4_K_M", "M-Q4_K_M.gguf"),
        ("q4_k_m", "M-Q4_K_M.gguf"),
        ("Q4_K_XL", "UD/M-UD-Q4_K_XL.gguf"),
        ("UD-Q4_K_XL", "UD/M-UD-Q4_K_XL.gguf"),
        ("M-Q8_0", "M-Q8_0.gguf"),
    ],
)
def test_a_tag_is_a_whole_part_of_a_name(tag: str, chosen: str) -> None:
    names = [
        "M-Q4_K_M.gguf",
        "M-Q4_K_S.gguf",
        "M-UD-Q4_K_M.gguf",
        "UD/M-UD-Q4_K_XL.gguf",
        "M-Q8_0.gguf",
        "mmproj-Q8_0.gguf",
    ]
    assert _chosen(HubFile("a/b", tag), names) == chosen


@pytest.mark.parametrize(
    ("name", "tag", "is_it"),
    [
        ("M-Q4_K_M.gguf", "q4_k_m", True),
        ("M.Q4_K_M.gguf", "Q4_K_M", True),
        ("M-UD-Q4_K_M.gguf", "Q4_K_M", False),
        ("M-UD-Q4_K_M.gguf", "UD-Q4_K_M", True),
        ("M-mmproj-F16.gguf", "F16", False),
        ("M-Q4_K_M-00001-of-00002.gguf", "Q4_K_M", False),
    ],
)
def test_only_the_file_that_a_tag_names_counts_as_here(
    name: str, tag: str, is_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert cached(HubFile("a/b", tag)) == (tmp_path / name if is_it else None)


@pytest.mark.parametrize("name", ["a/b:Q4_K_M", "hf.co/a/b:Q4_K_M", "huggingface.co/a/b:Q4_K_M"])
def test_a_tag_behind_an_id_names_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = resolve(name)
    assert (source.kind, source.file, source.is_gguf) == ("hub-gguf", HubFile("a/b", "Q4_K_M"), True)


def entry_of(file: str, sha256: str = "") -> CatalogEntry:
    return CatalogEntry(
        "tiny", "Tiny", "MIT", 64, 1000, sha256=sha256, huggingface=HubRepository(REPOSITORY, file=file)
    )


def test_the_first_pull_pins_a_file_of_the_catalog(
    tmp_path: Path, tiny_gguf: Path, tiny_llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))

    def download(_: str, name: str, *, local_dir: Path, **__: object) -> str:
        (local_dir / name).write_bytes(content)
        return str(local_dir / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    entry = entry_of("tiny.gguf")
    monkeypatch.setattr(catalog, "find", lambda _: entry)
    content = tiny_gguf.read_bytes()
    folder = store.pull(entry)
    assert (folder / "model.gguf").read_bytes() == content
    assert store.path("tiny") == folder
    pin = tmp_path / "cache" / "pins" / "tiny"
    assert pin.read_text().strip() == hashlib.sha256(content).hexdigest()
    store.remove("tiny")
    content = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(ModelError, match="is not the model: its SHA-256 is"):
        store.pull(entry)
    assert store.path("tiny") is None
    pin.unlink()
    store.pull(entry)
    store.remove("tiny")
    with pytest.raises(ModelError, match="is not the model"):
        store.pull(entry_of("tiny.gguf", sha256="0" * 64))
