"""``attach`` as transformers and its users call it."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tiny import random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli import LrqkConfig, attach
from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.errors import ContextLengthError, LrqkError, UnsupportedModelError, UsageError
from lrqk_cli.upstream import cache_argument

SMALL: dict[str, Any] = {"hot": 64, "top_k": 16, "recent": 8, "rank": 8}
# Says the same again and again, so that drafts are taken and refused.
REPEATED = torch.cat([random_tokens(12)] * 8).unsqueeze(0)


def generate(model: PreTrainedModel, attention: str = "lrqk", **options: Any) -> Any:
    with attach(model, LrqkConfig(attention=attention, **SMALL), context=256) as cache:  # type: ignore[arg-type]
        named = {cache_argument(): cache}
        return model.generate(REPEATED, **named, max_new_tokens=24, do_sample=False, **options)


@pytest.mark.parametrize("attention", ["dense", "offload"])
@pytest.mark.parametrize("drafts", ["prompt lookup", "another model"])
def test_drafts_leave_the_tokens_as_they_are(attention: str, drafts: str) -> None:
    model = tiny_model("llama")
    options: dict[str, Any] = (
        {"prompt_lookup_num_tokens": 3}
        if drafts == "prompt lookup"
        else {"assistant_model": tiny_model("llama", seed=1)}
    )
    assert torch.equal(generate(model, attention, **options), generate(model, attention))


@pytest.mark.parametrize(
    ("family", "attention", "reason"),
    [
        ("llama", "lrqk", "index and hot set"),
        ("gemma2", "lrqk", "index and hot set"),
        ("gemma2", "dense", "sliding window"),
        ("mistral-sliding", "lrqk", "sliding window"),
    ],
)
def test_drafts_are_refused_before_anything_is_computed(family: str, attention: str, reason: str) -> None:
    model = tiny_model(family)
    with attach(model, LrqkConfig(attention=attention, **SMALL), context=256) as cache:  # type: ignore[arg-type]
        assert not cache.is_croppable
        with pytest.raises(UsageError, match=reason):
            model.generate(
                REPEATED, **{cache_argument(): cache}, prompt_lookup_num_tokens=3, max_new_tokens=4
            )
        with pytest.raises(UsageError, match=reason):
            cache.crop(0)
        assert cache.get_seq_length() == 0


@pytest.mark.parametrize("attention", ["dense", "offload"])
@torch.no_grad()
def test_cropped_tokens_are_as_if_they_had_never_been(attention: str) -> None:
    model = tiny_model("llama")
    first, wrong, right = random_tokens(100).unsqueeze(0).split([60, 20, 20], dim=1)
    with attach(model, LrqkConfig(attention=attention, **SMALL), context=128) as cache:  # type: ignore[arg-type]
        named = {cache_argument(): cache}
        model(first, **named)
        early = cache.rewind_point()
        model(wrong, **named)
        late = cache.rewind_point()
        model(wrong[:, :1], **named)
        cache.crop(0)
        cache.crop(-21)
        assert cache.get_seq_length() == 60
        cropped = model(right, **named).logits
        with pytest.raises(UsageError):
            cache.rewind(late)
        cache.rewind(early)
        assert torch.equal(model(right, **named).logits, cropped)
        cache.reset()
        model(first, **named)
        assert torch.equal(model(right, **named).logits, cropped)
        for impossible in (1, -81):
            with pytest.raises(UsageError, match="of a cache of 80 tokens"):
                cache.crop(impossible)


def test_hidden_states_and_scores_are_given() -> None:
    model = tiny_model("llama")
    wanted = {"output_hidden_states": True, "output_scores": True, "output_logits": True}
    output = generate(model, return_dict_in_generate=True, **wanted)
    assert torch.equal(output.sequences, generate(model))
    assert len(output.hidden_states) == len(output.scores) == len(output.logits) == 24
    assert len(output.hidden_states[0]) == 3
    assert getattr(output, cache_argument()).get_seq_length() == REPEATED.shape[1] + 23


@pytest.mark.parametrize("generates", [False, True])
def test_a_cache_is_of_no_use_outside_its_context(generates: bool) -> None:
    model = tiny_model("llama")
    with attach(model, LrqkConfig(**SMALL), context=256) as cache:
        pass
    call = partial(model.generate, max_new_tokens=4) if generates else model
    with pytest.raises(UsageError, match="after the end of the attach"):
        call(REPEATED, **{cache_argument(): cache})


@pytest.mark.parametrize("generates", [False, True])
def test_without_a_cache_there_is_no_attention(generates: bool) -> None:
    model = tiny_model("llama")
    with attach(model, LrqkConfig(**SMALL), context=256) as cache:
        call = partial(model.generate, max_new_tokens=4) if generates else model
        with pytest.raises(LrqkError, match="use_cache=False"):
            call(REPEATED, **{cache_argument(): cache}, use_cache=False)
        with pytest.raises(LrqkError, match="without an LRQK cache"):
            call(REPEATED)


@pytest.mark.parametrize("attention", ["lrqk", "dense"])
def test_gradients_are_refused_where_they_are_asked_for(attention: str) -> None:
    model = tiny_model("llama")
    with attach(model, LrqkConfig(attention=attention, **SMALL), context=256) as cache:  # type: ignore[arg-type]
        output = model(REPEATED, **{cache_argument(): cache}, labels=REPEATED)
        with pytest.raises(UnsupportedModelError, match="no gradients"):
            output.loss.backward()
        cache.reset()
        with torch.no_grad():
            plain = model(REPEATED, **{cache_argument(): cache})
        assert not plain.logits.requires_grad
        assert torch.equal(plain.logits, output.logits)


@pytest.mark.parametrize("solver", ["joint", "als"])
def test_inference_mode_changes_nothing(solver: str) -> None:
    """Its tensors change in inference mode only, and layers are solved in other threads."""
    model, config = tiny_model("llama"), LrqkConfig(solver=solver, **SMALL)  # type: ignore[arg-type]
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), attach(model, config, context=256) as cache:
            named = {cache_argument(): cache}
            found.append(model.generate(REPEATED, **named, max_new_tokens=8, do_sample=False))
    assert torch.equal(*found)


@torch.no_grad()
def test_a_segment_that_is_refused_leaves_the_next_step_as_it_would_have_been() -> None:
    model, tokens = tiny_model("llama"), random_tokens(90).unsqueeze(0)
    found = []
    for refused in (False, True):
        with attach(model, LrqkConfig(**SMALL), context=80) as cache:
            named = {cache_argument(): cache}
            model(tokens[:, :70], **named)
            model(tokens[:, 70:71], **named)
            if refused:
                with pytest.raises(ContextLengthError):
                    model(tokens[:, 71:], **named)
            found.append(model(tokens[:, 71:72], **named).logits)
    assert torch.equal(*found)


@torch.no_grad()
def test_a_segment_that_is_interrupted_between_layers_leaves_no_codes_of_its_tokens() -> None:
    model, tokens = tiny_model("llama"), random_tokens(200).unsqueeze(0)
    with attach(model, LrqkConfig(**SMALL), context=256) as cache:
        named = {cache_argument(): cache}
        model(tokens[:, :100], **named)
        model(tokens[:, 100:101], **named)
        with (
            patch.object(cache.attention_layers[1], "attend_exactly", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            model(tokens[:, 101:105], **named)
        model(tokens[:, 150:154], **named)
        cache.finish_prefill()
        layer = cache.attention_layers[0]
        assert isinstance(layer, LrqkLayer)
        found = layer.index.codes[:, :105].clone()
        for key, _ in layer.store.stream(0, 105):
            layer.index.write(0, layer.projector.project_keys(key))
        assert torch.equal(found, layer.index.codes[:, :105])


@pytest.mark.parametrize("context", [-1, 0])
def test_a_context_that_is_none_is_refused(context: int) -> None:
    with (
        pytest.raises(UsageError, match="`context` must be at least 1"),
        attach(tiny_model("llama"), context=context),
    ):
        pass
