"""What RoPE does to later keys, compared with what models give; and sums that are foretold by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, random_tokens, tiny_model
from transformers import DynamicCache, PreTrainedModel

from lrqk_cli.attention.factors import GramAccumulator, Moments
from lrqk_cli.attention.hook import attention_modules
from lrqk_cli.attention.rotation import Growth, Rotation, growth
from lrqk_cli.config import LrqkConfig
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.upstream import cache_argument

DISTANCE = 37
WITHOUT_ROPE = ("granite-hybrid", "nemotron-h")
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 64},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
}


def rotation_of(model: PreTrainedModel, *distances: int) -> Rotation:
    return Rotation(model, spec_from_config(model.config, "tiny"), attention_modules(model), distances)


@torch.no_grad()
def keys_from(model: PreTrainedModel, position: int) -> dict[int, torch.Tensor]:
    """Return the keys ``[KV, 8, d]`` of each layer that keeps some, of eight tokens from a position on."""
    cache = DynamicCache(config=model.config)
    positions = torch.arange(position, position + 8).unsqueeze(0)
    model(random_tokens(8).unsqueeze(0), position_ids=positions, **{cache_argument(): cache})
    layers = enumerate(cache.layers)
    return {number: layer.keys[0] for number, layer in layers if getattr(layer, "keys", None) is not None}


def assert_turns(model: PreTrainedModel, *, is_turned: bool = True) -> None:
    # Attention depends on distances alone, so that later layers see the same states at both positions.
    rotation = rotation_of(model, DISTANCE)
    at_first, at_last = keys_from(model, 0), keys_from(model, DISTANCE)
    for layer, first in at_first.items():
        turn, later = rotation.turn(layer, DISTANCE), at_last[layer]
        assert turn is not None
        torch.testing.assert_close((first.double() @ turn).float(), later, rtol=1e-4, atol=1e-4)
        assert torch.allclose(first, later, atol=1e-2) is not is_turned


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_is_turned_as_the_model_turns_it(family: str) -> None:
    model = tiny_model(family)
    if spec_from_config(model.config, family).is_latent:
        assert rotation_of(model, DISTANCE).turn(0, DISTANCE) is None
    else:
        assert_turns(model, is_turned=family not in WITHOUT_ROPE)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_scaling_of_rope_is_followed(scaling: str) -> None:
    rope = {**SCALINGS[scaling], "rope_theta": 10000.0}
    assert_turns(tiny_model("llama", rope_parameters=rope))


def test_dimensions_that_are_not_rotated_stay() -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    model = tiny_model("phi3", rope_parameters=rope, head_dim=8)
    assert_turns(model)
    turn = rotation_of(model, DISTANCE).turn(0, DISTANCE)
    assert turn is not None
    torch.testing.assert_close(turn[4:, 4:], torch.eye(4, dtype=torch.float64))


def test_no_turn_is_made_up_where_angles_depend_on_the_length() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = tiny_model("llama", rope_parameters=rope)
    rotation = rotation_of(model, DISTANCE)
    assert rotation.turn(0, DISTANCE) is None
    assert growth(rotation, 0, DISTANCE, DISTANCE) is None


def test_what_is_to_come_is_told_in_segments() -> None:
    rotation = rotation_of(tiny_model("llama"), 10, 20)
    coming = growth(rotation, 0, 15, 10)
    assert coming is not None
    assert coming.shares == (1.0, 0.5)
    for turn, distance in zip(coming.turns, (10, 20), strict=True):
        expected = rotation.turn(0, distance)
        assert expected is not None
        assert torch.equal(turn, expected)


def test_sums_of_a_text_that_goes_on_as_it_was_are_foretold() -> None:
    """A text whose segments repeat: keys and queries of each are those of the one before, turned."""
    model = tiny_model("llama")
    spec = spec_from_config(model.config, "tiny")
    segment, segments = 16, 4
    turn = rotation_of(model, segment).turn(0, segment)
    assert turn is not None
    random = torch.Generator().manual_seed(1)
    heads, group, width = spec.num_kv_heads, spec.num_heads // spec.num_kv_heads, spec.head_dim
    query = torch.randn(heads, group, segment, width, generator=random, dtype=torch.float64) + 1.0
    key = torch.randn(heads, segment, width, generator=random, dtype=torch.float64) + 3.0
    grams = GramAccumulator(spec, LrqkConfig(), torch.device("cpu"))
    sums: list[Moments] = [grams.moments()]
    for _ in range(segments):
        grams.add(query.float(), key.float(), key.float())
        sums.append(grams.moments())
        query, key = query @ turn, key @ turn
    turns = (turn, turn @ turn)
    foretold = sums[2].grown(sums[1], Growth(2 * segment, segment, (1.0, 1.0), turns))
    for name in ("query", "key", "key_sum", "mean", "centred_key"):
        torch.testing.assert_close(getattr(foretold, name), getattr(sums[4], name), rtol=1e-4, atol=1e-2)
    assert foretold.count == 4 * segment
    # What is not turned is something else: this test can fail.
    still = torch.eye(width, dtype=torch.float64)
    stale = sums[2].grown(sums[1], Growth(2 * segment, segment, (1.0, 1.0), (still, still)))
    assert (stale.key - sums[4].key).norm() > 100 * (foretold.key - sums[4].key).norm()


def test_moments_are_those_of_all_keys() -> None:
    spec = spec_from_config(tiny_model("llama").config, "tiny")
    random = torch.Generator().manual_seed(2)
    heads, group, width = spec.num_kv_heads, spec.num_heads // spec.num_kv_heads, spec.head_dim
    query = torch.randn(heads, group, 50, width, generator=random) - 2.0
    key = torch.randn(heads, 50, width, generator=random) + 5.0
    grams = GramAccumulator(spec, LrqkConfig(), torch.device("cpu"))
    for part in (slice(0, 20), slice(20, 50)):
        grams.add(query[:, :, part], key[:, part], key[:, part])
    moments, exact = grams.moments(), key.double()
    torch.testing.assert_close(moments.mean, exact.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.key, exact.mT @ exact, rtol=1e-5, atol=1e-3)
    centred = exact - exact.mean(1, keepdim=True)
    torch.testing.assert_close(moments.centred_key, centred.mT @ centred, rtol=1e-4, atol=1e-2)
    flat = query.double().flatten(1, 2)
    torch.testing.assert_close(moments.query, flat.mT @ flat, rtol=1e-5, atol=1e-3)
