"""A model's place: what is planned for it, and weights that do not all fit there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lrqk_cli.config import WeightChoice
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.memory.budget import Budget
from lrqk_cli.models.catalog import find
from lrqk_cli.models.describe import describe, describe_shape
from lrqk_cli.models.placement import Placement, find_placement, limit_vram

GIB = 1 << 30
SPEC = describe_shape("llama-3.1-8b").with_weights("bf16", on_gpu=True)


def test_weights_that_are_spread_leave_half_of_the_device_to_rows() -> None:
    whole = Placement(SPEC, torch.device("cuda", 0), torch.bfloat16, Budget(8 * GIB, 64 * GIB))
    with pytest.raises(OutOfMemoryError, match="device memory"):
        whole.plan(32768, {})
    spread = whole.with_spread_weights()
    assert spread.weight_share is not None
    layer = 2 * SPEC.num_parameters // SPEC.num_layers
    assert spread.plan(32768, {}).estimate.total + spread.weight_share + layer <= 8 * GIB
    assert spread.longest_context(131072, {}) > 32768


def test_a_cpu_has_nothing_to_spread_and_nothing_to_hold() -> None:
    place = find_placement(describe_shape("llama-3.2-1b"), "cpu", "float32")
    assert (place.dtype_name, place.budget.vram) == ("float32", None)
    assert place.with_spread_weights() is place
    with limit_vram(place.device, 4 * GIB):
        torch.empty(1)


@pytest.mark.parametrize(("weights", "form"), [("auto", None), ("bf16", None), ("q8", "q8"), ("q4", "q4")])
def test_weights_of_a_checkpoint_get_the_form_that_was_asked_for(weights: WeightChoice, form: str) -> None:
    described = describe_shape("llama-3.1-8b")
    spec = described.with_weights(weights, on_gpu=True)
    assert (spec.packed and spec.packed.form) == form
    assert bool(spec.forms) is (weights == "auto")
    if form:
        with pytest.raises(UsageError, match="needs a CUDA GPU"):
            described.with_weights(weights, on_gpu=False)
    else:
        assert described.with_weights(weights, on_gpu=False).forms == ()


def test_weights_of_a_gguf_file_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file that is there would be read instead of the catalog.
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path))
    described = describe("smollm2-135m")
    assert described.with_weights("auto", on_gpu=True).packed == find("smollm2-135m").weights
    for on_gpu in (True, False):
        assert described.with_weights("bf16", on_gpu=on_gpu).packed is None
    assert described.with_weights("auto", on_gpu=False).packed is None
    with pytest.raises(UsageError, match="packed already"):
        described.with_weights("q4", on_gpu=True)


def test_spread_weights_are_plain_numbers() -> None:
    spec = describe("qwen2.5-coder-0.5b").with_weights("auto", on_gpu=True)
    whole = Placement(spec, torch.device("cuda", 0), torch.bfloat16, Budget(4 * GIB, 64 * GIB))
    assert whole.plan(4096, {}).form == "gguf"
    assert whole.with_spread_weights().plan(4096, {}).form is None
