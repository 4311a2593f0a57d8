"""Which token comes next."""

from __future__ import annotations

import pytest
import torch
from constraints import Allowed

from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.sampling import ObservedSampler, Sampler, largest, likeliest
from lrqk_cli.errors import ModelError


@pytest.mark.parametrize("vocab", [1, 2, 97, 512, 49152, 128256, 151936])
def test_the_largest_logit_is_found_wherever_it_stands(vocab: int) -> None:
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab))
    for place in {0, vocab // 3, vocab - 1}:
        risen = logits.index_fill(0, torch.tensor([place]), 100.0)
        assert int(largest(risen)[1]) == place
    assert int(largest(logits)[1]) == int(logits.argmax())


def test_the_first_of_equal_logits_is_chosen() -> None:
    assert int(largest(torch.tensor([0.0, 3.0, 1.0, 3.0] * 256))[1]) == 1


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_have_no_likeliest_token(broken: float) -> None:
    logits = torch.randn(512, generator=torch.Generator().manual_seed(1))
    assert int(likeliest(logits)) == int(logits.argmax())
    assert int(likeliest(logits.index_fill(0, torch.tensor([7]), broken))) == -1
    assert int(likeliest(torch.full_like(logits, -torch.inf))) == -1


@pytest.mark.parametrize("known", [50, 97, 128], ids=["padded-logits", "all", "padded-mask"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5}, {"temperature": 1.0, "sample_top_k": 5}])
def test_only_allowed_tokens_are_chosen(known: int, settings: dict[str, float]) -> None:
    generation = GenerationConfig(repetition_penalty=1.2, top_p=0.9, seed=3, **settings)  # type: ignore[arg-type]
    constraint = Allowed(known, [7, 30])
    sampler = ObservedSampler(generation, torch.device("cpu"), constraint, None)
    random = torch.Generator().manual_seed(0)
    chosen = [sampler.choose(4 * torch.randn(97, generator=random), [1, 96]) for _ in range(50)]
    assert {*chosen} == {7, 30}
    assert constraint.accepted == chosen
    assert sampler.logprobs is None


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}], ids=str)
def test_a_constraint_hides_no_logit_that_is_no_number(settings: dict[str, float]) -> None:
    logits = torch.zeros(97).index_fill(0, torch.tensor([40]), torch.nan)
    sampler = ObservedSampler(GenerationConfig(**settings), torch.device("cpu"), Allowed(97, [5]), 3)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="not finite"):
        sampler.choose(logits, [])


def test_the_lowest_temperatures_take_the_likeliest_token() -> None:
    sampler = Sampler(GenerationConfig(temperature=1e-40, seed=1), torch.device("cpu"))
    assert sampler.choose(torch.linspace(-30.0, 30.0, 97), []) == 96


def test_log_probabilities_are_those_of_the_model_itself() -> None:
    logits = torch.randn(97, generator=torch.Generator().manual_seed(1))
    expected = torch.log_softmax(logits.double(), dim=0)
    generation = GenerationConfig(temperature=0.1, repetition_penalty=2.0)
    sampler = ObservedSampler(generation, torch.device("cpu"), Allowed(97, [5]), 3)
    assert sampler.choose(logits, [5]) == 5
    noted = sampler.logprobs
    assert noted is not None
    assert noted.logprob == pytest.approx(float(expected[5]), abs=1e-5)
    assert [token for token, _ in noted.top] == expected.topk(3).indices.tolist()
    assert [logprob for _, logprob in noted.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)
