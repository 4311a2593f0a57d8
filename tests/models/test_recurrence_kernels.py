"""Which code computes recurrences where a package with kernels for them is installed."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import random_tokens, tiny_model
from transformers.integrations import hub_kernels
from transformers.models.qwen3_5 import modeling_qwen3_5

from lrqk_cli.models import recurrence_kernels
from lrqk_cli.models.recurrence_kernels import keep_to_gpus, lacks_kernels
from lrqk_cli.models.support import spec_from_config


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose kernel stands in for transformers' code for segments, and computes nothing."""
    module = ModuleType("kernels_of_recurrences")
    vars(module)["rule"] = lambda *_: "kernel"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    plain: Any = modeling_qwen3_5.torch_chunk_gated_delta_rule
    replaced = hub_kernels.use_kernel_func_from_hub_with_fallback("rule", module.__name__)
    monkeypatch.setattr(modeling_qwen3_5, "torch_chunk_gated_delta_rule", replaced(plain.__wrapped__))


@pytest.mark.usefixtures("package")
@torch.no_grad()
def test_a_gpu_alone_runs_the_kernels_of_a_package() -> None:
    model = tiny_model("qwen3.5")
    with pytest.raises((TypeError, ValueError, AttributeError)):
        model(random_tokens(30).unsqueeze(0))
    spec_from_config(model.config, "tiny")
    model(random_tokens(30).unsqueeze(0))
    chosen: Any = modeling_qwen3_5.torch_chunk_gated_delta_rule
    assert chosen(torch.zeros(1).as_subclass(OnGpu)) == "kernel"
    keep_to_gpus(model)
    assert modeling_qwen3_5.torch_chunk_gated_delta_rule is chosen


@torch.no_grad()
def test_code_of_transformers_stays_as_it_is() -> None:
    before = modeling_qwen3_5.torch_chunk_gated_delta_rule
    keep_to_gpus(tiny_model("qwen3.5"))
    assert modeling_qwen3_5.torch_chunk_gated_delta_rule is before


def test_a_model_on_a_gpu_says_that_a_package_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence_kernels, "has_triton", lambda: True)
    hybrid, plain = tiny_model("qwen3.5"), tiny_model("llama")
    assert not lacks_kernels(hybrid)
    for model in (hybrid, plain):
        monkeypatch.setattr(model, "parameters", lambda: iter([torch.zeros(1).as_subclass(OnGpu)]))
    assert lacks_kernels(hybrid)
    assert not lacks_kernels(plain)
