"""With everything resident, and in every baseline, logits equal full attention's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import FAMILIES, KNOWN, full_attention_logits, random_tokens, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lrqk_cli import attach
from lrqk_cli.attention.cache import LrqkCache
from lrqk_cli.attention.hook import attached
from lrqk_cli.config import AlsConfig, LrqkConfig
from lrqk_cli.memory import activations
from lrqk_cli.models.support import spec_from_config
from lrqk_cli.upstream import cache_argument

pytestmark = pytest.mark.short

TOLERANCE = 1e-4
PROMPT, ANSWER, SECOND_TURN = 120, 8, 30


METHODS: dict[str, dict[str, Any]] = {
    "als": {"solver": "als"},
    "head": {"grouping": "head"},
    "paper": {
        "solver": "als",
        "grouping": "head",
        "hot_policy": "exact",
        "tail": "none",
        "index_bits": 16,
    },
    "refetch": {"solver": "als", "hot_policy": "refetch", "als": AlsConfig("topcol")},
}


def replay(model: PreTrainedModel, cache: LrqkCache, tokens: Tensor, segment: int) -> Tensor:
    """Feed two turns: a prompt in segments, an answer token by token, another turn, another answer."""
    logits = []

    def feed(start: int, stop: int, step: int, prefill: bool) -> None:
        for first in range(start, stop, step):
            part = tokens[first : min(first + step, stop)].unsqueeze(0)
            if prefill:
                with cache.prefilling():
                    logits.append(model(part, **{cache_argument(): cache}).logits[0])
            else:
                logits.append(model(part, **{cache_argument(): cache}).logits[0])

    second = PROMPT + ANSWER
    feed(0, PROMPT, segment, True)
    feed(PROMPT, second, 1, False)
    feed(second, second + SECOND_TURN, segment, True)
    feed(second + SECOND_TURN, len(tokens), 1, False)
    return torch.cat(logits)


@pytest.mark.parametrize("segment", [1, 7, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_lrqk_equals_full_attention_when_everything_is_resident(family: str, segment: int) -> None:
    model = tiny_model(family)
    tokens = random_tokens(PROMPT + ANSWER + SECOND_TURN + ANSWER)
    expected = full_attention_logits(model, tokens)
    with torch.no_grad(), attach(model, LrqkConfig(hot=256, top_k=64, recent=16), context=512) as cache:
        actual = replay(model, cache, tokens, segment)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", [*KNOWN, "qwen3.5", "gemma4-shared", "deepseek-v3"])
def test_every_method_equals_full_attention_when_everything_is_resident(family: str, method: str) -> None:
    model = tiny_model(family)
    tokens = random_tokens(PROMPT + ANSWER + SECOND_TURN + ANSWER)
    expected = full_attention_logits(model, tokens)
    settings = LrqkConfig(hot=256, top_k=256, recent=16, rank=4, **METHODS[method])
    with torch.no_grad(), attach(model, settings, context=512) as cache:
        actual = replay(model, cache, tokens, 50)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("mode", ["dense", "offload"])
@pytest.mark.parametrize("family", FAMILIES)
def test_baselines_equal_full_attention(family: str, mode: str) -> None:
    model = tiny_model(family)
    tokens = random_tokens(PROMPT + ANSWER + SECOND_TURN + ANSWER)
    expected = full_attention_logits(model, tokens)
    with torch.no_grad(), attach(model, LrqkConfig(attention=mode), context=512) as cache:
        actual = replay(model, cache, tokens, 50)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("family", "method"),
    [*((family, {}) for family in FAMILIES), *(("gpt-oss", m) for m in METHODS.values())],
)
def test_demanding_every_row_equals_full_attention_while_rows_travel(
    family: str, method: dict[str, Any]
) -> None:
    """A hot set a few rows too small for the text: rows are fetched and evicted, and little can be lost."""
    model = tiny_model(family)
    tokens = random_tokens(PROMPT + 4 * ANSWER)
    expected = full_attention_logits(model, tokens)
    sizes: dict[str, Any] = {"hot": PROMPT - 20, "top_k": PROMPT - 20, "recent": 16, "rank": 16}
    settings = LrqkConfig(**{**sizes, "index_bits": 16, **method})
    with torch.no_grad(), attach(model, settings, context=512) as cache:
        prompt = model(tokens[:PROMPT].unsqueeze(0), **{cache_argument(): cache}).logits[0]
        answer = [model(t.view(1, 1), **{cache_argument(): cache}).logits[0] for t in tokens[PROMPT:]]
        stats = cache.counters.take()
    torch.testing.assert_close(prompt, expected[:PROMPT], atol=TOLERANCE, rtol=0)
    reference = expected[PROMPT:].log_softmax(-1)
    divergence = reference.exp() * (reference - torch.cat(answer).log_softmax(-1))
    assert divergence.sum(-1).mean() < 0.01
    if "full" in cache.spec.layer_kinds:
        assert stats.rows_fetched > 0
        assert (stats.rows_fetched < stats.rows_wanted) == (settings.hot_policy != "refetch")


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_gives_the_tokens_of_full_attention(family: str) -> None:
    model = tiny_model(family)
    prompt = random_tokens(60).unsqueeze(0)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(prompt)
    model.set_attn_implementation("eager")
    expected = model.generate(prompt, attention_mask=mask, **options)
    with attach(model, LrqkConfig(hot=128, top_k=32, recent=8), context=256) as cache:
        actual = model.generate(prompt, attention_mask=mask, **{cache_argument(): cache}, **options)
    assert actual.tolist() == expected.tolist()
    assert model.config._attn_implementation == "eager"
    assert cache.get_seq_length() == prompt.shape[1] + 11


@pytest.mark.parametrize("segment", [40, 120])
def test_chunks_that_are_merged_give_the_logits_of_one(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in 8 bits, which come in chunks on a CPU too: two and more merges, the later ones in place."""
    model = tiny_model("llama")
    settings = LrqkConfig(hot=512, top_k=64, recent=16, kv_dtype="int8")
    spec, tokens = spec_from_config(model.config, "llama"), random_tokens(PROMPT + SECOND_TURN + 2 * ANSWER)
    found = []
    for rows in (8192, 7):
        monkeypatch.setattr(activations, "STREAM_ROWS", rows)
        cache = LrqkCache(spec, settings, 256, model.dtype, torch.device("cpu"))
        with torch.no_grad(), attached(model):
            found.append(replay(model, cache, tokens, segment))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)
