"""Which matrix gets which format, and what that takes, counted with and without a built model."""

from __future__ import annotations

import pytest
from tiny import KNOWN, tiny_model

from lrqk_cli.formats import FORMATS
from lrqk_cli.models.families import family_of, is_tied, matrices
from lrqk_cli.models.matrices import matrices_of
from lrqk_cli.models.mixes import Matrix, format_of


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", KNOWN)
def test_matrices_of_a_known_family_are_those_of_the_built_model(family: str, tied: bool) -> None:
    model = tiny_model(family, tie_word_embeddings=tied)
    known = family_of(model.config)
    assert known is not None
    assert is_tied(model.config) is tied
    head_dim = model.config.head_dim if hasattr(model.config, "head_dim") else 8
    assert set(matrices(model.config, known, head_dim or 8)) == set(matrices_of(model))


def test_four_bits_are_those_of_llama_cpp() -> None:
    """The types that llama.cpp's quantize prints for Llama-3.1-8B in Q4_K_M, 32 layers."""

    def name(path: str, width: int = 4096, *, is_embedding: bool = False, is_tied: bool = False) -> str:
        found = format_of("q4", Matrix(path, 64, width, is_embedding), 32, is_tied=is_tied)
        assert found is not None
        return found.name

    finer = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
    for part in ("self_attn.v_proj", "mlp.down_proj"):
        found = {layer for layer in range(32) if name(f"model.layers.{layer}.{part}") == "Q6_K"}
        assert found == finer
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj"):
        assert {name(f"model.layers.{layer}.{part}") for layer in range(32)} == {"Q4_K"}
    assert (name("lm_head"), name("model.embed_tokens", is_embedding=True)) == ("Q6_K", "Q4_K")
    assert name("model.embed_tokens", is_embedding=True, is_tied=True) == "Q6_K"
    # Qwen2.5-0.5B's rows of 896, see its published Q4_K_M.
    assert (name("lm_head", 896), name("model.layers.7.self_attn.q_proj", 896)) == ("Q8_0", "Q5_0")


def test_eight_bits_are_one_format_and_short_rows_have_none() -> None:
    assert format_of("q8", Matrix("lm_head", 64, 32), 2, is_tied=False) is FORMATS["Q8_0"]
    assert format_of("q8", Matrix("lm_head", 64, 48), 2, is_tied=False) is None
    assert format_of("q4", Matrix("lm_head", 64, 48), 2, is_tied=False) is None
