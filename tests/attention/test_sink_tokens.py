"""The first tokens stay resident, whatever the index holds of them."""

from __future__ import annotations

import pytest
import torch
from tiny import random_tokens, tiny_model
from torch import Tensor

from lrqk_cli.attention.lrqk_layer import LrqkLayer
from lrqk_cli.attention.plain_step import PlainStep
from lrqk_cli.config import HotPolicy, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.kernels.select_rows import reference
from lrqk_cli.models.support import spec_from_config

PROMPT, STEPS = 200, 6


def layers_of(engine: Engine) -> list[LrqkLayer]:
    return [layer for layer in engine.cache.attention_layers if isinstance(layer, LrqkLayer)]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("top_k", "policy", "kept"), [(32, "sticky", 4), (8, "sticky", 4), (7, "sticky", 0), (32, "exact", 0)]
)
def test_an_index_that_takes_the_first_tokens_for_needless_does_not_lose_them(
    top_k: int, policy: HotPolicy, kept: int, on_device: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_the_first(scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[..., :4] = scores.min() - 100.0
        return scores

    plain, binned = PlainStep.fetch, reference.bin_scores
    monkeypatch.setattr(
        PlainStep, "fetch", lambda step, scores, wanted: plain(step, without_the_first(scores), wanted)
    )

    def bin_scores(scores: reference.TokenScores, *others: object) -> None:
        binned(scores._replace(logits=without_the_first(scores.logits)), *others)

    monkeypatch.setattr(reference, "bin_scores", bin_scores)
    monkeypatch.setattr("lrqk_cli.attention.cache.has_device_steps", lambda *_: on_device)
    monkeypatch.setattr("lrqk_cli.engine.decode.FixedStep._capture", lambda _: None)
    model = tiny_model("llama")
    settings = LrqkConfig(rank=8, hot=128, top_k=top_k, recent=8, hot_policy=policy)
    assert settings.sink_tokens == kept
    with Engine(model, spec_from_config(model.config, "tiny"), settings, 256) as engine:
        list(engine.prefill(random_tokens(PROMPT).tolist()))
        for token in [None, *random_tokens(STEPS, seed=1).tolist()]:
            if token is not None:
                engine.append(token)
            for layer in layers_of(engine):
                assert layer.hot.resident[:, :kept].all()
                if not kept:
                    assert not layer.hot.resident[:, :4].any()
                assert torch.equal(layer.hot.resident.sum(1), torch.full((2,), layer.hot.size))
