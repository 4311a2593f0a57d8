"""The prefix cache where rows are in pinned memory or on the device, and steps are replayed from a graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import random_tokens, tiny_model

from lrqk_cli.config import AttentionMode, GenerationConfig, KvDtype, LrqkConfig
from lrqk_cli.engine import prefix
from lrqk_cli.engine.generate import Engine
from lrqk_cli.engine.prefix import PrefixKeeper
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.prefix_cache.store import PrefixStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TEXT, QUESTION = random_tokens(900, 1).tolist(), random_tokens(9, 2).tolist()


@pytest.mark.parametrize(
    ("attention", "kv_dtype"),
    [("lrqk", "bf16"), ("dense", "bf16"), ("offload", "bf16"), ("lrqk", "int8"), ("offload", "fp8")],
)
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss"])
def test_a_restored_text_gives_the_same_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, attention: AttentionMode, kv_dtype: KvDtype
) -> None:
    """The blocks are written while steps are captured; the text is long enough for factors fitted ahead."""
    monkeypatch.setattr(prefix, "BLOCK_TOKENS", 128)
    model = tiny_model(family).to("cuda")
    spec = spec_from_config(model.config, "tiny")
    config = LrqkConfig(attention, hot=40, top_k=16, recent=8, rank=8, segment=64, kv_dtype=kv_dtype)
    found = []
    for restored in (0, len(TEXT)):
        with Engine(model, spec, config, 1200) as engine:
            keeper = PrefixKeeper(engine, PrefixStore(tmp_path, 1 << 30), dict, worth_seconds=0.0)
            assert keeper.restore([*TEXT, *QUESTION]) == restored
            for _ in engine.prefill(TEXT[restored:]):
                keeper.segment_done(
                    is_end=engine.length == len(TEXT), expected_tokens=1, expected_seconds=1.0
                )
            list(engine.prefill(QUESTION))
            generation = GenerationConfig(max_new_tokens=24, temperature=0.0)
            steps = [step.token for step in engine.generate(generation, stop_ids=())]
            assert engine._decoder.is_captured == (attention != "offload" and family != "gpt-oss")
            found.append((steps, engine.next_logits().float().clone()))
            keeper.writer.close()
    (expected, logits), (tokens, restored_logits) = found
    assert tokens == expected
    torch.testing.assert_close(restored_logits, logits, atol=1e-5, rtol=0)
