"""What an engine tells of where its answers looked."""

from __future__ import annotations

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli.attention.sources import retrieving_layers
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.models.support import spec_from_config

STEPS = 12


def weights_of_turns(settings: LrqkConfig, device: str, *, capture: bool = True) -> list[list[float]]:
    """Return the weights after each of two answers, the first of which is noted from its prompt on."""
    model = tiny_model("llama").to(device)
    spec = spec_from_config(model.config, "tiny")
    found = []
    with Engine(model, spec, settings, context=300) as engine:
        list(engine.prefill(random_tokens(20).tolist()))
        assert engine.source_weights() is None
        engine.track_sources(True)
        engine._decoder._plain._can_capture &= capture
        for seed, count in ((1, 130), (2, 60)):
            list(engine.prefill(random_tokens(count, seed=seed).tolist()))
            list(engine.generate(GenerationConfig(max_new_tokens=STEPS), stop_ids=()))
            weights = engine.source_weights()
            assert weights is not None
            found.append(weights)
        assert engine._decoder.is_captured == (capture and device == "cuda")
        assert engine.length == len(found[-1]) + 1
    # Of the steps, the last token has not gone in; the prompt's newest has.
    rows = STEPS * spec.num_heads * len(retrieving_layers(spec))
    for weights in found:
        assert abs(sum(weights) - rows) < 1e-2
    return found


@pytest.mark.parametrize(
    "settings",
    [LrqkConfig(hot=40, top_k=16, recent=8, rank=8), LrqkConfig(attention="dense")],
    ids=["lrqk", "dense"],
)
class TestWeights:
    def test_each_answer_has_its_own(self, settings):
        first, second = weights_of_turns(settings, "cpu")
        assert len(second) == len(first) + 60 + STEPS
        assert first != second[: len(first)]

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_a_replayed_graph_notes_what_single_kernels_do(self, settings):
        replayed = weights_of_turns(settings, "cuda")
        single = weights_of_turns(settings, "cuda", capture=False)
        for ours, theirs in zip(replayed, single, strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-4, rtol=1e-3)
