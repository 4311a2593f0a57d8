"""A model's place: what is planned for it, and weights that do not all fit there."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.budget import Budget
from lrqk_cli.models.describe import describe_shape
from lrqk_cli.models.placement import Placement, find_placement, held_to

GIB = 1 << 30
SPEC = describe_shape("llama-3.1-8b").spec


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
    with held_to(place.device, 4 * GIB):
        torch.empty(1)
