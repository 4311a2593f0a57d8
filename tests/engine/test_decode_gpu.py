"""Decode steps replayed from a CUDA graph, beside the same steps run one kernel after another."""

from __future__ import annotations

import pytest
import torch
from constraints import Allowed
from packed import pack
from tiny import FAMILIES, random_tokens, tiny_model
from transformers import PreTrainedModel

from lrqk_cli.config import AttentionMode, GenerationConfig, KvDtype, LrqkConfig
from lrqk_cli.engine.generate import Engine
from lrqk_cli.errors import ModelError
from lrqk_cli.memory import managed
from lrqk_cli.memory.accounting import TensorShape
from lrqk_cli.model_spec import ModelSpec
from lrqk_cli.models.loading import load, resolve
from lrqk_cli.models.support import spec_from_config

# Which experts a token goes to is read back in every step, which a graph cannot do, unless they are packed.
MIXTURES = {"gpt-oss", "qwen3-moe", "qwen3-next", "qwen3.5-moe", "lfm2-moe", "granite-hybrid", "nemotron-h"}
LATENT = {"deepseek-v2", "deepseek-v3", "glm4-moe-lite", "mistral4"}
STAYS_EAGER = MIXTURES | LATENT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def greedy(
    model: PreTrainedModel,
    spec: ModelSpec,
    settings: LrqkConfig,
    turns: list[list[int]],
    count: int,
    *,
    capture: bool,
    stays_eager: bool = False,
) -> list[int]:
    """Return the greedy tokens of all turns."""
    tokens = []
    generation = GenerationConfig(max_new_tokens=count)
    with Engine(model, spec, settings, context=sum(map(len, turns)) + len(turns) * count) as engine:
        engine._decoder._plain._can_capture &= capture
        for turn in turns:
            list(engine.prefill(turn))
            tokens += [step.token for step in engine.generate(generation, stop_ids=())]
        assert engine._decoder.is_captured == (capture and not stays_eager)
    return tokens


@pytest.mark.parametrize(
    ("attention", "kv_dtype"), [("lrqk", "bf16"), ("dense", "bf16"), ("lrqk", "int8"), ("lrqk", "fp8")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_graph_gives_the_tokens_of_single_kernels(
    family: str, attention: AttentionMode, kv_dtype: KvDtype
) -> None:
    if family in LATENT and kv_dtype != "bf16":
        pytest.skip("rows of latent attention are not quantised")
    model = tiny_model(family).to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(attention, hot=40, top_k=16, recent=8, rank=8, kv_dtype=kv_dtype)
    turns = [random_tokens(150, seed=1).tolist(), random_tokens(70, seed=2).tolist()]
    replayed = greedy(model, spec, settings, turns, 24, capture=True, stays_eager=family in STAYS_EAGER)
    assert replayed == greedy(model, spec, settings, turns, 24, capture=False)


@pytest.mark.parametrize("lookup", [0, 3])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3.5", "gemma4-shared"])
def test_an_answer_outgrows_the_hot_set_as_with_single_kernels(family: str, lookup: int) -> None:
    """The first turn fits with its answer, the answer of the second does not, and the third begins so."""
    model = tiny_model(family).to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(hot=120, top_k=16, recent=8, rank=8, lookup=lookup)
    turns = [random_tokens(count, seed=count).tolist() for count in (30, 41, 12)]
    replayed = greedy(model, spec, settings, turns, 48, capture=True)
    assert replayed == greedy(model, spec, settings, turns, 48, capture=False)
    # Full attention, as long as all rows are resident.
    dense = greedy(model, spec, LrqkConfig("dense"), turns[:1], 48, capture=False)
    assert replayed[:48] == dense


def test_a_new_conversation_begins_without_an_index_again() -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(hot=64, top_k=16, recent=8, rank=8)
    generation = GenerationConfig(max_new_tokens=60)
    with Engine(model, spec, settings, context=300) as engine:
        answers = []
        for _ in range(3):
            list(engine.prefill(random_tokens(40).tolist()))
            assert not any(layer.fit.tokens for layer in engine.cache.lrqk_layers)
            steps = engine.generate(generation, stop_ids=())
            answers.append([step.token for step in steps])
            assert all(layer.fit.tokens == 40 for layer in engine.cache.lrqk_layers)
            assert engine.totals.rows_wanted > 0
            engine.reset()
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("family", ["gpt-oss", "qwen3-moe", "qwen3-next", "qwen3.5-moe", "lfm2-moe"])
def test_packed_experts_are_replayed_too_for_256_steps(family: str) -> None:
    model = tiny_model(family, intermediate_size=64)
    pack(model, "q8")
    model = model.to("cuda")
    spec = spec_from_config(model.config, "tiny")
    settings = LrqkConfig(hot=40, top_k=16, recent=8, rank=8)
    turns = [random_tokens(150, seed=1).tolist(), random_tokens(70, seed=2).tolist()]
    replayed = greedy(model, spec, settings, turns, 128, capture=True)
    assert replayed == greedy(model, spec, settings, turns, 128, capture=False)


@pytest.mark.model
def test_a_real_model_gives_the_same_256_tokens() -> None:
    loaded = load(resolve("smollm2-135m"))
    turns = [random_tokens(3000, seed=3).tolist()]
    settings = LrqkConfig(hot=512, top_k=128)
    replayed = greedy(loaded.model, loaded.spec, settings, turns, 256, capture=True)
    assert replayed == greedy(loaded.model, loaded.spec, settings, turns, 256, capture=False)


def test_a_replayed_step_takes_whatever_token_it_is_given() -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    prompt, follow = random_tokens(150, seed=1).tolist(), random_tokens(12, seed=2).tolist()
    logits: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for capture, found in logits.items():
        with Engine(model, spec, LrqkConfig(hot=40, top_k=16, recent=8, rank=8), context=200) as engine:
            engine._decoder._plain._can_capture &= capture
            list(engine.prefill(prompt))
            for token in follow:
                engine.append(token)
                found.append(engine.next_logits().clone())
                # What it would have chosen is read, and something else goes in.
                chosen = engine._decoder.likeliest(engine.next_logits())
                assert chosen is None or chosen == int(found[-1].argmax())
            assert engine._decoder.is_captured == capture
    for expected, replayed in zip(logits[False], logits[True], strict=True):
        torch.testing.assert_close(replayed, expected, rtol=0, atol=0)


def test_a_constraint_chooses_from_the_logits_of_replayed_steps() -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    known = int(model.config.vocab_size)
    answers = []
    for capture in (True, False):
        with Engine(model, spec, LrqkConfig(hot=40, top_k=16, recent=8, rank=8), context=200) as engine:
            engine._decoder._plain._can_capture &= capture
            engine.uses_lookup = False  # verify steps are captured by themselves
            list(engine.prefill(random_tokens(150, seed=1).tolist()))
            constraint = Allowed(known, range(0, known, 3))
            steps = list(engine.generate(GenerationConfig(max_new_tokens=24), (), constraint, 2))
            assert engine._decoder.is_captured == capture
        assert constraint.accepted == [step.token for step in steps]
        assert all(token % 3 == 0 for token in constraint.accepted)
        answers.append([(step.token, step.logprobs) for step in steps])
    assert answers[0] == answers[1]


def test_memory_that_is_dropped_within_a_capture_does_not_spoil_it() -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    rows = [managed.empty_managed(TensorShape((1000,), "float32"), torch.device("cuda"))]
    if rows[0] is None:
        pytest.skip("needs managed memory")

    def drop(*_: object) -> None:
        if torch.cuda.is_current_stream_capturing():
            rows.clear()

    model.register_forward_pre_hook(drop)
    with Engine(model, spec, LrqkConfig(hot=40, top_k=16, recent=8, rank=8), context=200) as engine:
        engine.uses_lookup = False  # the capture of a verify step would be the first
        list(engine.prefill(random_tokens(150, seed=1).tolist()))
        list(engine.generate(GenerationConfig(max_new_tokens=5), ()))
        assert engine._decoder.is_captured
    assert not rows
    assert not managed._waiting


def test_a_replayed_step_that_computes_no_numbers_is_an_error() -> None:
    model = tiny_model("llama").to("cuda")
    spec = spec_from_config(model.config, "tiny")
    with Engine(model, spec, LrqkConfig(hot=40, top_k=16, recent=8, rank=8), context=200) as engine:
        list(engine.prefill(random_tokens(150, seed=1).tolist()))
        steps = engine.generate(GenerationConfig(max_new_tokens=20), stop_ids=())
        for _ in range(5):
            next(steps)
        assert engine._decoder.is_captured
        model.model.norm.weight.data.fill_(torch.nan)
        with pytest.raises(ModelError):
            list(steps)
        assert engine.length == 0
