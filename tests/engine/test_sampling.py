"""Which token comes next."""

from __future__ import annotations

import pytest
import torch

from lrqk_cli.engine.sampling import largest, likeliest


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
