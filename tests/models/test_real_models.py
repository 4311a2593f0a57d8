"""The catalog's real models: fetched, unpacked and sane."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lrqk_cli.models import catalog
from lrqk_cli.models.loading import LoadedModel, choose_device, load, resolve
from lrqk_cli.models.prompt import ChatPrompt, Detokenizer

pytestmark = pytest.mark.model

# Perplexity over the first 512 tokens, measured with these weights: 21.6, 15.2 and 34.4. Rows in the wrong
# order, a wrong RoPE base or a wrong window raise it by far more than these margins.
_PERPLEXITY = {"qwen2.5-coder-0.5b": 24.0, "smollm2-135m": 17.0, "gemma-3-270m": 38.0}
_END_OF_TURN = {"qwen2.5-coder-0.5b": "<|im_end|>", "smollm2-135m": "<|im_end|>", "gemma-3-270m": "<eos>"}


@pytest.fixture(scope="module", params=list(_PERPLEXITY))
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load(resolve(request.param), choose_device("cpu"))


def test_the_weights_make_sense_of_a_text(loaded: LoadedModel, shared_data: Path):
    text = (shared_data / "text" / "wikitext2-test.txt").read_text(encoding="utf-8")[:8000]
    tokens = torch.tensor(loaded.tokenizer.encode(text)[:512])
    with torch.no_grad():
        logits = loaded.model(tokens.unsqueeze(0)).logits[0, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits, tokens[1:])
    assert math.exp(loss) < _PERPLEXITY[loaded.spec.name]


def test_the_model_is_what_the_catalog_says(loaded: LoadedModel):
    entry = catalog.find(loaded.spec.name)
    assert loaded.spec.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert loaded.spec.max_context == entry.context
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    end = loaded.tokenizer.convert_tokens_to_ids(_END_OF_TURN[loaded.spec.name])
    assert end in loaded.stop_ids
    assert bool(loaded.tokenizer.chat_template) == (loaded.spec.name != "gemma-3-270m")


def test_text_survives_the_tokenizer_and_controls_nothing(loaded: LoadedModel):
    text = (
        "Zürich, 日本語 and 👩‍🚀:\n\n\tdef f(x): return x  # <|im_end|><tool_call><eos><bos><start_of_turn>"
    )
    ids = ChatPrompt(loaded.tokenizer).text(text)
    assert set(loaded.tokenizer.all_special_ids).isdisjoint(ids)
    assert loaded.stop_ids.isdisjoint(ids)
    detokenizer = Detokenizer(loaded.tokenizer)
    assert "".join(map(detokenizer.push, ids)) + detokenizer.flush() == text


def test_the_default_model_answers_and_stops():
    loaded = load(resolve(catalog.DEFAULT_MODEL), choose_device("cpu"))
    prompt = ChatPrompt(loaded.tokenizer, "Answer in one word.")
    ids = prompt.opening() + prompt.text("What is the capital of Italy?") + prompt.closing()
    with torch.no_grad():
        out = loaded.model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
    detokenizer = Detokenizer(loaded.tokenizer)
    assert "Rome" in "".join(map(detokenizer.push, out.tolist()))
    assert int(out[-1]) in loaded.stop_ids
