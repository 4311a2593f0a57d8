"""Where memory runs out, the exit code is 5."""

from __future__ import annotations

import pytest
import torch
import transformers

from lrqk_cli.cli import info

CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(CPU), OSError(12, "Cannot allocate memory")])
def test_while_weights_are_loaded(run, tiny_model, monkeypatch, error: Exception):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", fail)
    result = run("chat", "--model", tiny_model, "--prompt", "x")
    assert result.code == 5
    assert "This machine has not enough free memory" in result.err


@pytest.mark.parametrize("attention", ["lrqk", "dense", "offload"])
def test_while_the_text_is_read(run, tiny_model, monkeypatch, attention: str):
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("lrqk_cli.engine.prefill.forward", fail)
    result = run("chat", "--model", tiny_model, "--prompt", "x", "--attention", attention)
    assert result.code == 5
    assert "The device has not enough free memory" in result.err


def test_anywhere_else(run, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(info, "_machine", fail)
    result = run("info")
    assert result.code == 5
    assert "Unexpected" not in result.err
